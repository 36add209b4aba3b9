//! What is counted of upstreams' endpoints.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What one endpoint's requests and checks are counted by.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    endpoint: String,
    /// 1: it gets requests.
    pub health: Gauge,
    /// Open requests, where they are counted.
    pub open: Gauge,
    /// How often it was taken out.
    pub ejections: Counter,
}

impl EndpointMetrics {
    /// As configured.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// What an upstream's retries are counted by.
#[derive(Clone, Debug)]
pub struct RetryMetrics {
    /// Sent to another endpoint.
    pub done: Counter,
    /// Not, because the budget was used up.
    pub refused: Counter,
}

/// Of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    upstream: String,
    endpoint: String,
}

/// Of an upstream's retries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    upstream: String,
    result: &'static str,
}

/// All of them, by endpoint.
#[derive(Clone, Debug)]
pub(super) struct EndpointFamilies {
    health: Family<EndpointLabels, Gauge>,
    open: Family<EndpointLabels, Gauge>,
    ejections: Family<EndpointLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
}

impl EndpointFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let health = Family::default();
        registry.register("upstream_health", "Whether an endpoint gets requests", Family::clone(&health));
        let open = Family::default();
        let help = "Open requests of an endpoint, where its upstream is balanced by them or limits them";
        registry.register("upstream_requests_open", help, Family::clone(&open));
        let ejections = Family::default();
        registry.register("upstream_ejections", "Endpoints taken out for failing", Family::clone(&ejections));
        let retries = Family::default();
        let help = "Requests sent to another endpoint, and those that the budget kept from it";
        registry.register("upstream_retries", help, Family::clone(&retries));
        Self { health, open, ejections, retries }
    }

    pub(super) fn of(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let labels = EndpointLabels { upstream: upstream.to_owned(), endpoint: endpoint.to_owned() };
        EndpointMetrics {
            endpoint: endpoint.to_owned(),
            health: self.health.get_or_create_owned(&labels),
            open: self.open.get_or_create_owned(&labels),
            ejections: self.ejections.get_or_create_owned(&labels),
        }
    }

    pub(super) fn retries_of(&self, upstream: &str) -> RetryMetrics {
        let of = |result| self.retries.get_or_create_owned(&RetryLabels { upstream: upstream.to_owned(), result });
        RetryMetrics { done: of("done"), refused: of("refused") }
    }
}
