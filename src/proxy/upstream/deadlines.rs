//! How long an exchange may take, and how long it still may.

use std::sync::Arc;
use std::time::Duration;

use crate::config::route::RouteConfig;
use crate::config::upstream::UpstreamConfig;
use crate::model::clock::{Monotonic, SharedClock};

/// How long an exchange may take: its upstream's settings, or its route's.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Timeouts {
    /// To the head of the answer.
    pub(in crate::proxy) response: Duration,
    /// Between two pieces of its body.
    pub(in crate::proxy) idle: Duration,
    /// The same in a tunnel, in both directions.
    pub(in crate::proxy) tunnel_idle: Duration,
    /// In all.
    pub(in crate::proxy) request: Option<Duration>,
}

impl Timeouts {
    /// The upstream's, but for what the route says.
    pub(in crate::proxy) fn new(upstream: &UpstreamConfig, route: Option<&RouteConfig>) -> Self {
        let own = |of: fn(&RouteConfig) -> Option<Duration>| route.and_then(of);
        Self {
            response: own(|route| route.response_timeout).unwrap_or(upstream.response_timeout),
            idle: own(|route| route.idle_timeout).unwrap_or(upstream.idle_timeout),
            tunnel_idle: upstream.tunnel_idle_timeout,
            request: own(|route| route.request_timeout).or(upstream.request_timeout),
        }
    }
}

/// How long a whole exchange may still take.
#[derive(Clone)]
pub(in crate::proxy) struct Budget(pub(super) Option<(SharedClock, Monotonic)>);

impl std::fmt::Debug for Budget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Budget").field(&self.0.as_ref().map(|(_, until)| until)).finish()
    }
}

impl Budget {
    pub(super) fn start(clock: &SharedClock, whole: Option<Duration>) -> Self {
        Self(whole.map(|whole| (Arc::clone(clock), clock.monotonic().after(whole))))
    }

    /// `wait`, or what is left if that is less.
    pub(in crate::proxy) fn at_most(&self, wait: Duration) -> Duration {
        self.0.as_ref().map_or(wait, |(clock, until)| until.since(clock.monotonic()).min(wait))
    }

    /// Whether nothing is left.
    pub(in crate::proxy) fn is_spent(&self) -> bool {
        self.0.as_ref().is_some_and(|(clock, until)| clock.monotonic() >= *until)
    }
}
