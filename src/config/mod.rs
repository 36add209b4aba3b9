//! Configuration: files and environment in, resolved values out.
//!
//! A section is a file: its *raw* type is what TOML may say, its *resolved* type what the rest
//! of the program gets. Conversion is validation; all problems are reported at once, each with
//! its path and a remedy. The rest of the program never sees text where a value is meant, and
//! never reads the environment.
//!
//! To add a setting: one field in a section's raw type with its default and the reason for it,
//! one in its resolved type, the line between them in `resolve`, and the setting in
//! `config/reference.toml`. The raw type is the only list of what exists: unknown keys, the
//! reference and `octroi config show` all follow from it (`tests/config_examples.rs`).

pub mod acme;
pub mod admin;
pub mod auth;
pub mod balancing;
mod check;
pub mod cors;
pub mod env;
pub mod header_rules;
pub mod issuer;
mod json_schema;
mod later;
pub mod limits;
pub mod listener;
mod load;
pub mod metering;
pub mod moment;
mod observe;
pub mod oidc;
mod overrides;
mod problem;
pub mod proxy;
mod raw;
pub mod route;
mod route_path;
mod secrets;
pub mod server;
pub mod shaping;
mod show;
pub mod sinks;
mod sinks_raw;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod token_issuer;
pub mod traces;
pub mod units;
pub mod upstream;
mod walk;
pub mod written;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use env::Environment;
pub use json_schema::json_schema;
pub use load::{Loaded, load, parse};
pub use problem::{Problem, Problems};
pub use raw::schema;
pub use show::Effective;

/// Every setting, resolved: paths absolute, defaults filled in, references checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where relative paths start.
    pub data_dir: PathBuf,
    /// `[server]`
    pub server: server::ServerConfig,
    /// `[admin]`
    pub admin: admin::AdminConfig,
    /// `[store]`
    pub store: store::StoreConfig,
    /// `[auth]`
    pub auth: auth::AuthConfig,
    /// `[limits]`
    pub limits: limits::LimitsConfig,
    /// `[metering]`
    pub metering: metering::MeteringConfig,
    /// `[[metering.sinks]]`
    pub sinks: sinks::SinksConfig,
    /// `[proxy]`
    pub proxy: proxy::ProxyConfig,
    /// `[telemetry]`
    pub telemetry: telemetry::TelemetryConfig,
    /// `[telemetry.traces]`; none: they are off.
    pub traces: Option<Box<traces::TracesConfig>>,
    /// `[issuer]`
    pub issuer: issuer::IssuerConfig,
    /// `[[upstreams]]`, in the file's order.
    pub upstreams: Vec<upstream::UpstreamConfig>,
    /// `[[routes]]`, in the file's order.
    pub routes: Vec<route::RouteConfig>,
    /// Where all of it is written.
    pub written: written::Written,
}

/// A setting of the test suite itself, from the environment.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the environment is read in `config`: here it is")]
pub(crate) fn test_setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
