//! The endpoints of an upstream as all workers see them: which of them may get a request, which one
//! gets the next, and what became of the last.
//!
//! Shared by all workers and by the health checks; every field is an atomic that is read on the
//! request's path and written when something changes. With one endpoint and no limit, a choice is a
//! look at nothing.
//!
//! Refuses to own connections, requests and time: whoever asks brings the time.

mod standing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use self::standing::Standing;
use crate::config::balancing::{Balance, EjectionConfig, EndpointLimits};
use crate::config::upstream::UpstreamConfig;
use crate::model::clock::Monotonic;
use crate::telemetry::metrics::{EndpointMetrics, Metrics};

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    endpoints: Vec<Standing>,
    balance: Balance,
    ejection: EjectionConfig,
    limits: EndpointLimits,
    /// Whether open requests are counted: only where somebody asks.
    counts: bool,
    pending: AtomicUsize,
    /// A place has become free.
    freed: Notify,
}

/// Endpoints that had their turn in one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, endpoint: usize) {
        self.0 |= 1 << endpoint;
    }

    fn has(self, endpoint: usize) -> bool {
        self.0 & (1 << endpoint) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What an exchange is told.
#[derive(Debug)]
pub(super) enum Choice {
    /// Send it there.
    Endpoint(usize, Option<Place>),
    /// All that could take it have as many as they take.
    Full,
    /// None is healthy, or all were tried.
    None,
}

/// Where a request goes: what decides it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) tried: Tried,
    /// A number that goes up by one with each request of a worker.
    pub(super) turn: usize,
    /// The client's, for [`Balance::Hash`].
    pub(super) key: u64,
    pub(super) now: Monotonic,
}

/// One open request of an endpoint; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    cluster: Arc<Cluster>,
    endpoint: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let standing = &self.cluster.endpoints[self.endpoint];
        standing.open.fetch_sub(1, Relaxed);
        standing.metrics.open.dec();
        if self.cluster.pending.load(Relaxed) > 0 {
            self.cluster.freed.notify_one();
        }
    }
}

/// Somebody who waits for a place.
#[derive(Debug)]
pub(super) struct Waiting<'c>(&'c Cluster);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

impl Waiting<'_> {
    /// Until a place may have become free.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }
}

impl Cluster {
    /// All endpoints healthy.
    #[must_use]
    pub fn new(config: &UpstreamConfig, metrics: &Metrics) -> Arc<Self> {
        let of = |text: &str| Standing::new(metrics.upstream_endpoint(&config.name, text));
        Arc::new(Self {
            name: config.name.clone(),
            endpoints: config.endpoints.iter().map(|endpoint| of(&endpoint.text())).collect(),
            balance: config.balance,
            ejection: config.ejection,
            limits: config.limits,
            counts: config.limits.requests.is_some()
                || matches!(config.balance, Balance::LeastRequests | Balance::PowerOfTwo),
            pending: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of each endpoint in turn: its text, whether it gets requests, how many are open there.
    pub(super) fn view(&self, now: Monotonic) -> impl Iterator<Item = (&str, bool, u64)> {
        self.endpoints.iter().map(move |standing| {
            let serves = standing.is_well() && !standing.is_ejected(now);
            let open = u64::try_from(standing.metrics.open.get()).unwrap_or(0);
            (standing.metrics.endpoint(), serves, open)
        })
    }

    /// How it chooses among them, in a word.
    pub(super) fn balance(&self) -> Balance {
        self.balance
    }

    /// Which endpoint is next.
    pub(super) fn choose(self: &Arc<Self>, ask: &Ask) -> Choice {
        if self.endpoints.len() == 1 && !self.counts {
            let is_free = ask.tried.is_empty() && self.endpoints[0].is_well();
            return if is_free { Choice::Endpoint(0, None) } else { Choice::None };
        }
        let may = |endpoint: &usize| {
            !ask.tried.has(*endpoint) && self.endpoints[*endpoint].may_serve(ask.now, &self.ejection, self)
        };
        let mut candidates: u64 = 0;
        let mut full = false;
        for endpoint in (0..self.endpoints.len()).filter(may) {
            let has_room = self.limits.requests.is_none_or(|most| self.endpoints[endpoint].open.load(Relaxed) < most);
            if has_room {
                candidates |= 1 << endpoint;
            } else {
                full = true;
            }
        }
        if candidates == 0 {
            return if full { Choice::Full } else { Choice::None };
        }
        let endpoint = self.pick(candidates, ask);
        Choice::Endpoint(endpoint, self.counts.then(|| self.place(endpoint)))
    }

    fn place(self: &Arc<Self>, endpoint: usize) -> Place {
        let standing = &self.endpoints[endpoint];
        standing.open.fetch_add(1, Relaxed);
        standing.metrics.open.inc();
        Place { cluster: Arc::clone(self), endpoint }
    }

    fn pick(&self, candidates: u64, ask: &Ask) -> usize {
        let among =
            |candidates: u64| (0..self.endpoints.len()).filter(move |endpoint| candidates & (1 << endpoint) != 0);
        // One that has just come back gets its share bit by bit.
        let random = mixed(ask.turn as u64 ^ ask.now.0.rotate_left(32));
        let ready = |endpoint: &usize| self.endpoints[*endpoint].takes_share(ask.now, &self.ejection, random);
        let settled = among(candidates).filter(ready).fold(0, |set, endpoint| set | 1 << endpoint);
        let candidates = if settled == 0 { candidates } else { settled };
        let count = candidates.count_ones() as usize;
        let nth = |number: usize| among(candidates).nth(number % count);
        let open = |endpoint: &usize| self.endpoints[*endpoint].open.load(Relaxed);
        let picked = match self.balance {
            Balance::RoundRobin => {
                let from = ask.turn % self.endpoints.len();
                among(candidates).find(|endpoint| *endpoint >= from).or_else(|| nth(0))
            }
            Balance::LeastRequests => {
                // Where several have as few, in turn.
                let from = ask.turn % count;
                (0..count).filter_map(|step| nth(from + step)).min_by_key(open)
            }
            Balance::PowerOfTwo => {
                let first = usize::try_from(random >> 33).unwrap_or_default();
                let second = first + 1 + usize::try_from(random & 0xffff).unwrap_or_default() % (count - 1).max(1);
                [nth(first), nth(second)].into_iter().flatten().min_by_key(open)
            }
            // Rendezvous hashing (Thaler and Ravishankar, 1998): when an endpoint leaves, only its
            // clients move.
            Balance::Hash => among(candidates).max_by_key(|endpoint| mixed(ask.key ^ mixed(*endpoint as u64 + 1))),
        };
        picked.expect("there is at least one candidate")
    }

    /// A place in the queue for a place; none: it is as long as it may be.
    pub(super) fn wait(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(self);
        let before = self.pending.fetch_add(1, Relaxed);
        (before < self.limits.pending).then_some(waiting)
    }

    /// An endpoint answered, and not that it cannot.
    pub(super) fn succeeded(&self, endpoint: usize) {
        self.endpoints[endpoint].succeeded();
    }

    /// An endpoint could not be reached, broke off, was late, or said that it cannot.
    pub(super) fn failed(&self, endpoint: usize, now: Monotonic) {
        self.endpoints[endpoint].failed(now, &self.ejection, self);
    }

    /// What a health check found.
    pub(super) fn checked(&self, endpoint: usize, is_healthy: bool) {
        let standing = &self.endpoints[endpoint];
        if standing.checked(is_healthy) {
            let (upstream, endpoint) = (&self.name, standing.metrics.endpoint());
            if is_healthy {
                tracing::info!(upstream, endpoint, "an endpoint is healthy again");
            } else {
                tracing::warn!(upstream, endpoint, "an endpoint is unhealthy by its checks; it gets no requests");
            }
        }
    }

    /// Whether one more may be ejected: never the last that serves, never too many at once.
    fn may_eject(&self, now: Monotonic) -> bool {
        let all = self.endpoints.len();
        let out = self.endpoints.iter().filter(|standing| standing.is_ejected(now)).count();
        let well = self.endpoints.iter().filter(|standing| standing.is_well() && !standing.is_ejected(now)).count();
        well > 1 && (out + 1) * 100 <= all * self.ejection.max_share as usize
    }
}

/// Numbers that look random, of any that do not (the end of splitmix64).
fn mixed(number: u64) -> u64 {
    let mut number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Re-exported for whoever makes one.
pub(super) type Handles = EndpointMetrics;
