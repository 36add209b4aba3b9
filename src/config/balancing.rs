//! `[[upstreams]]`: which endpoint gets a request, and which gets none for a while.

use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};

/// `upstreams.balance`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest open requests.
    LeastRequests,
    /// Of two at random, the one with fewer.
    PowerOfTwo,
    /// Always the same for a client, as long as it is there.
    Hash,
}

/// What is tried again on another endpoint, for requests that are safe and have no body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of five words")]
pub struct RetryOn {
    /// The connection broke before a byte of an answer.
    pub reset: bool,
    /// 502
    pub bad_gateway: bool,
    /// 503
    pub unavailable: bool,
    /// 504
    pub gateway_timeout: bool,
}

impl RetryOn {
    /// Whether this status is among them.
    #[must_use]
    pub fn has(self, status: StatusCode) -> bool {
        match status {
            StatusCode::BAD_GATEWAY => self.bad_gateway,
            StatusCode::SERVICE_UNAVAILABLE => self.unavailable,
            StatusCode::GATEWAY_TIMEOUT => self.gateway_timeout,
            _ => false,
        }
    }
}

/// `[upstreams.health]`
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// What is asked for.
    pub path: PathAndQuery,
    /// Between two checks of an endpoint.
    pub interval: Duration,
    /// For the answer.
    pub timeout: Duration,
    /// So many good answers, and it is healthy again.
    pub healthy: u32,
    /// So many bad ones, and it is not.
    pub unhealthy: u32,
}

/// `[upstreams.ejection]`
#[derive(Clone, Copy, Debug)]
pub struct EjectionConfig {
    /// So many failures in a row; 0: never.
    pub consecutive_failures: u32,
    /// How long the first one lasts; each further one longer by as much.
    pub base_time: Duration,
    /// How many of all may be out at once, in percent.
    pub max_share: u32,
    /// How long one that comes back takes to its full share.
    pub return_time: Duration,
}

/// What an endpoint takes at once, in all workers together.
#[derive(Clone, Copy, Debug)]
pub struct EndpointLimits {
    /// Open requests; none: no limit.
    pub requests: Option<usize>,
    /// Requests that wait for a place.
    pub pending: usize,
}

/// `[upstreams.health]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHealth {
    path: String,
    interval: String,
    timeout: String,
    healthy: i64,
    unhealthy: i64,
}

impl Default for RawHealth {
    fn default() -> Self {
        Self {
            path: String::new(),
            interval: "5s".to_owned(),
            timeout: "2s".to_owned(),
            healthy: 2,
            // One lost packet is no outage.
            unhealthy: 3,
        }
    }
}

/// `[upstreams.ejection]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEjection {
    consecutive_failures: i64,
    base_time: String,
    max_share: i64,
    return_time: String,
}

impl Default for RawEjection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_time: "30s".to_owned(),
            // The others have to carry its share: with more than half gone, they fall too.
            max_share: 50,
            return_time: "10s".to_owned(),
        }
    }
}

impl RawHealth {
    /// None: nothing is asked.
    pub(super) fn resolve(&self, check: &Check<'_>) -> Option<HealthConfig> {
        let interval = check.duration("interval", &self.interval, Zero::Refused);
        let timeout = check.duration("timeout", &self.timeout, Zero::Refused);
        let healthy = check.count("healthy", self.healthy, 1..=100);
        let unhealthy = check.count("unhealthy", self.unhealthy, 1..=100);
        if self.path.is_empty() {
            return None;
        }
        let path = PathAndQuery::try_from(self.path.as_str()).ok().filter(|path| path.as_str().starts_with('/'));
        if path.is_none() {
            check.refuse("path", format!("`{}` is not a path", self.path), "write it like \"/healthz\"");
        }
        Some(HealthConfig { path: path?, interval, timeout, healthy, unhealthy })
    }
}

impl RawEjection {
    pub(super) fn resolve(&self, check: &Check<'_>) -> EjectionConfig {
        EjectionConfig {
            consecutive_failures: check.count("consecutive_failures", self.consecutive_failures, 0..=1_000_000),
            base_time: check.duration("base_time", &self.base_time, Zero::Refused),
            max_share: check.count("max_share", self.max_share, 0..=100),
            return_time: check.duration("return_time", &self.return_time, Zero::Allowed),
        }
    }
}

/// The words of `upstreams.balance`.
pub(super) const BALANCES: [(&str, Balance); 4] = [
    ("round_robin", Balance::RoundRobin),
    ("least_requests", Balance::LeastRequests),
    ("power_of_two", Balance::PowerOfTwo),
    ("hash", Balance::Hash),
];

pub(super) fn retry_on(check: &Check<'_>, words: &[String]) -> RetryOn {
    let mut on = RetryOn::default();
    for (index, word) in words.iter().enumerate() {
        match word.as_str() {
            "reset" => on.reset = true,
            "502" => on.bad_gateway = true,
            "503" => on.unavailable = true,
            "504" => on.gateway_timeout = true,
            _ => {
                let remedy = "write of \"reset\", \"502\", \"503\", \"504\"; endpoints that take no connection are always passed over";
                check.refuse(&format!("retry_on[{index}]"), format!("`{word}` is not known here"), remedy);
            }
        }
    }
    on
}
