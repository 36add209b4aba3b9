//! Every metric in one place. Handles are resolved once, when the configuration is loaded; a
//! request only adds to atomics. Labels are closed sets: no client, key, path or address.
//!
//! A file below is what belongs together: its labels, its names, its handles. To add a metric: a
//! handle there, a field here, a row in `tests/it/metrics.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::auth::{Authentications, CacheCounters, IssuedCounters, register_jwks};
use self::edge::{ListenerLabels, register_preflights, register_reloads, register_tls, register_workers};
use self::endpoints::EndpointFamilies;
use self::metering::{EntryCounters, JournalGauges, register_store_errors};
use self::requests::Requests;
use self::sinks::SinkFamilies;
use self::words::Words;
use crate::model::usage::Outcome;

mod auth;
mod edge;
mod endpoints;
mod metering;
mod requests;
mod sinks;
mod spans;
mod words;

pub use self::endpoints::{EndpointMetrics, RetryMetrics};
pub use self::sinks::SinkMetrics;
pub use self::spans::SpanCounters;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
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
    tls_certificate_expiry: Family<ListenerLabels, Gauge>,
    acme_orders: Family<ResultLabels, Counter>,
    endpoints: EndpointFamilies,
    /// Routes that refuse nothing yet.
    pub routes_observing: Gauge,
    auth: Authentications,
    /// Identities found in the cache, fresh.
    pub auth_cache_hit: Counter,
    /// Identities that had to be looked up.
    pub auth_cache_miss: Counter,
    /// Credentials found in the cache of unknown ones.
    pub auth_cache_negative: Counter,
    /// Requests served by an identity that could not be confirmed.
    pub auth_stale: Counter,
    preflights: [Counter; 2],
    reloads: [Counter; 2],
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
    /// Bytes at which it is full.
    pub metering_journal_max_bytes: Gauge,
    store_errors: Words,
    /// Verification tokens issued to whoever presented a key.
    pub tokens_issued_to_keys: Counter,
    /// Those issued for a refresh token.
    pub tokens_issued_to_refresh_tokens: Counter,
    /// Families of refresh tokens that ended because one was used again.
    pub token_families_revoked: Counter,
    sinks: SinkFamilies,
    spans: SpanCounters,
    jwks: [Counter; 2],
    /// For how long the keys of some issuer could not be confirmed, in seconds.
    pub jwks_age_seconds: Gauge<f64, AtomicU64>,
}

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
struct BuildLabels {
    version: &'static str,
}

impl Metrics {
    /// Metrics for these routes and upstreams; their indices are the order given. A last row
    /// counts requests that found no route (`route=""`).
    #[must_use]
    pub fn new(routes: &[String], upstreams: &[String]) -> Arc<Self> {
        let mut registry = Registry::with_prefix("octroi");
        let requests = Requests::register(&mut registry, routes, upstreams);
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create_owned(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The running version", build);
        Arc::new(Self::with_totals(registry, requests))
    }

    fn with_totals(mut registry: Registry, requests: Requests) -> Self {
        let requests_in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests being handled", requests_in_flight.clone());
        let connections_open = Gauge::default();
        registry.register("connections_open", "Caller connections open", connections_open.clone());
        let (worker_delay, workers_shedding) = register_workers(&mut registry);
        let (tls_handshakes, tls_certificate_expiry) = register_tls(&mut registry);
        let acme_orders = Family::default();
        registry.register("acme_orders", "Orders of certificates that ended", acme_orders.clone());
        let cache = CacheCounters::register(&mut registry);
        let auth_stale = Counter::default();
        let help = "Requests served by an identity that could not be confirmed";
        registry.register("auth_stale", help, auth_stale.clone());
        let limit = Family::<LimitLabels, Counter>::default();
        registry.register("limit", "Charges to limits, by result", limit.clone());
        let entries = EntryCounters::register(&mut registry);
        let journal = JournalGauges::register(&mut registry);
        let issued = IssuedCounters::register(&mut registry);
        let (jwks, jwks_age_seconds) = register_jwks(&mut registry);
        Self {
            requests_in_flight,
            connections_open,
            worker_delay,
            workers_shedding,
            tls_handshakes_done: tls_handshakes.get_or_create_owned(&ResultLabels { result: "ok" }),
            tls_handshakes_failed: tls_handshakes.get_or_create_owned(&ResultLabels { result: "failed" }),
            tls_certificate_expiry,
            acme_orders,
            endpoints: EndpointFamilies::register(&mut registry),
            routes_observing: requests.routes_observing.clone(),
            requests,
            auth: Authentications::register(&mut registry),
            auth_cache_hit: cache.hit,
            auth_cache_miss: cache.miss,
            auth_cache_negative: cache.negative,
            auth_stale,
            preflights: register_preflights(&mut registry),
            reloads: register_reloads(&mut registry),
            limit,
            metering_admitted: entries.of("admitted"),
            metering_settled: entries.of("settled"),
            metering_committed: entries.of("committed"),
            metering_recovered: entries.of("recovered"),
            metering_set_aside: entries.of("set_aside"),
            metering_damaged: entries.of("damaged"),
            metering_cost_capped: entries.of("cost_capped"),
            metering_cost_invalid: entries.of("cost_invalid"),
            metering_lost: journal.lost,
            metering_lag_seconds: journal.lag_seconds,
            metering_journal_bytes: journal.bytes,
            metering_journal_max_bytes: journal.bytes_max,
            store_errors: register_store_errors(&mut registry),
            tokens_issued_to_keys: issued.to_keys,
            tokens_issued_to_refresh_tokens: issued.to_refresh_tokens,
            token_families_revoked: issued.families_revoked,
            sinks: SinkFamilies::register(&mut registry),
            spans: SpanCounters::register(&mut registry),
            jwks,
            jwks_age_seconds,
            registry,
        }
    }

    /// Counts a request that was admitted and has ended. `route` none: no route was found.
    pub fn request_ended(&self, route: Option<u16>, outcome: Outcome, status: Option<u16>, took: Duration) {
        self.requests.ended(route, outcome, status, took);
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

    /// The first certificate of a listener, `data` or `admin`, ends then.
    pub fn tls_certificates_expire(&self, listener: &'static str, at: jiff::Timestamp) {
        self.tls_certificate_expiry.get_or_create(&ListenerLabels { listener }).set(at.as_second());
    }

    /// Counts a request that was refused, with the code (a closed set) that its caller was told.
    pub fn request_rejected(&self, route: Option<u16>, status: u16, code: &'static str) {
        self.requests.refused(route, status, code);
    }

    /// What may change while the gateway serves had changed, and was read again.
    pub fn reloaded(&self, good: bool) {
        self.reloads[usize::from(good)].inc();
    }

    /// Counts an order of a certificate. There is no series before the first.
    pub fn acme_order_ended(&self, worked: bool) {
        let result = if worked { "ok" } else { "failed" };
        self.acme_orders.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a request that would have been refused, had its route not observed.
    pub fn would_refuse(&self, route: Option<u16>, reason: &'static str) {
        self.requests.would_refuse(route, reason);
    }

    /// Notes how long an upstream took to its response head.
    pub fn upstream_answered(&self, upstream: usize, took: Duration) {
        self.requests.upstream_answered(upstream, took);
    }

    /// Counts an authentication that succeeded.
    pub fn auth_passed(&self) {
        self.auth.passed.inc();
    }

    /// Counts one that failed, under its private reason (a closed set).
    pub fn auth_failed(&self, reason: &'static str) {
        self.auth.refused.count(reason);
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
        self.sinks.of(name)
    }

    /// The counters of spans.
    #[must_use]
    pub fn spans(&self) -> SpanCounters {
        self.spans.clone()
    }

    /// Counts a failed store operation.
    pub fn store_failed(&self, operation: &'static str) {
        self.store_errors.count(operation);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_under_its_route_outcome_and_class() {
        let metrics = Metrics::new(&["orders".into()], &["orders".into()]);
        metrics.request_ended(Some(0), Outcome::Complete, Some(204), Duration::from_millis(3));
        metrics.request_rejected(None, 404, "no_route");
        let text = metrics.encode().unwrap();
        assert!(
            text.contains(r#"octroi_requests_total{route="orders",outcome="complete",status_class="2xx"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"octroi_requests_total{route="",outcome="rejected",status_class="4xx"} 1"#), "{text}");
    }
}
