//! `[proxy]`: what every request on its way up carries.

use serde::{Deserialize, Serialize};

use super::check::Check;

/// What upstreams are told, on every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// In which words they are told who calls.
    pub identity: IdentityWords,
    /// What happens without a `traceparent`.
    pub traceparent: Traceparent,
    /// Whether `Forwarded` (RFC 7239) is sent beside `X-Forwarded-*`.
    pub forwarded: bool,
}

impl ProxyConfig {
    /// Where the gateway draws which requests are recorded, what it did not draw is not said to be.
    #[must_use]
    pub fn beside_spans(self) -> Self {
        match self.traceparent {
            Traceparent::Sampled => Self { traceparent: Traceparent::Unsampled, ..self },
            Traceparent::Unsampled | Traceparent::Pass => self,
        }
    }
}

/// `proxy.identity`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityWords {
    /// `X-Octroi-*`
    Octroi,
    /// And `X-Consumer-*`, as Kong sends them.
    Kong,
}

/// `proxy.traceparent`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traceparent {
    /// One is made, whose trace is recorded.
    Sampled,
    /// One is made, whose trace is not recorded.
    Unsampled,
    /// None is made.
    Pass,
}

/// `[proxy]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProxy {
    identity: String,
    traceparent: String,
    forwarded: bool,
}

impl Default for RawProxy {
    fn default() -> Self {
        Self {
            identity: "octroi".to_owned(),
            // Services that sample by their parent, as OpenTelemetry does unless told otherwise, would
            // record nothing any more behind one that is not sampled.
            traceparent: "sampled".to_owned(),
            forwarded: false,
        }
    }
}

impl RawProxy {
    pub(super) fn resolve(&self, check: &Check<'_>) -> ProxyConfig {
        let identities = [("octroi", IdentityWords::Octroi), ("kong", IdentityWords::Kong)];
        let traceparents =
            [("sampled", Traceparent::Sampled), ("unsampled", Traceparent::Unsampled), ("pass", Traceparent::Pass)];
        ProxyConfig {
            identity: check.choice("identity", &self.identity, &identities),
            traceparent: check.choice("traceparent", &self.traceparent, &traceparents),
            forwarded: self.forwarded,
        }
    }
}
