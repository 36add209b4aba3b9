//! `[admin]`

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::check::Check;

/// Where operators and scrapers connect.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The admin listener.
    pub listen: SocketAddr,
    /// A second one with only `/livez`, `/readyz` and `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
}

/// `[admin]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: String,
    pub(super) metrics_listen: String,
}

impl Default for RawAdmin {
    fn default() -> Self {
        // This machine only: what operators do must not be one firewall rule away from strangers.
        Self { listen: "127.0.0.1:8081".to_owned(), metrics_listen: String::new() }
    }
}

impl RawAdmin {
    pub(super) fn resolve(&self, check: &Check<'_>) -> AdminConfig {
        let metrics_listen =
            (!self.metrics_listen.is_empty()).then(|| check.address("metrics_listen", &self.metrics_listen));
        AdminConfig { listen: check.address("listen", &self.listen), metrics_listen }
    }
}
