//! The whole file as written, and the schema made of its defaults.

use serde::{Deserialize, Serialize};
use toml::Table;

use super::admin::RawAdmin;
use super::auth::RawAuth;
use super::issuer::RawIssuer;
use super::limits::RawLimits;
use super::listener::RawListener;
use super::metering::RawMetering;
use super::proxy::RawProxy;
use super::route::RawRoute;
use super::server::RawServer;
use super::sinks_raw::RawSink;
use super::store::RawStore;
use super::telemetry::RawTelemetry;
use super::tls::RawCertificate;
use super::token_issuer::RawTokenIssuer;
use super::upstream::RawUpstream;
use crate::model::rate::Rate;

/// What TOML may say. Text stays text here; sections turn it into values.
///
/// Without `Debug` on purpose: `store.url` may hold a password.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) data_dir: String,
    pub(super) server: RawServer,
    pub(super) admin: RawAdmin,
    pub(super) store: RawStore,
    pub(super) auth: RawAuth,
    pub(super) limits: RawLimits,
    pub(super) metering: RawMetering,
    pub(super) proxy: RawProxy,
    pub(super) telemetry: RawTelemetry,
    pub(super) issuer: RawIssuer,
    pub(super) upstreams: Vec<RawUpstream>,
    pub(super) routes: Vec<RawRoute>,
}

impl RawConfig {
    /// Spells out what follows from other settings, where it was not written.
    pub(super) fn spell_out(&mut self) {
        self.server.listen = Some(self.server.effective_listen());
        let limit = &mut self.limits.default;
        if let Ok(rate) = limit.rate.parse::<Rate>() {
            limit.burst.get_or_insert(rate.default_burst().get().into());
        }
        for route in &mut self.routes {
            route.name = route.effective_name();
        }
    }
}

/// Every setting there is, with its default: what a file is compared with, and what
/// `config/reference.toml` has to say. Lists of tables hold one element, made of its defaults.
///
/// # Panics
/// Never: the defaults are TOML (a test says so).
#[must_use]
pub fn schema() -> Table {
    let mut defaults = RawConfig { upstreams: vec![RawUpstream::default()], ..RawConfig::default() };
    defaults.spell_out();
    defaults.routes = vec![RawRoute::default()];
    defaults.auth.issuers = vec![RawTokenIssuer::default()];
    defaults.server.listeners = vec![RawListener::default()];
    defaults.server.tls.certificates = vec![RawCertificate::default()];
    defaults.metering.sinks = vec![RawSink::default()];
    Table::try_from(defaults).expect("the defaults are TOML")
}
