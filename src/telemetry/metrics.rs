//! Every metric in one place. Handles are resolved once, when the configuration is loaded; a
//! request only adds to atomics. Labels are closed sets: no client, key, path or address.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::usage::{Outcome, REJECTED};

mod endpoints;

use self::endpoints::EndpointFamilies;
pub use self::endpoints::{EndpointMetrics, RetryMetrics};

/// Upper bounds of request and upstream durations, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Status classes: `1xx` to `5xx`, and `none` when the caller was sent nothing.
const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The row of rejections, after those of [`Outcome::ALL`].
const OUTCOME_ROWS: usize = Outcome::ALL.len() + 1;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    routes: Vec<RouteMetrics>,
    upstreams: Vec<Histogram>,
    /// Requests being handled.
    pub requests_in_flight: Gauge,
    /// Caller connections open.
    pub connections_open: Gauge,
    /// How long work waits for its worker, in seconds; sampled each tick of each worker.
    pub worker_delay: Histogram,
    /// Workers that refuse requests because they cannot keep up.
    pub workers_shedding: Gauge,
    /// TLS handshakes that led to a connection.
    pub tls_handshakes_done: Counter,
    /// TLS handshakes that did not.
    pub tls_handshakes_failed: Counter,
    tls_certificate_expiry: Family<NoLabels, Gauge>,
    acme_orders: Family<ResultLabels, Counter>,
    endpoints: EndpointFamilies,
    /// Routes that refuse nothing yet.
    pub routes_observing: Gauge,
    observed: Family<ObservedLabels, Counter>,
    auth: Family<AuthLabels, Counter>,
    auth_ok: Counter,
    /// Identities found in the cache, fresh.
    pub auth_cache_hit: Counter,
    /// Identities that had to be looked up.
    pub auth_cache_miss: Counter,
    /// Credentials found in the cache of unknown ones.
    pub auth_cache_negative: Counter,
    /// Requests served by an identity that could not be confirmed.
    pub auth_stale: Counter,
    preflights: [Counter; 2],
    limit: Family<LimitLabels, Counter>,
    /// Entries admitted to the journal.
    pub metering_admitted: Counter,
    /// Entries settled.
    pub metering_settled: Counter,
    /// Events committed to the store.
    pub metering_committed: Counter,
    /// Entries recovered from a process that ended without settling them.
    pub metering_recovered: Counter,
    /// Events that the store refused for their content, set aside.
    pub metering_set_aside: Counter,
    /// Slots that hold something, but no entry that can be read: torn by a kill, or damaged.
    pub metering_damaged: Counter,
    /// Entries whose upstream named a cost above `metering.cost_max`.
    pub metering_cost_capped: Counter,
    /// Entries whose upstream named something that is no cost.
    pub metering_cost_invalid: Counter,
    /// Requests served without an entry, under `metering.on_full = "serve"`.
    pub metering_lost: Counter,
    /// Age of the oldest settled entry that is not committed yet, in seconds.
    pub metering_lag_seconds: Gauge<f64, AtomicU64>,
    /// Bytes the journal holds on disk.
    pub metering_journal_bytes: Gauge,
    store_errors: Family<OperationLabels, Counter>,
    /// Verification tokens issued to whoever presented a key.
    pub tokens_issued_to_keys: Counter,
    /// Those issued for a refresh token.
    pub tokens_issued_to_refresh_tokens: Counter,
    /// Families of refresh tokens that ended because one was used again.
    pub token_families_revoked: Counter,
    sinks: Sinks,
    jwks: [Counter; 2],
    /// For how long the keys of some issuer could not be confirmed, in seconds.
    pub jwks_age_seconds: Gauge<f64, AtomicU64>,
}

/// What is counted of a sink.
#[derive(Clone, Debug)]
pub struct SinkMetrics {
    /// Records that it has taken.
    pub sent: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Records that it refuses for their content, set aside.
    pub refused: Counter,
    /// Records that it will never get: the outbox was at its bound, or damaged.
    pub missed: Counter,
    /// Age of the oldest record that it does not have, in seconds.
    pub lag_seconds: Gauge<f64, AtomicU64>,
}

#[derive(Debug, Default)]
struct Sinks {
    sent: Family<SinkLabels, Counter>,
    failures: Family<SinkLabels, Counter>,
    refused: Family<SinkLabels, Counter>,
    missed: Family<SinkLabels, Counter>,
    lag_seconds: Family<SinkLabels, Gauge<f64, AtomicU64>>,
}

impl Sinks {
    fn register(registry: &mut Registry) -> Self {
        let sinks = Self::default();
        registry.register("sink_sent", "Records that a sink has taken", sinks.sent.clone());
        registry.register("sink_failures", "Attempts at a sink that failed", sinks.failures.clone());
        registry.register("sink_refused", "Records that a sink refused, set aside", sinks.refused.clone());
        registry.register("sink_missed", "Records that a sink will never get", sinks.missed.clone());
        registry.register("sink_lag_seconds", "Age of the oldest record a sink lacks", sinks.lag_seconds.clone());
        sinks
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
}

#[derive(Debug)]
struct RouteMetrics {
    requests: [[Counter; STATUS_CLASSES.len()]; OUTCOME_ROWS],
    duration: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    outcome: &'static str,
    status_class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ObservedLabels {
    route: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AuthLabels {
    result: &'static str,
    reason: &'static str,
}

/// Of what is there or not, without telling more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoLabels {}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    policy: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GrantLabels {
    grant: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl Metrics {
    /// Metrics for these routes and upstreams; their indices are the order given. A last row
    /// counts requests that found no route (`route=""`).
    #[must_use]
    pub fn new(routes: &[String], upstreams: &[String]) -> Arc<Self> {
        let mut registry = Registry::with_prefix("octroi");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests ended, by how", requests.clone());
        let durations = Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        registry.register(
            "request_duration_seconds",
            "From the request's head to its response's end",
            durations.clone(),
        );
        let upstream_durations =
            Family::<UpstreamLabels, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        registry.register(
            "upstream_duration_seconds",
            "Until the upstream's response head",
            upstream_durations.clone(),
        );

        let routes = routes.iter().cloned().chain([String::new()]);
        let routes = routes.map(|route| RouteMetrics::resolve(&route, &requests, &durations)).collect();
        let upstreams = upstreams
            .iter()
            .map(|upstream| upstream_durations.get_or_create_owned(&UpstreamLabels { upstream: upstream.clone() }))
            .collect();

        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create_owned(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The running version", build);
        Arc::new(Self::with_totals(registry, routes, upstreams))
    }

    fn with_totals(mut registry: Registry, routes: Vec<RouteMetrics>, upstreams: Vec<Histogram>) -> Self {
        let requests_in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests being handled", requests_in_flight.clone());
        let connections_open = Gauge::default();
        registry.register("connections_open", "Caller connections open", connections_open.clone());
        let (worker_delay, workers_shedding) = register_workers(&mut registry);
        let (tls_handshakes, tls_certificate_expiry) = register_tls(&mut registry);
        let acme_orders = Family::default();
        registry.register("acme_orders", "Orders of certificates that ended", acme_orders.clone());
        let endpoints = EndpointFamilies::register(&mut registry);
        let auth = Family::<AuthLabels, Counter>::default();
        registry.register("auth", "Authentications, by result and private reason", auth.clone());
        let cache = Family::<ResultLabels, Counter>::default();
        registry.register("auth_cache", "Look-ups in the caches of credentials", cache.clone());
        let cached = |result| cache.get_or_create_owned(&ResultLabels { result });
        let auth_stale = Counter::default();
        registry.register(
            "auth_stale",
            "Requests served by an identity that could not be confirmed",
            auth_stale.clone(),
        );
        let limit = Family::<LimitLabels, Counter>::default();
        registry.register("limit", "Charges to limits, by result", limit.clone());
        let entries = Family::<StateLabels, Counter>::default();
        registry.register("metering_entries", "Usage entries that reached a state", entries.clone());
        let entry = |state| entries.get_or_create_owned(&StateLabels { state });
        let metering_lost = Counter::default();
        registry.register("metering_lost", "Requests served without an entry", metering_lost.clone());
        let metering_lag_seconds = Gauge::<f64, AtomicU64>::default();
        registry.register(
            "metering_lag_seconds",
            "Age of the oldest entry not committed",
            metering_lag_seconds.clone(),
        );
        let metering_journal_bytes = Gauge::default();
        registry.register("metering_journal_bytes", "Bytes of the journal on disk", metering_journal_bytes.clone());
        let store_errors = Family::<OperationLabels, Counter>::default();
        registry.register("store_errors", "Failed store operations", store_errors.clone());
        let issued = Family::<GrantLabels, Counter>::default();
        registry.register("tokens_issued", "Verification tokens issued, by grant", issued.clone());
        let issued_by = |grant| issued.get_or_create_owned(&GrantLabels { grant });
        let token_families_revoked = Counter::default();
        registry.register(
            "token_families_revoked",
            "Families of refresh tokens revoked because one was used again",
            token_families_revoked.clone(),
        );
        let (jwks, jwks_age_seconds) = register_jwks(&mut registry);
        let (routes_observing, observed) = register_observing(&mut registry);
        let sinks = Sinks::register(&mut registry);
        Self {
            tokens_issued_to_keys: issued_by("client_credentials"),
            tokens_issued_to_refresh_tokens: issued_by("refresh_token"),
            token_families_revoked,
            auth_ok: auth.get_or_create_owned(&AuthLabels { result: "ok", reason: "" }),
            preflights: register_preflights(&mut registry),
            auth_cache_hit: cached("hit"),
            auth_cache_miss: cached("miss"),
            auth_cache_negative: cached("negative"),
            metering_admitted: entry("admitted"),
            metering_settled: entry("settled"),
            metering_committed: entry("committed"),
            metering_recovered: entry("recovered"),
            metering_set_aside: entry("set_aside"),
            metering_damaged: entry("damaged"),
            registry,
            routes,
            routes_observing,
            observed,
            upstreams,
            requests_in_flight,
            connections_open,
            worker_delay,
            workers_shedding,
            tls_handshakes_done: tls_handshakes.get_or_create_owned(&ResultLabels { result: "ok" }),
            tls_handshakes_failed: tls_handshakes.get_or_create_owned(&ResultLabels { result: "failed" }),
            tls_certificate_expiry,
            acme_orders,
            endpoints,
            auth,
            auth_stale,
            limit,
            metering_cost_capped: entry("cost_capped"),
            metering_cost_invalid: entry("cost_invalid"),
            metering_lost,
            metering_lag_seconds,
            metering_journal_bytes,
            store_errors,
            sinks,
            jwks,
            jwks_age_seconds,
        }
    }

    /// Counts a request that was admitted and has ended. `route` none: no route was found.
    pub fn request_ended(&self, route: Option<u16>, outcome: Outcome, status: Option<u16>, took: Duration) {
        let route = self.route(route);
        route.requests[outcome as usize - 1][status_class(status)].inc();
        route.duration.observe(took.as_secs_f64());
    }

    /// The handles of one endpoint.
    #[must_use]
    pub fn upstream_endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        self.endpoints.of(upstream, endpoint)
    }

    /// The handles of one upstream's retries.
    #[must_use]
    pub fn upstream_retries(&self, upstream: &str) -> RetryMetrics {
        self.endpoints.retries_of(upstream)
    }

    /// Counts a preflight: of a page that may go on, or not.
    pub fn preflight_answered(&self, is_allowed: bool) {
        self.preflights[usize::from(is_allowed)].inc();
    }

    /// The first certificate shown to callers ends then.
    pub fn tls_certificates_expire(&self, at: jiff::Timestamp) {
        self.tls_certificate_expiry.get_or_create(&NoLabels {}).set(at.as_second());
    }

    /// Counts an order of a certificate. There is no series before the first.
    pub fn acme_order_ended(&self, worked: bool) {
        let result = if worked { "ok" } else { "failed" };
        self.acme_orders.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a request that was refused.
    pub fn request_rejected(&self, route: Option<u16>, status: u16) {
        self.route(route).requests[OUTCOME_ROWS - 1][status_class(Some(status))].inc();
    }

    /// Counts a request that would have been refused, had its route not observed.
    pub fn would_refuse(&self, route: &str, reason: &'static str) {
        self.observed.get_or_create_owned(&ObservedLabels { route: route.to_owned(), reason }).inc();
    }

    /// Notes how long an upstream took to its response head.
    pub fn upstream_answered(&self, upstream: usize, took: Duration) {
        self.upstreams[upstream].observe(took.as_secs_f64());
    }

    /// Counts an authentication that succeeded.
    pub fn auth_passed(&self) {
        self.auth_ok.inc();
    }

    /// Counts one that failed, under its private reason (a closed set).
    pub fn auth_failed(&self, reason: &'static str) {
        self.auth.get_or_create_owned(&AuthLabels { result: "refused", reason }).inc();
    }

    /// The counters (admitted, refused) of a policy: resolve once, keep.
    #[must_use]
    pub fn limit_counters(&self, policy: &str) -> (Counter, Counter) {
        (self.limit_counter(policy, "admitted"), self.limit_counter(policy, "refused"))
    }

    /// The counter of one thing that a limit policy does.
    #[must_use]
    pub fn limit_counter(&self, policy: &str, result: &'static str) -> Counter {
        self.limit.get_or_create_owned(&LimitLabels { policy: policy.to_owned(), result })
    }

    /// The metrics of a sink, by its configured name: resolve once, keep.
    #[must_use]
    pub fn sink(&self, name: &str) -> SinkMetrics {
        let labels = SinkLabels { sink: name.to_owned() };
        SinkMetrics {
            sent: self.sinks.sent.get_or_create_owned(&labels),
            failures: self.sinks.failures.get_or_create_owned(&labels),
            refused: self.sinks.refused.get_or_create_owned(&labels),
            missed: self.sinks.missed.get_or_create_owned(&labels),
            lag_seconds: self.sinks.lag_seconds.get_or_create_owned(&labels),
        }
    }

    /// Counts a failed store operation.
    pub fn store_failed(&self, operation: &'static str) {
        self.store_errors.get_or_create_owned(&OperationLabels { operation }).inc();
    }

    /// Counts an attempt at an issuer's key set.
    pub fn jwks_refreshed(&self, good: bool) {
        let [ok, failed] = &self.jwks;
        if good {
            ok.inc()
        } else {
            failed.inc()
        };
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn route(&self, route: Option<u16>) -> &RouteMetrics {
        let last = self.routes.len() - 1;
        &self.routes[route.map_or(last, |route| usize::from(route).min(last))]
    }
}

impl RouteMetrics {
    fn resolve(
        route: &str,
        requests: &Family<RequestLabels, Counter>,
        durations: &Family<RouteLabels, Histogram>,
    ) -> Self {
        let outcomes: [&'static str; OUTCOME_ROWS] =
            std::array::from_fn(|row| Outcome::ALL.get(row).map_or(REJECTED, |outcome| outcome.as_str()));
        // Only what happens shows: a family member that is never counted is still exported, so
        // handles are created here for all pairs and the zeros are the price of a lookup-free path.
        let requests = outcomes.map(|outcome| {
            STATUS_CLASSES.map(|status_class| {
                requests.get_or_create_owned(&RequestLabels { route: route.to_owned(), outcome, status_class })
            })
        });
        Self { requests, duration: durations.get_or_create_owned(&RouteLabels { route: route.to_owned() }) }
    }
}

/// How many routes refuse nothing yet, and what they would have refused.
fn register_observing(registry: &mut Registry) -> (Gauge, Family<ObservedLabels, Counter>) {
    let routes = Gauge::default();
    registry.register("routes_observing", "Routes that refuse nothing yet", routes.clone());
    let observed = Family::<ObservedLabels, Counter>::default();
    registry.register("observed", "Requests that would have been refused", observed.clone());
    (routes, observed)
}

/// Handshakes by their result, and when the first certificate ends.
fn register_workers(registry: &mut Registry) -> (Histogram, Gauge) {
    let delay = Histogram::new(DURATION_BUCKETS);
    registry.register("worker_delay_seconds", "How long work waits for its worker", delay.clone());
    let shedding = Gauge::default();
    registry.register("workers_shedding", "Workers that refuse requests because they cannot keep up", shedding.clone());
    (delay, shedding)
}

fn register_tls(registry: &mut Registry) -> (Family<ResultLabels, Counter>, Family<NoLabels, Gauge>) {
    let handshakes = Family::<ResultLabels, Counter>::default();
    registry.register("tls_handshakes", "TLS handshakes of callers", handshakes.clone());
    let expiry = Family::<NoLabels, Gauge>::default();
    let help = "When the first certificate shown to callers ends, in Unix seconds; absent without TLS";
    registry.register("tls_certificate_expiry_seconds", help, expiry.clone());
    (handshakes, expiry)
}

/// Of pages that may not go on, and of those that may.
fn register_preflights(registry: &mut Registry) -> [Counter; 2] {
    let preflights = Family::<ResultLabels, Counter>::default();
    registry.register("cors_preflights", "Preflights answered, by result", preflights.clone());
    ["foreign", "allowed"].map(|result| preflights.get_or_create_owned(&ResultLabels { result }))
}

/// Attempts that ended well and badly, and the age of the oldest set.
fn register_jwks(registry: &mut Registry) -> ([Counter; 2], Gauge<f64, AtomicU64>) {
    let refreshes = Family::<ResultLabels, Counter>::default();
    registry.register("jwks_refresh", "Attempts at the key set of an issuer, by result", refreshes.clone());
    let age = Gauge::<f64, AtomicU64>::default();
    registry.register("jwks_age_seconds", "For how long an issuer's key set was not confirmed", age.clone());
    (["ok", "failed"].map(|result| refreshes.get_or_create_owned(&ResultLabels { result })), age)
}

fn status_class(status: Option<u16>) -> usize {
    status.map_or(0, |status| usize::from(status / 100).min(STATUS_CLASSES.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_under_its_route_outcome_and_class() {
        let metrics = Metrics::new(&["orders".into()], &["orders".into()]);
        metrics.request_ended(Some(0), Outcome::Complete, Some(204), Duration::from_millis(3));
        metrics.request_rejected(None, 404);
        let text = metrics.encode().unwrap();
        assert!(
            text.contains(r#"octroi_requests_total{route="orders",outcome="complete",status_class="2xx"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"octroi_requests_total{route="",outcome="rejected",status_class="4xx"} 1"#), "{text}");
    }
}
