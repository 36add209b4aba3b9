//! Why a request was or would be answered as it is, and what goes on: what a gateway tells those who
//! operate it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::id::{ApiKeyId, ClientId};
use super::secret::SecretText;

/// A request that might be sent, or was.
#[derive(Clone, Debug)]
pub struct Question {
    /// `GET`, `POST` …
    pub method: String,
    /// Where it would come to.
    pub place: Place,
    /// With what it would come.
    pub proof: Proof,
    /// From where it would come.
    pub address: Option<std::net::IpAddr>,
}

/// Where a request would come to.
#[derive(Clone, Debug)]
pub enum Place {
    /// What it asks for: which route that is has to be found.
    Target {
        /// `Host`; empty: none.
        host: String,
        /// Path and query.
        target: String,
    },
    /// The route of this name, as was found once.
    Route(String),
}

/// With what a request would come, to say who it is from.
#[derive(Clone, Debug)]
pub enum Proof {
    /// With nothing.
    Nothing,
    /// With this key.
    Key(ApiKeyId),
    /// With this token.
    Token(SecretText),
    /// With what is not kept: it was found to be this client's, and to stand for this key.
    Client(ClientId, Option<ApiKeyId>),
    /// With what is not kept: nobody was found by it.
    Unknown {
        /// What the caller was sent.
        status: u16,
        /// What the caller was told.
        code: String,
        /// Why, in truth.
        reason: String,
    },
}

/// Where a decision stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Like `routes[2].auth`.
    pub path: String,
    /// What is in force there.
    pub value: String,
    /// The file and line it is written at, like `/etc/octroi/octroi.toml:41`; null: it is not written,
    /// and the default holds, or it came by the environment.
    pub written_at: Option<String>,
}

/// What a step of the walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// It passes.
    Passes,
    /// It is refused here.
    Refuses,
    /// It is worth knowing, and decides nothing.
    Notes,
}

impl Finding {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Refuses => "refuses",
            Self::Notes => "notes",
        }
    }
}

/// One step of the walk of a request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "most are what they name")]
pub struct Step {
    /// `path`, `route`, `credential`, `client`, `addresses`, `scopes`, `limits`, `metering`, `upstream`.
    pub step: String,
    pub finding: Finding,
    /// A sentence.
    pub detail: String,
    /// Which line of configuration decides.
    pub setting: Option<Setting>,
}

/// A limit as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitState {
    /// As callers see it.
    pub policy: String,
    /// `rate`, `quota` or `concurrency`.
    pub kind: String,
    /// Like `100 in 1 s`.
    pub allows: String,
    /// What is left of it.
    pub left: u64,
    /// Seconds until it is whole again, or its window ends.
    pub resets_in: u64,
}

/// Why a request would be, or was, answered as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "most are what they name")]
pub struct Explanation {
    /// One sentence.
    pub verdict: String,
    /// What the caller would be, or was, sent by the gateway; null: the upstream answers.
    pub status: Option<u16>,
    /// The code of the refusal.
    pub code: Option<String>,
    pub route: Option<String>,
    pub client_id: Option<Uuid>,
    pub client_name: Option<String>,
    pub plan: Option<String>,
    pub api_key_id: Option<Uuid>,
    /// The steps, in order, up to the one that refuses.
    pub steps: Vec<Step>,
    /// Every limit that would be charged.
    pub limits: Vec<LimitState>,
    /// The endpoints that it could go to.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "most are what they name")]
pub struct EndpointView {
    pub upstream: String,
    pub endpoint: String,
    /// Whether requests are sent there.
    pub available: bool,
    /// Requests that are open there.
    pub open: u64,
}

/// What goes on, in numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// When this was counted.
    pub at: Timestamp,
    /// Since when this process serves.
    pub since: Timestamp,
    /// Requests that were admitted and have ended, since the start.
    pub requests: u64,
    /// Of those, answered 5xx.
    pub errors: u64,
    /// Refused, since the start.
    pub refused: u64,
    /// Open now.
    pub in_flight: u64,
    /// Connections that are open.
    pub connections: u64,
    /// How long the oldest entry waits for the store, in seconds.
    pub metering_lag_seconds: f64,
    /// What the journal takes on disk.
    pub journal_bytes: u64,
    /// The most it may take.
    pub journal_bytes_max: u64,
    /// Entries that were lost.
    pub metering_lost: u64,
    /// Requests since the start by route and status class.
    pub routes: Vec<RouteCounts>,
    /// Refusals since the start by code.
    pub refusals: Vec<CodeCount>,
}

/// What went over one route, since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "most are what they name")]
pub struct RouteCounts {
    pub route: String,
    pub requests: u64,
    pub errors: u64,
    pub refused: u64,
    /// Half of the requests took less, in seconds; an upper bound by the histogram's buckets.
    pub median_seconds: Option<f64>,
    /// 99 of 100 took less.
    pub p99_seconds: Option<f64>,
}

/// How often one code was the answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "most are what they name")]
pub struct CodeCount {
    pub code: String,
    pub count: u64,
}
