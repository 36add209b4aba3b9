//! Sinks, resolved: where usage events go besides the store, and how much may wait for them.
//! What TOML may say, and what is checked, stands in `sinks_raw`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::problem::Problem;
use crate::model::secret::{SecretBytes, SecretText};

/// All sinks, and the bounds of what waits for them.
#[derive(Clone, Debug)]
pub struct SinksConfig {
    /// In the file's order.
    pub sinks: Vec<SinkConfig>,
    /// How much may wait.
    pub outbox_max_bytes: u64,
    /// For how long.
    pub outbox_keep: Duration,
}

impl SinksConfig {
    /// What a gateway needs and other commands do not: each sink's secrets.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn require_secrets(&self) -> Result<(), Problem> {
        self.sinks.iter().find_map(|sink| sink.missing.clone()).map_or(Ok(()), Err)
    }
}

/// A sink.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// In metrics, logs and names of files.
    pub name: String,
    /// The most records it gets at a time.
    pub batch: usize,
    /// How long records may gather.
    pub interval: Duration,
    /// Whether it gets usage events.
    pub usage: bool,
    /// Whether it gets the marks of quotas.
    pub marks: bool,
    /// What it is.
    pub kind: SinkKind,
    /// A secret that it needs and nobody has given; then an empty one stands in.
    pub(super) missing: Option<Problem>,
}

#[cfg(test)]
impl SinkConfig {
    /// A sink of usage that lacks nothing.
    pub(crate) fn complete(name: &str, kind: SinkKind) -> Self {
        let (interval, missing) = (Duration::from_millis(1), None);
        Self { name: name.to_owned(), batch: 100, interval, usage: true, marks: false, kind, missing }
    }
}

/// The kinds of sinks.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// CloudEvents over HTTP, as OpenMeter takes them.
    CloudEvents {
        /// Where.
        endpoint: Endpoint,
        /// Who we are: a bearer token.
        token: Option<SecretText>,
        /// What batches are signed with.
        signing_secret: Option<SecretBytes>,
        /// `source` of the events.
        source: String,
        /// `type` of the events.
        event_type: String,
    },
    /// A webhook, signed as Standard Webhooks says.
    Webhook {
        /// Where.
        endpoint: Endpoint,
        /// What it is signed with.
        signing_secret: SecretBytes,
    },
    /// Meter events of Stripe.
    Stripe {
        /// Where.
        endpoint: Endpoint,
        /// The secret key.
        token: SecretText,
        /// The meter's `event_name`.
        event_name: String,
        /// What is counted.
        value: MeteredValue,
        /// For each client's id, the customer's.
        customers: BTreeMap<String, String>,
    },
    /// Events of Lago.
    Lago {
        /// Where.
        endpoint: Endpoint,
        /// The API key.
        token: SecretText,
        /// The billable metric's `code`.
        code: String,
        /// For each client's id, the subscription's; of clients that are not named, it is their own id.
        customers: BTreeMap<String, String>,
    },
    /// Files of JSON lines.
    Ndjson {
        /// The folder.
        dir: PathBuf,
        /// A file is closed at this size,
        rotate_bytes: u64,
        /// and at this age.
        rotate_interval: Duration,
    },
    /// A stream of NATS JetStream.
    Nats {
        /// `nats://` or `tls://`.
        endpoint: Endpoint,
        /// The subject that a stream takes in.
        subject: String,
        /// The user; then the token is its password.
        user: String,
        /// The token.
        token: Option<SecretText>,
    },
}

/// Where a sink is reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The address.
    pub url: Url,
    /// The certificate authorities its server may have; none: the web's.
    pub ca_file: Option<PathBuf>,
    /// Whether it may lie in a private network, or on this machine.
    pub allow_private_addresses: bool,
    /// For one exchange.
    pub timeout: Duration,
}

/// What of an event is counted elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeteredValue {
    /// Its units.
    Units,
    /// One for each event that cost something.
    Requests,
}
