//! Composition: builds the parts, wires them, runs them, and stops them in order.
//!
//! Nothing is decided here; every rule lives in a lower layer. The order of [`serve`] is the
//! order in which a start can fail: settings, store, migrations, pepper, addresses, journal. Only when all
//! of it holds does a worker accept its first connection.

mod administration;
mod demo;
mod descriptors;
mod erasing;
mod error;
mod observing;
mod prepare;
mod reload;
mod running;
mod stop;
mod wiring;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;

pub use demo::DemoUpstream;
pub use error::StartError;
pub use prepare::{await_store, migrations_applied};

use crate::config::listener::ListenAddress;
use crate::config::{Config, Effective, Problem};
use crate::issuer::SigningKeys;
use crate::model::clock::SharedClock;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// Where a started gateway listens: the addresses bound, with ports that were asked for as 0.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For callers.
    pub data: Vec<ListenAddress>,
    /// For operators.
    pub admin: SocketAddr,
}

/// What is wrong with settings that read well: files whose contents nobody looks at before they are
/// used.
#[must_use]
pub fn check(config: &Config) -> Option<Problem> {
    let tls = || wiring::tls(config, &Metrics::new(&[], &[])).err();
    let admin = || administration::admin_tls(config, &Metrics::new(&[], &[])).err();
    wiring::signing_keys(config).err().or_else(tls).or_else(admin).or_else(|| wiring::upstream_tls(config).err())
}

/// The keys that sign what is issued, tokens and statements; none where none is configured.
///
/// # Errors
/// A key that cannot be used.
pub fn signing_keys(config: &Config) -> Result<Option<SigningKeys>, Problem> {
    wiring::signing_keys(config)
}

/// Runs the gateway until it is told to stop by a signal.
///
/// Called on the control runtime. `started` is called once, when everything listens.
pub async fn serve(
    config: Config,
    effective: &Effective,
    clock: SharedClock,
    started: impl FnOnce(&Addresses) + Send,
) -> Result<(), StartError> {
    if config.routes.is_empty() {
        tracing::warn!("no route is configured: every request is answered 404 (config/octroi.toml has an example)");
    }
    let tasks = Tasks::new(tokio::runtime::Handle::current());
    let parts = wiring::build(config, effective, clock, tasks.clone()).await?;
    let presence = Arc::clone(&parts.presence);
    // Before anybody is served: a signal in the first moment must not cut whom we let in.
    let started_workers = stop::Signals::listen().and_then(|signals| Ok((signals, workers::start(parts)?)));
    let (signals, running) = match started_workers {
        Ok(started_workers) => started_workers,
        Err(error) => {
            presence.end().await;
            return Err(error);
        }
    };
    let addresses: Vec<_> = running.addresses.data.iter().map(ToString::to_string).collect();
    tracing::info!(addresses = addresses.join(", "), admin = %running.addresses.admin, "serving");
    started(&running.addresses);
    stop::when_told(signals, running, tasks).await
}
