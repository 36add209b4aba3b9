//! One call to an upstream: which endpoint, which connection, and what is tried again.
//!
//! [`Upstream::exchange`] is the seam of the upstream side: "send this head and this body, give
//! me head and body back". It is a plain function on purpose. Below it, `attempt` is one
//! try on one `endpoint`, by an HTTP/1 half of our own, in the request's own task: `connection` (the
//! socket, and an exchange up to the head of its answer), `upload` (the request on its way out),
//! `download` (the answer's body); or by a stream of HTTP/2 (`streams`). Nothing above knows how the
//! bytes move.
//!
//! What is tried again, and why it is safe:
//! - a request of which not a byte was written: any method, its body untouched;
//! - a request without a body and with a safe method (GET, HEAD, OPTIONS) that was written to a
//!   *kept* connection which then died without a byte of answer: once, on a new connection. The
//!   upstream had most likely closed the connection before it saw the request;
//! - the same kind of request on another endpoint, as far as `upstreams.retry_on` and the budget
//!   (`retries`) allow; and what HTTP/2 says was not looked at;
//! - nothing else. Above all never a request whose body has begun to leave.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use thiserror::Error;

use self::attempt::{Asked, Attempt};
pub(super) use self::connection::{Connection, ConnectionFault};
pub(super) use self::deadlines::{Budget, Timeouts};
use self::endpoint::EndpointState;
use self::retries::RetryBudget;
pub(super) use self::returned::Returned;
pub(super) use self::streams::is_grpc;
use self::upload::Upload;
use super::cluster::{Ask, Choice, Cluster, Place, Tried};
use super::intake::{Intake, OutgoingBody};
use super::returning::ReturningBody;
use super::spans::AskedEndpoints;
use crate::config::balancing::RetryOn;
use crate::config::upstream::UpstreamConfig;
use crate::model::clock::{Monotonic, SharedClock};
use crate::server::Peer;
use crate::server::dial::Dialer;
use crate::telemetry::metrics::{Metrics, RetryMetrics};

mod attempt;
mod connection;
mod deadlines;
mod download;
mod endpoint;
mod retries;
mod returned;
mod streams;
mod upload;

/// Why there is no response.
#[derive(Debug, Error)]
pub enum ExchangeFault {
    /// No connection to any endpoint.
    #[error("cannot connect to {authority}")]
    Connect {
        /// The last endpoint tried.
        authority: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No endpoint took the connection within `connect_timeout`.
    #[error("{authority} did not take the connection in time")]
    ConnectLate {
        /// The last endpoint tried.
        authority: String,
    },
    /// The connection broke, or what came back was not HTTP.
    #[error("the upstream broke off before its response")]
    Broken(#[source] ConnectionFault),
    /// It switched protocols, which nobody had asked for, or not to what was asked for.
    #[error("the upstream switched protocols unasked, or without the proof of a WebSocket handshake")]
    SwitchedProtocols,
    /// It answered a request for a WebSocket with something else that means yes.
    #[error("the upstream did not agree to a WebSocket, and did not refuse")]
    NoTunnel,
    /// None is healthy, or all were tried.
    #[error("no endpoint is left to be asked")]
    NoEndpoint,
    /// All healthy endpoints have as many requests as they take, and so has the queue.
    #[error("all endpoints are full")]
    Full,
    /// No response head within `response_timeout`, or within what was left of `request_timeout`.
    #[error("the upstream's response came too late")]
    Late,
}

impl ExchangeFault {
    /// In a word of a closed set.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connection_refused",
            Self::ConnectLate { .. } | Self::Late => "timeout",
            Self::Broken(_) => "connection_broken",
            Self::SwitchedProtocols | Self::NoTunnel => "protocol",
            Self::NoEndpoint => "no_endpoint",
            Self::Full => "full",
        }
    }

    /// Whether it speaks against the endpoint. What callers ask for or break off does not: they
    /// could have endpoints ejected.
    fn is_the_endpoint_s(&self) -> bool {
        !matches!(self, Self::Broken(ConnectionFault::RequestBody) | Self::NoTunnel)
    }

    /// Whether the endpoint has had nothing of the request: another one is asked instead, not again.
    fn asked_nobody(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectLate { .. })
    }
}

/// What goes up, and who waits for it.
pub(super) struct Call<'a, F> {
    /// The head. Its Host is the caller's; see `keep_host`. Its framing is the body's.
    pub(super) request: Request<()>,
    /// The body.
    pub(super) body: OutgoingBody,
    /// Whether that Host stays; else it is the endpoint's authority.
    pub(super) keep_host: bool,
    /// What is known about the body.
    pub(super) intake: Option<&'a Intake>,
    /// Whose deadline is used.
    pub(super) peer: &'a Peer,
    /// How long what may take.
    pub(super) timeouts: Timeouts,
    /// The client's, where the same client is to get the same endpoint.
    pub(super) key: u64,
    /// Where it is noted which endpoints were asked, of a request that is recorded.
    pub(super) noted: Option<&'a AskedEndpoints>,
    /// Called with `true` just before the first byte may leave, with `false` when it turned out
    /// that none did.
    pub(super) leaving: F,
}

/// A worker's side of one upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    endpoints: Vec<EndpointState>,
    cluster: Arc<Cluster>,
    connect_timeout: Duration,
    retry_on: RetryOn,
    retries: RetryBudget,
    retry_metrics: RetryMetrics,
    next: AtomicUsize,
    /// The time of the last tick; exact enough for what is shared with other workers.
    now: AtomicU64,
}

impl Upstream {
    /// `dialers`: of its endpoints, shared by all workers.
    pub(super) fn new(config: &UpstreamConfig, dialers: &[Dialer], cluster: &Arc<Cluster>, metrics: &Metrics) -> Self {
        let endpoints = config.endpoints.iter().zip(dialers);
        let endpoints = endpoints.map(|(endpoint, dialer)| EndpointState::new(config, endpoint, dialer));
        Self {
            endpoints: endpoints.collect(),
            cluster: Arc::clone(cluster),
            connect_timeout: config.connect_timeout,
            retry_on: config.retry_on,
            retries: RetryBudget::default(),
            retry_metrics: metrics.upstream_retries(&config.name),
            next: AtomicUsize::new(0),
            now: AtomicU64::new(0),
        }
    }

    /// Closes idle connections that are too old.
    pub(super) fn tick(&self, now: Monotonic) {
        self.now.store(now.0, Ordering::Relaxed);
        self.retries.tick(now);
        for endpoint in &self.endpoints {
            endpoint.pool.tick(now);
            endpoint.streams.tick(now);
        }
    }

    /// Sends a head and a body, gives a head and a body back.
    ///
    /// The cluster says which endpoint is next; one that cannot be connected to is passed over, as
    /// long as there is another that was not tried. The head comes back as it was sent; its body
    /// streams, carries trailers and its own deadline, and returns the connection when it ends.
    pub(super) async fn exchange<F: FnMut(bool)>(
        &self,
        mut call: Call<'_, F>,
        clock: &SharedClock,
    ) -> Result<Response<ReturningBody>, ExchangeFault> {
        let budget = Budget::start(clock, call.timeouts.request);
        let mut upload = Upload::new(call.body);
        let is_replayable = is_safe(call.request.method()) && upload.is_empty();
        let asked = Asked {
            head: &call.request,
            keep_host: call.keep_host,
            peer: call.peer,
            intake: call.intake,
            timeouts: call.timeouts,
            is_replayable,
        };
        self.retries.count();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut ask =
            Ask { tried: Tried::default(), turn, key: call.key, now: Monotonic(self.now.load(Ordering::Relaxed)) };
        let mut before: Option<Result<_, ExchangeFault>> = None;
        loop {
            let again = before.as_ref().is_some_and(|before| !before.as_ref().is_err_and(ExchangeFault::asked_nobody));
            let (index, place) = match self.choose(&ask, &budget, again).await {
                Ok(chosen) => chosen,
                Err(none) => return before.unwrap_or(Err(none)),
            };
            ask.tried.add(index);
            if let Some(noted) = call.noted {
                noted.note(index);
            }
            match self.attempt(&self.endpoints[index], upload, &asked, &budget, &mut call.leaving).await {
                Attempt::Answered(mut response) => {
                    let is_failing = says_it_cannot(response.status());
                    self.note(index, !is_failing, ask.now);
                    response.body_mut().holds(place);
                    if !(is_replayable && is_failing && self.retry_on.has(response.status())) {
                        return Ok(response);
                    }
                    before = Some(Ok(response));
                    upload = Upload::new(OutgoingBody::NONE);
                }
                Attempt::Failed(unsent, fault) => {
                    if fault.is_the_endpoint_s() {
                        self.note(index, false, ask.now);
                    }
                    // What an endpoint has said is more than that another one said nothing.
                    let said = before.take().filter(Result::is_ok).unwrap_or(Err(fault));
                    let Some(unsent) = unsent else { return said };
                    before = Some(said);
                    upload = unsent;
                }
            }
        }
    }

    /// The next endpoint, and a place there. `again`: another one has had the request.
    async fn choose(&self, ask: &Ask, budget: &Budget, again: bool) -> Result<(usize, Option<Place>), ExchangeFault> {
        let mut waiting = None;
        loop {
            match self.cluster.choose(ask) {
                Choice::Endpoint(..) if again && !self.may_retry() => return Err(ExchangeFault::NoEndpoint),
                Choice::Endpoint(index, place) => return Ok((index, place)),
                Choice::None => return Err(ExchangeFault::NoEndpoint),
                Choice::Full => {}
            }
            let Some(waiting) = waiting.get_or_insert_with(|| self.cluster.wait()) else {
                return Err(ExchangeFault::Full);
            };
            let freed = tokio::time::timeout(budget.at_most(self.connect_timeout), waiting.freed());
            freed.await.map_err(|_| ExchangeFault::Full)?;
        }
    }

    fn may_retry(&self) -> bool {
        let may = self.retries.take();
        if may { &self.retry_metrics.done } else { &self.retry_metrics.refused }.inc();
        may
    }

    /// Tells all workers what became of a request.
    fn note(&self, endpoint: usize, is_good: bool, now: Monotonic) {
        if is_good {
            self.cluster.succeeded(endpoint);
        } else {
            self.cluster.failed(endpoint, now);
        }
    }

    #[cfg(test)]
    pub(super) fn idle_connections(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.pool.len()).sum()
    }
}

/// Whether a status is an endpoint's word that it cannot serve, and not an answer of the service.
fn says_it_cannot(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Methods that may be sent twice when nobody knows whether the first arrived (RFC 9110 §9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
pub(super) mod tests;
