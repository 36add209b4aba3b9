//! Builds the parts, in the order in which a start can fail.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpListener;

use super::Addresses;
use super::administration::{Administration, Told, admin_tls, listen_admin};
use super::error::{StartError, unusable};
use super::observing::Observing;
use super::prepare::{make_first_operator, migrations_applied, patiently};
use crate::api::Api;
use crate::auth::{
    Authenticator, Dependencies, Issuers, Mint, OwnKeys, PepperVersions, Presence, guard_hashes, guard_pepper,
};
use crate::clients::{Ledger, LiveClients};
use crate::config::listener::{ListenAddress, ListenProtocol};
use crate::config::upstream::{Transport, UpstreamConfig};
use crate::config::{Config, Effective, Problem};
use crate::crypto::pepper::Peppers;
use crate::issuer::{Dependencies as IssuerDependencies, SigningKeys, TokenIssuer};
use crate::limit::{MarkListener, QuotaKeeper};
use crate::metering::{Journal, keep_retention};
use crate::model::causes::with_causes;
use crate::model::clock::{Clock, SharedClock};
use crate::model::plan::QuotaMark;
use crate::proxy::{Gateway, Parts as GatewayParts, Recorder};
use crate::server::dial::UpstreamTls;
use crate::server::spans::SpanSender;
use crate::server::tls::Tls;
use crate::server::{self, Bound, Entrance};
use crate::store::{self, Store};
use crate::tasks::Tasks;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Condition, Readiness};
use crate::telemetry::refusals::Refusals;
use crate::telemetry::tail::Tail;
use crate::telemetry::traces::SpanQueue;

/// Everything a gateway is made of, before its workers run.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) tasks: Tasks,
    pub(super) journal: Arc<Journal>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) presence: Arc<Presence>,
    /// None: traces are off.
    pub(super) spans: Option<SpanSender>,
    /// For each worker, its sockets.
    pub(super) listeners: Vec<Vec<Bound>>,
    /// None: no listener speaks TLS.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) admin: Vec<TcpListener>,
    pub(super) admin_tls: Option<Arc<Tls>>,
    pub(super) api: Arc<Api>,
    pub(super) addresses: Addresses,
}

/// Builds the parts; nothing is served yet.
pub(super) async fn build(
    config: Config,
    effective: &Effective,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<Parts, StartError> {
    let pepper = config.auth.require_pepper().map_err(StartError::Configuration)?;
    config.sinks.require_secrets().map_err(StartError::Configuration)?;
    let peppers = Peppers::new(pepper, config.auth.pepper_previous.as_ref());
    let known =
        patiently(&config.store, clock.as_ref(), async || know(&config, &peppers, clock.as_ref()).await).await?;
    let presence = Arc::clone(&known.presence);
    // Boxed: once in a process's life, and its state would make every future above large.
    let built = Box::pin(assemble(config, effective, clock, tasks, known)).await;
    if built.is_err() {
        // Who never served holds no re-hash up.
        presence.end().await;
    }
    built
}

/// Asks the store for all that must be known, and tells it that this process is there.
async fn know(config: &Config, peppers: &Peppers, clock: &dyn Clock) -> Result<Known, StartError> {
    let store = store::open(&config.store).await.map_err(|error| unusable(&error))?;
    migrations_applied(&store, config.store.migrate).await?;
    let versions = guard_pepper(peppers, store.peppers.as_ref()).await?;
    make_first_operator(&store, config.admin.first_operator.as_ref()).await?;
    let presence = announce(&store, peppers, versions, clock).await?;
    Ok(Known { store, peppers: peppers.clone(), versions, presence })
}

/// What is known before anything is taken.
struct Known {
    store: Store,
    peppers: Peppers,
    versions: PepperVersions,
    presence: Arc<Presence>,
}

/// Takes the addresses and the journal, and wires everything.
async fn assemble(
    config: Config,
    effective: &Effective,
    clock: SharedClock,
    tasks: Tasks,
    known: Known,
) -> Result<Parts, StartError> {
    let Known { store, peppers, versions, presence } = known;
    let metrics = metrics(&config);
    let tls = tls(&config, &metrics).map_err(StartError::Configuration)?;
    let admin_tls = admin_tls(&config, &metrics).map_err(StartError::Configuration)?;
    let upstream_tls = upstream_tls(&config).map_err(StartError::Configuration)?;
    let (listeners, data) = listen(&config, tls.as_ref())?;
    let (admin, admin_address) = listen_admin(&config).await?;
    let journal = Arc::new(open_journal(&config, &clock, &metrics)?);
    let clients = LiveClients::new(&metrics);
    let mint = Mint::new(&config.auth.prefix, peppers.current.clone(), versions.current);
    let signing_keys = signing_keys(&config).map_err(StartError::Configuration)?;
    let issuers = issuers(&config, signing_keys.as_ref(), &clock)?;
    let authenticator = Authenticator::new(
        &config.auth,
        Dependencies {
            peppers,
            pepper_versions: versions,
            default_limit: config.limits.default,
            keys: Arc::clone(&store.keys),
            rotation: Arc::clone(&store.rotation),
            client_rows: Arc::clone(&store.clients),
            token_rows: Arc::clone(&store.tokens),
            issuers,
            changes: Arc::clone(&store.changes),
            clients: Arc::clone(&clients),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
        },
    );
    authenticator.follow_changes();
    let issuer = signing_keys.map(|keys| {
        let with = IssuerDependencies {
            store: Arc::clone(&store.tokens),
            clients: Arc::clone(&clients),
            default_limit: config.limits.default,
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
        };
        TokenIssuer::new(&config.issuer, keys, &config.auth.prefix, with)
    });
    issuer.iter().for_each(TokenIssuer::keep_up);
    let present = Arc::clone(&presence).keep_up(Arc::clone(&metrics), tasks.hard().clone());
    tasks.spawn_control(present);
    keep_quotas(&store, clients, &journal, &clock, &metrics, &tasks);
    journal.register_in(Arc::clone(&store.journals));
    journal.send_to(&config.sinks).map_err(|fault| {
        let remedy = "put the PEM text of the sink's authority there";
        StartError::Configuration(Problem::new("metering.sinks", fault.to_string(), remedy))
    })?;
    journal.start(Arc::clone(&store.usage), &tasks);
    keep_mark(&config, &store, &clock, &tasks);
    let observing = Observing::of(&config.routes, &clock);
    observing.announce();
    let readiness = readiness(&authenticator, &journal, observing.clone());
    let (watch, stop) = (observing.watch(Arc::clone(&metrics)), tasks.soft().clone());
    tasks.spawn_control(async move {
        stop.run_until_cancelled(watch).await;
    });
    let told = Told { refusals: Refusals::new(), tail: Tail::new() };
    let (recorder, spans) = record_spans(&config, &metrics, &tasks).map_err(StartError::Configuration)?.unzip();
    let gateway = gateway(
        &config,
        upstream_tls,
        tls.as_ref(),
        &authenticator,
        issuer.clone(),
        &journal,
        &metrics,
        &readiness,
        &clock,
        &told,
        recorder,
    );
    gateway.keep_resolving(&tasks);
    gateway.keep_checking(&tasks);
    let administration = Administration { config: &config, effective, store, mint, issuer, clock, tasks: &tasks };
    let api = administration.api(&gateway, &metrics, &readiness, told).map_err(StartError::Configuration)?;
    let addresses = Addresses { data, admin: admin_address };
    Ok(Parts {
        config,
        tasks,
        journal,
        gateway,
        metrics,
        readiness,
        presence,
        spans,
        listeners,
        tls,
        admin,
        admin_tls,
        api,
        addresses,
    })
}

/// Drops partitions that are older than the mark of retention, where there is one.
fn keep_mark(config: &Config, store: &Store, clock: &SharedClock, tasks: &Tasks) {
    let Some(retention) = config.metering.retention else { return };
    let (audit, stop) = (Arc::clone(&store.audit), tasks.hard().clone());
    tasks.spawn_control(keep_retention(audit, retention, Arc::clone(clock), stop));
}

/// Says which peppers this process knows, then sees that no key needs another. In this order: no
/// other process moves a key out of reach of one it knows of.
async fn announce(
    store: &Store,
    peppers: &Peppers,
    versions: PepperVersions,
    clock: &dyn Clock,
) -> Result<Arc<Presence>, StartError> {
    let presence = Presence::begin(Arc::clone(&store.rotation), node_name(), peppers).await;
    let presence = presence.map_err(|error| unusable(&error))?;
    if let Err(error) = guard_hashes(versions, store.rotation.as_ref(), clock.wall()).await {
        presence.end().await;
        return Err(error.into());
    }
    Ok(presence)
}

/// What callers' handshakes are made with, where any listener speaks TLS.
pub(super) fn tls(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Tls>>, Problem> {
    if config.server.listeners.iter().all(|listener| listener.protocol != ListenProtocol::Https) {
        return Ok(None);
    }
    let loaded = Tls::load(config.server.tls.clone(), "data", Arc::clone(metrics));
    loaded.map(Some).map_err(|fault| {
        let remedy = "put PEM texts there: a chain with the server's own certificate first, and its private key";
        Problem::new("server.tls", with_causes(&fault), remedy)
    })
}

/// Takes all addresses: for each worker its sockets, and where callers connect.
fn listen(config: &Config, tls: Option<&Arc<Tls>>) -> Result<(Vec<Vec<Bound>>, Vec<ListenAddress>), StartError> {
    let count = config.server.workers;
    let mut workers: Vec<Vec<Bound>> = (0..count).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for listener in &config.server.listeners {
        let entrance = Entrance {
            protocol: listener.protocol,
            proxy_protocol: listener.proxy_protocol,
            tls: tls.filter(|_| listener.protocol == ListenProtocol::Https).cloned(),
        };
        let failed =
            |source| StartError::Listen { setting: "server.listen", address: listener.address.to_string(), source };
        match &listener.address {
            ListenAddress::Tcp(address) => {
                let sockets = server::bind(*address, count).map_err(failed)?;
                bound.push(ListenAddress::Tcp(sockets[0].local_addr().map_err(failed)?));
                let sockets = sockets.into_iter().map(|socket| Bound::tcp(socket, entrance.clone()));
                workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
            }
            ListenAddress::Unix(path) => {
                let sockets = server::bind_unix(path, count).map_err(failed)?;
                bound.push(ListenAddress::Unix(path.clone()));
                let sockets = sockets.into_iter().map(|socket| Bound::unix(socket, entrance.clone()));
                workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
            }
        }
    }
    Ok((workers, bound))
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

/// The keys that tokens of our own are signed with; none: no tokens are issued.
pub(super) fn signing_keys(config: &Config) -> Result<Option<SigningKeys>, Problem> {
    SigningKeys::of(&config.issuer).map_err(|unusable| {
        let remedy = "make one with `openssl genpkey -algorithm ed25519 -out FILE`";
        Problem::new(unusable.setting, unusable.fault.to_string(), remedy)
    })
}

/// Whose tokens are believed: those of the configuration, and our own.
fn issuers(config: &Config, keys: Option<&SigningKeys>, clock: &SharedClock) -> Result<Issuers, StartError> {
    let issuers = Issuers::new(&config.auth.issuers, clock).map_err(|fault| {
        let remedy = "put the PEM text of the key set's authority there";
        StartError::Configuration(Problem::new("auth.issuers", fault.to_string(), remedy))
    })?;
    let Some(keys) = keys else { return Ok(issuers) };
    let public = keys.are_public().then(|| keys.published().as_ref());
    let secret = config.issuer.secret.as_ref();
    Ok(issuers.with_own(config.issuer.rules(), OwnKeys { secret, public }))
}

/// Quotas are counted from the ledger: what the journal commits, and what others did.
fn keep_quotas(
    store: &Store,
    clients: Arc<LiveClients>,
    journal: &Arc<Journal>,
    clock: &SharedClock,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) {
    let ledger = Ledger::new(Arc::clone(&clients));
    journal.report_to(Arc::clone(&ledger));
    let keeper = QuotaKeeper::new(Arc::clone(&store.quotas), clients, ledger, Arc::clone(clock), Arc::clone(metrics));
    let keeper = keeper.telling(Arc::new(MarksToSinks(Arc::clone(journal))));
    tasks.spawn_control(keeper.run(tasks.hard().clone()));
}

/// Marks of quotas go where usage goes.
struct MarksToSinks(Arc<Journal>);

#[async_trait]
impl MarkListener for MarksToSinks {
    async fn reached(&self, mark: &QuotaMark) {
        self.0.note_mark(mark).await;
    }
}

/// What records requests as spans, and what sends those; none: traces are off.
fn record_spans(
    config: &Config,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<Option<(Recorder, SpanSender)>, Problem> {
    let Some(traces) = &config.traces else { return Ok(None) };
    let mut traces = traces.clone();
    if traces.resource.iter().all(|(name, _)| name != "host.name") {
        traces.resource.push(("host.name".to_owned(), node_name()));
    }
    let (queue, waiting) = SpanQueue::new(metrics);
    let sender = SpanSender::start(&traces, waiting, metrics, tasks).map_err(|fault| {
        let remedy = "put the PEM text of the collector's authority there";
        Problem::new("telemetry.traces.ca_file", fault.to_string(), remedy)
    })?;
    Ok(Some((Recorder::new(traces.sampler, queue), sender)))
}

/// Of each upstream, how TLS is spoken with those of its endpoints that speak it.
pub(super) fn upstream_tls(config: &Config) -> Result<Vec<Option<UpstreamTls>>, Problem> {
    let load = |(index, upstream): (usize, &UpstreamConfig)| {
        if upstream.endpoints.iter().all(|endpoint| endpoint.transport != Transport::Tls) {
            return Ok(None);
        }
        UpstreamTls::load(&upstream.tls, upstream.protocol).map(Some).map_err(|fault| {
            let remedy = "put PEM texts there: authorities, a chain, a private key";
            Problem::new(format!("upstreams[{index}].tls"), with_causes(&fault), remedy)
        })
    };
    config.upstreams.iter().enumerate().map(load).collect()
}

#[expect(clippy::too_many_arguments, reason = "the parts are made here, and put together here")]
fn gateway(
    config: &Config,
    upstream_tls: Vec<Option<UpstreamTls>>,
    tls: Option<&Arc<Tls>>,
    authenticator: &Arc<Authenticator>,
    issuer: Option<Arc<TokenIssuer>>,
    journal: &Arc<Journal>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    clock: &SharedClock,
    told: &Told,
    recorder: Option<Recorder>,
) -> Arc<Gateway> {
    let gateway = Gateway::new(GatewayParts {
        routes: config.routes.clone(),
        upstreams: config.upstreams.clone(),
        upstream_tls,
        server: &config.server,
        metering: &config.metering,
        proxy: config.proxy,
        key_headers: &config.auth.key_headers,
        query_param: config.auth.query_param.clone(),
        challenges: tls.filter(|_| config.server.tls.acme.is_some()).map(|tls| Arc::clone(tls.challenges())),
        rates_by_cost: config.limits.by_cost,
        authenticator: Arc::clone(authenticator),
        issuer,
        rejected: journal.rejected(),
        metrics: Arc::clone(metrics),
        clock: Arc::clone(clock),
        readiness: Arc::clone(readiness),
        access_log: AccessLog::start(config.telemetry),
        refusals: Arc::clone(&told.refusals),
        tail: Arc::clone(&told.tail),
        recorder,
    });
    gateway.expect("the configuration refuses routes without an upstream")
}

fn readiness(authenticator: &Arc<Authenticator>, journal: &Arc<Journal>, observing: Observing) -> Arc<Readiness> {
    let (authenticator, journal) = (Arc::clone(authenticator), Arc::clone(journal));
    let issuers = Arc::clone(&authenticator);
    Readiness::new()
        .with("issuers", move || if issuers.issuers_are_there() { Condition::Fine } else { Condition::Degraded })
        .with("store", move || if authenticator.store_is_reachable() { Condition::Fine } else { Condition::Degraded })
        .with("observing", move || if observing.count() == 0 { Condition::Fine } else { Condition::Degraded })
        .with("journal", move || if journal.is_full() { Condition::Refusing } else { Condition::Fine })
        .shared()
}
