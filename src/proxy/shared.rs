//! What all workers of a gateway share: made once from the configuration, read only.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use ipnet::IpNet;
use thiserror::Error;

use super::cluster::Cluster;
use super::cost::CostHeader;
use super::loops::Pseudonym;
use super::route::RouteTable;
use super::spans::Recorder;
use super::upstream::Timeouts;
use crate::auth::Authenticator;
use crate::config::metering::MeteringConfig;
use crate::config::proxy::ProxyConfig;
use crate::config::route::{RouteAuth, RouteConfig};
use crate::config::server::{ServerConfig, ServerLimits, UnderscoreHeaders};
use crate::config::upstream::UpstreamConfig;
use crate::issuer::TokenIssuer;
use crate::metering::RejectedCounts;
use crate::model::access::Scopes;
use crate::model::clock::SharedClock;
use crate::model::event_id::EventIdGenerator;
use crate::server::acme::Challenges;
use crate::server::dial::{Dialer, UpstreamTls};
use crate::tasks::Tasks;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::refusals::Refusals;
use crate::telemetry::tail::Tail;

/// What a gateway is made of.
#[expect(missing_docs, reason = "each is the part it names")]
pub struct Parts<'a> {
    pub routes: Vec<RouteConfig>,
    pub upstreams: Vec<UpstreamConfig>,
    /// Of each of them, how TLS is spoken; none: it has no endpoint that does.
    pub upstream_tls: Vec<Option<UpstreamTls>>,
    pub server: &'a ServerConfig,
    pub metering: &'a MeteringConfig,
    pub proxy: ProxyConfig,
    /// Where keys are looked for on paths of our own, besides `Authorization`.
    pub key_headers: &'a [HeaderName],
    /// The query parameter that carries a credential.
    pub query_param: Option<String>,
    /// What an authority asks for that looks whether a name is ours; none: no certificate is ordered.
    pub challenges: Option<Arc<Challenges>>,
    /// Whether rates are charged what a request costs.
    pub rates_by_cost: bool,
    pub authenticator: Arc<Authenticator>,
    pub issuer: Option<Arc<TokenIssuer>>,
    pub rejected: Arc<RejectedCounts>,
    pub metrics: Arc<Metrics>,
    pub clock: SharedClock,
    pub readiness: Arc<Readiness>,
    pub access_log: AccessLog,
    pub refusals: Arc<Refusals>,
    pub tail: Arc<Tail>,
    /// None: no request is recorded as spans.
    pub recorder: Option<Recorder>,
}

/// A route names an upstream that is not configured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the route `{route}` names the upstream `{upstream}`, which is not configured")]
pub struct UnknownUpstream {
    /// The route.
    pub route: String,
    /// The name.
    pub upstream: String,
}

/// What all workers share; read only.
pub struct Gateway {
    pub(super) table: RouteTable,
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Vec<UpstreamConfig>,
    /// Of each upstream, of each endpoint: shared by all who connect, so that what one learns about
    /// a name all know.
    pub(super) dialers: Vec<Vec<Dialer>>,
    pub(super) clusters: Vec<Arc<Cluster>>,
    pub(super) query_param: Option<String>,
    pub(super) challenges: Option<Arc<Challenges>>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) underscores: UnderscoreHeaders,
    pub(super) limits: ServerLimits,
    pub(super) proxy: ProxyConfig,
    /// This process in `Via`.
    pub(super) pseudonym: Pseudonym,
    pub(super) authenticator: Arc<Authenticator>,
    /// None: no tokens are issued.
    pub(super) issuer: Option<Arc<TokenIssuer>>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) rejected: Arc<RejectedCounts>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
    pub(super) access_log: AccessLog,
    pub(super) refusals: Arc<Refusals>,
    pub(super) tail: Arc<Tail>,
    pub(super) recorder: Option<Recorder>,
    pub(super) rates_by_cost: bool,
    /// Which credentials paths of our own take.
    pub(super) own_route: RouteConfig,
    /// Where upstreams say what a request cost.
    pub(super) cost_header: Option<CostHeader>,
    /// Between two interim records of a transfer that goes on.
    pub(super) stream_interval: Option<Duration>,
    /// Of interim records: rare, so that workers share it. A std mutex, held for an id.
    pub(super) part_ids: Mutex<EventIdGenerator>,
}

/// A route, resolved.
pub(super) struct Route {
    pub(super) config: RouteConfig,
    /// Which of the upstreams, and how long it may take; none: another proxy forwards.
    pub(super) upstream: Option<(usize, Timeouts)>,
    /// The smaller of its own limit and the server's.
    pub(super) max_body: Option<u64>,
}

/// What a path of our own asks of who calls it: any credential that is good anywhere.
fn own_route(key_headers: &[HeaderName]) -> RouteConfig {
    RouteConfig {
        name: String::new(),
        host: None,
        path: "/.octroi/".to_owned(),
        methods: Vec::new(),
        upstream: String::new(),
        delegated: false,
        observe_until: None,
        strip_prefix: false,
        auth: RouteAuth::Required,
        credentials: std::iter::once(AUTHORIZATION).chain(key_headers.iter().cloned()).collect(),
        certificate: false,
        scopes: Scopes::default(),
        max_body: None,
        merge_slashes: false,
        encoded_slash: false,
        response_timeout: None,
        idle_timeout: None,
        request_timeout: None,
        websocket: false,
        preserve_host: false,
        cost: 0,
        shaping: crate::config::shaping::Shaping::default(),
    }
}

fn dialers(upstreams: &[UpstreamConfig], tls: &[Option<UpstreamTls>]) -> Vec<Vec<Dialer>> {
    let of = |(upstream, tls): (&UpstreamConfig, &Option<UpstreamTls>)| {
        let endpoints = upstream.endpoints.iter();
        endpoints.map(|endpoint| Dialer::new(endpoint, upstream.protocol, tls.as_ref())).collect()
    };
    upstreams.iter().zip(tls).map(of).collect()
}

impl fmt::Debug for Gateway {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gateway").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway of these parts.
    ///
    /// # Errors
    /// A route without its upstream; configuration refuses that first.
    pub fn new(parts: Parts<'_>) -> Result<Arc<Self>, UnknownUpstream> {
        let table = RouteTable::new(&parts.routes);
        let resolve = |config: RouteConfig| {
            let upstream = parts.upstreams.iter().position(|upstream| upstream.name == config.upstream);
            let max_body = [config.max_body, parts.server.limits.body].into_iter().flatten().min();
            match upstream {
                None if !config.delegated => Err(UnknownUpstream { route: config.name, upstream: config.upstream }),
                upstream => {
                    let upstream = upstream.map(|index| (index, Timeouts::new(&parts.upstreams[index], Some(&config))));
                    Ok(Route { config, upstream, max_body })
                }
            }
        };
        let routes = parts.routes.into_iter().map(resolve).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            table,
            routes,
            dialers: dialers(&parts.upstreams, &parts.upstream_tls),
            clusters: parts.upstreams.iter().map(|upstream| Cluster::new(upstream, &parts.metrics)).collect(),
            upstreams: parts.upstreams,
            trusted_proxies: parts.server.trusted_proxies.clone(),
            underscores: parts.server.underscore_headers,
            limits: parts.server.limits,
            proxy: parts.recorder.as_ref().map_or(parts.proxy, |_| parts.proxy.beside_spans()),
            pseudonym: Pseudonym::draw(),
            authenticator: parts.authenticator,
            issuer: parts.issuer,
            readiness: parts.readiness,
            rates_by_cost: parts.rates_by_cost,
            own_route: own_route(parts.key_headers),
            query_param: parts.query_param,
            challenges: parts.challenges,
            stream_interval: parts.metering.stream_interval,
            part_ids: Mutex::new(EventIdGenerator::new()),
            cost_header: parts.metering.cost_header.clone().map(|name| CostHeader {
                name,
                most: parts.metering.cost_max,
                capped: parts.metrics.metering_cost_capped.clone(),
                invalid: parts.metrics.metering_cost_invalid.clone(),
            }),
            rejected: parts.rejected,
            metrics: parts.metrics,
            clock: parts.clock,
            access_log: parts.access_log,
            refusals: parts.refusals,
            tail: parts.tail,
            recorder: parts.recorder,
        }))
    }

    /// Keeps the addresses of endpoints up to date where they are names, until a stop.
    pub fn keep_resolving(&self, tasks: &Tasks) {
        for (upstream, dialers) in self.upstreams.iter().zip(&self.dialers) {
            for name in dialers.iter().filter_map(Dialer::name) {
                tasks.spawn_control(Arc::clone(name).keep_up(upstream.resolve_interval, tasks.soft().clone()));
            }
        }
    }

    pub(super) fn route_name(&self, route: u16) -> &str {
        self.routes.get(usize::from(route)).map_or("", |route| &route.config.name)
    }

    pub(super) fn is_trusted(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}
