//! What is counted of requests: by route, by upstream, by what refused them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::words::Words;
use crate::model::usage::{Outcome, REJECTED};

/// Upper bounds of request and upstream durations, in seconds.
pub(super) const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Status classes: `1xx` to `5xx`, and `none` when the caller was sent nothing.
const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The row of rejections, after those of [`Outcome::ALL`].
const OUTCOME_ROWS: usize = Outcome::ALL.len() + 1;

/// Requests of all routes and upstreams.
#[derive(Debug)]
pub(super) struct Requests {
    routes: Vec<RouteMetrics>,
    upstreams: Vec<Histogram>,
    refusals: Words,
    pub(super) routes_observing: Gauge,
}

#[derive(Debug)]
struct RouteMetrics {
    requests: [[Counter; STATUS_CLASSES.len()]; OUTCOME_ROWS],
    duration: Histogram,
    would_refuse: Words,
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
struct CodeLabels {
    code: &'static str,
}

/// The families that routes are resolved from.
struct RouteFamilies {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    observed: Family<ObservedLabels, Counter>,
}

fn histograms<L: Clone + std::hash::Hash + Eq>() -> Family<L, Histogram> {
    Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS))
}

impl Requests {
    pub(super) fn register(registry: &mut Registry, routes: &[String], upstreams: &[String]) -> Self {
        let of = RouteFamilies { requests: Family::default(), durations: histograms(), observed: Family::default() };
        registry.register("requests", "Requests ended, by how", of.requests.clone());
        let help = "From the request's head to its response's end";
        registry.register("request_duration_seconds", help, of.durations.clone());
        let durations = histograms::<UpstreamLabels>();
        registry.register("upstream_duration_seconds", "Until the upstream's response head", durations.clone());
        let refusals = Family::<CodeLabels, Counter>::default();
        registry.register("refusals", "Requests refused, by the code that the caller was told", refusals.clone());
        let routes_observing = Gauge::default();
        registry.register("routes_observing", "Routes that refuse nothing yet", routes_observing.clone());
        registry.register("observed", "Requests that would have been refused", of.observed.clone());

        let upstream =
            |upstream: &String| durations.get_or_create_owned(&UpstreamLabels { upstream: upstream.clone() });
        Self {
            // The last row counts requests that found no route.
            routes: routes
                .iter()
                .cloned()
                .chain([String::new()])
                .map(|route| RouteMetrics::resolve(&route, &of))
                .collect(),
            upstreams: upstreams.iter().map(upstream).collect(),
            refusals: Words::new(move |code| refusals.get_or_create_owned(&CodeLabels { code })),
            routes_observing,
        }
    }

    pub(super) fn ended(&self, route: Option<u16>, outcome: Outcome, status: Option<u16>, took: Duration) {
        let route = self.route(route);
        route.requests[outcome as usize - 1][status_class(status)].inc();
        route.duration.observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, route: Option<u16>, status: u16, code: &'static str) {
        self.route(route).requests[OUTCOME_ROWS - 1][status_class(Some(status))].inc();
        self.refusals.count(code);
    }

    pub(super) fn would_refuse(&self, route: Option<u16>, code: &'static str) {
        self.route(route).would_refuse.count(code);
    }

    pub(super) fn upstream_answered(&self, upstream: usize, took: Duration) {
        self.upstreams[upstream].observe(took.as_secs_f64());
    }

    fn route(&self, route: Option<u16>) -> &RouteMetrics {
        let last = self.routes.len() - 1;
        &self.routes[route.map_or(last, |route| usize::from(route).min(last))]
    }
}

impl RouteMetrics {
    fn resolve(route: &str, of: &RouteFamilies) -> Self {
        let outcomes: [&'static str; OUTCOME_ROWS] =
            std::array::from_fn(|row| Outcome::ALL.get(row).map_or(REJECTED, |outcome| outcome.as_str()));
        // Only what happens shows: a family member that is never counted is still exported, so
        // handles are created here for all pairs and the zeros are the price of a lookup-free path.
        let requests = outcomes.map(|outcome| {
            STATUS_CLASSES.map(|status_class| {
                of.requests.get_or_create_owned(&RequestLabels { route: route.to_owned(), outcome, status_class })
            })
        });
        let (observed, name) = (of.observed.clone(), route.to_owned());
        Self {
            requests,
            duration: of.durations.get_or_create_owned(&RouteLabels { route: route.to_owned() }),
            would_refuse: Words::new(move |reason| {
                observed.get_or_create_owned(&ObservedLabels { route: name.clone(), reason })
            }),
        }
    }
}

fn status_class(status: Option<u16>) -> usize {
    status.map_or(0, |status| usize::from(status / 100).min(STATUS_CLASSES.len() - 1))
}
