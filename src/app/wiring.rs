//! Builds the parts, in the order in which a start can fail.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::Addresses;
use super::error::{StartError, unusable};
use super::prepare::{await_store, migrations_applied};
use crate::auth::{AuthParts, Authenticator, PepperVersions, guard_pepper};
use crate::config::Config;
use crate::crypto::pepper::{Pepper, Peppers};
use crate::metering::Journal;
use crate::model::clock::SharedClock;
use crate::proxy::Shared;
use crate::proxy::route::RouteTable;
use crate::server::{self, Listeners};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Condition, Readiness};

/// Everything a gateway is made of, before its workers run.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) tasks: Tasks,
    pub(super) journal: Arc<Journal>,
    pub(super) shared: Arc<Shared>,
    /// For each worker, its sockets.
    pub(super) listeners: Vec<Listeners>,
    pub(super) admin: Vec<TcpListener>,
    pub(super) addresses: Addresses,
}

/// Builds the parts; nothing is served yet.
pub(super) async fn build(config: Config, clock: SharedClock, tasks: Tasks) -> Result<Parts, StartError> {
    let pepper = config.auth.require_pepper().map_err(StartError::Configuration)?;
    let peppers = Peppers::new(Pepper::new(pepper), config.auth.pepper_previous.as_ref().map(Pepper::new));
    let store = await_store(&config.store, clock.as_ref()).await?;
    migrations_applied(&store, config.store.migrate).await?;
    let versions = guard_pepper(&peppers, store.peppers.as_ref()).await.map_err(|error| unusable(&error))??;
    let (listeners, data) = listen(&config)?;
    let (admin, admin_address) = listen_admin(&config).await?;
    let metrics = metrics(&config);
    let journal = Arc::new(open_journal(&config, &clock, &metrics)?);
    let authenticator = authenticator(&config, peppers, versions, &store, &clock, &metrics, &tasks);
    authenticator.follow_changes();
    journal.start(Arc::clone(&store.usage), &tasks);
    let shared = shared(&config, &authenticator, &journal, &metrics, &clock);
    let addresses = Addresses { data, admin: admin_address };
    Ok(Parts { config, tasks, journal, shared, listeners, admin, addresses })
}

fn listen(config: &Config) -> Result<(Vec<Listeners>, Vec<SocketAddr>), StartError> {
    server::bind(&config.server.listen, config.server.workers).map_err(|error| StartError::Listen {
        setting: "server.listen",
        address: error.address,
        source: error.source,
    })
}

async fn listen_admin(config: &Config) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    let mut listeners = Vec::new();
    let named = [("admin.listen", Some(config.admin.listen)), ("admin.metrics_listen", config.admin.metrics_listen)];
    for (setting, address) in named {
        let Some(address) = address else { continue };
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| StartError::Listen { setting, address, source })?);
    }
    let address = listeners[0].local_addr().map_err(StartError::Runtime)?;
    Ok((listeners, address))
}

fn metrics(config: &Config) -> Arc<Metrics> {
    let routes: Vec<_> = config.routes.iter().map(|route| route.name.clone()).collect();
    let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    Metrics::new(&routes, &upstreams)
}

fn open_journal(config: &Config, clock: &SharedClock, metrics: &Arc<Metrics>) -> Result<Journal, StartError> {
    let routes: Vec<_> = config.routes.iter().map(|route| route.name.clone()).collect();
    let node = node_name();
    let (clock, metrics) = (Arc::clone(clock), Arc::clone(metrics));
    Ok(Journal::open(&config.metering, &node, &routes, config.server.workers, clock, metrics)?)
}

/// What events call this machine: its host name, in characters that a folder may have.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let legal = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let name: String = name.trim().chars().filter(legal).take(63).collect();
    if name.trim_matches('.').is_empty() { "node".to_owned() } else { name }
}

fn authenticator(
    config: &Config,
    peppers: Peppers,
    versions: PepperVersions,
    store: &Store,
    clock: &SharedClock,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Arc<Authenticator> {
    Authenticator::new(AuthParts {
        config: config.auth.clone(),
        peppers,
        versions,
        default_limit: config.limits.default,
        store: store.clone(),
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
        tasks: tasks.clone(),
    })
}

fn shared(
    config: &Config,
    authenticator: &Arc<Authenticator>,
    journal: &Arc<Journal>,
    metrics: &Arc<Metrics>,
    clock: &SharedClock,
) -> Arc<Shared> {
    let upstream = |name: &str| {
        let found = config.upstreams.iter().position(|upstream| upstream.name == name);
        found.expect("the configuration refuses routes without an upstream")
    };
    Arc::new(Shared {
        upstream_of: config.routes.iter().map(|route| upstream(&route.upstream)).collect(),
        routes: RouteTable::new(config.routes.clone()),
        limits: config.server.limits,
        timeouts: config.server.timeouts,
        trusted_proxies: config.server.trusted_proxies.clone(),
        underscore_headers: config.server.underscore_headers,
        authenticator: Arc::clone(authenticator),
        rejected: journal.rejected(),
        metrics: Arc::clone(metrics),
        readiness: readiness(authenticator, journal),
        access_log: AccessLog::start(config.telemetry),
        clock: Arc::clone(clock),
    })
}

fn readiness(authenticator: &Arc<Authenticator>, journal: &Arc<Journal>) -> Arc<Readiness> {
    let (authenticator, journal) = (Arc::clone(authenticator), Arc::clone(journal));
    Readiness::new()
        .with("store", move || if authenticator.store_is_reachable() { Condition::Fine } else { Condition::Degraded })
        .with("journal", move || if journal.is_full() { Condition::Refusing } else { Condition::Fine })
        .shared()
}
