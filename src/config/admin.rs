//! `[admin]`

use std::net::SocketAddr;

use toml::Table;

use super::reader::{Findings, Section};

/// Where operators and scrapers connect.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The admin listener.
    pub listen: SocketAddr,
    /// A second one with only `/livez`, `/readyz` and `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
}

impl AdminConfig {
    /// Reads `[admin]`.
    pub(super) fn read(root: &mut Table, findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::take(root, "admin", findings);
        let listen = section.parsed("listen", "127.0.0.1:8081");
        let metrics = section.text("metrics_listen", "");
        let metrics_listen = if metrics.is_empty() { None } else { metrics.parse().ok() };
        if metrics_listen.is_none() && !metrics.is_empty() {
            section.problem(
                "metrics_listen",
                format!("{metrics:?} is not an address"),
                "write one like \"0.0.0.0:9090\", or \"\"",
            );
        }
        (Self { listen, metrics_listen }, section.close())
    }
}
