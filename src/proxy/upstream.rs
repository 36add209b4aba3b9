//! One call to an upstream: which endpoint, which connection, and what is tried again.
//!
//! [`Upstream::exchange`] is the seam of the upstream side: "send this head and this body, give
//! me head and body back". It is a plain function on purpose. Below it is an HTTP/1 half of our
//! own, in the request's own task: `connection` (the socket, and an exchange up to the head of
//! its answer), `upload` (the request on its way out), `download` (the answer's body). Nothing
//! above knows how the bytes move.
//!
//! What is tried again, and why it is safe:
//! - a request of which not a byte was written: any method, its body untouched;
//! - a request without a body and with a safe method (GET, HEAD, OPTIONS) that was written to a
//!   *kept* connection which then died without a byte of answer: once, on a new connection. The
//!   upstream had most likely closed the connection before it saw the request;
//! - nothing else. Above all never a request whose body has begun to leave.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use thiserror::Error;

use self::connection::Exchange;
pub(super) use self::connection::{Connection, ConnectionFault};
use self::download::Download;
use self::retries::RetryBudget;
pub(super) use self::returned::Returned;
pub(super) use self::streams::is_grpc;
use self::streams::{Lease, StreamDownload, StreamExchange, StreamPool};
use self::upload::Upload;
use super::cluster::{Ask, Choice, Cluster, Place, Tried};
use super::intake::{Intake, OutgoingBody};
use super::pool::Pool;
use super::returning::ReturningBody;
use crate::config::balancing::RetryOn;
use crate::config::route::RouteConfig;
use crate::config::upstream::{Transport, UpstreamConfig};
use crate::model::clock::{Monotonic, SharedClock};
use crate::server::dial::Dialer;
use crate::server::{Peer, Speaks};
use crate::telemetry::metrics::{Metrics, RetryMetrics};
use crate::wire::http1::Framing;
use crate::wire::http1::answer::AnswerHead;
use crate::wire::websocket;

mod connection;
mod download;
mod retries;
mod returned;
mod streams;
mod upload;

/// How often an endpoint may refuse a stream before another one is asked. Once is usual: how many
/// it takes is known only after the first were sent.
const REFUSALS_MOST: u8 = 3;

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

/// How long a whole exchange may still take.
#[derive(Clone)]
pub(super) struct Budget(Option<(SharedClock, Monotonic)>);

impl std::fmt::Debug for Budget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Budget").field(&self.0.as_ref().map(|(_, until)| until)).finish()
    }
}

impl Budget {
    fn start(clock: &SharedClock, whole: Option<Duration>) -> Self {
        Self(whole.map(|whole| (Arc::clone(clock), clock.monotonic().after(whole))))
    }

    /// `wait`, or what is left if that is less.
    pub(super) fn at_most(&self, wait: Duration) -> Duration {
        self.0.as_ref().map_or(wait, |(clock, until)| until.since(clock.monotonic()).min(wait))
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.0.as_ref().is_some_and(|(clock, until)| clock.monotonic() >= *until)
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
    /// Called with `true` just before the first byte may leave, with `false` when it turned out
    /// that none did.
    pub(super) leaving: F,
}

/// How long an exchange may take: its upstream's settings, or its route's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// To the head of the answer.
    pub(super) response: Duration,
    /// Between two pieces of its body.
    pub(super) idle: Duration,
    /// The same in a tunnel, in both directions.
    pub(super) tunnel_idle: Duration,
    /// In all.
    pub(super) request: Option<Duration>,
}

impl Timeouts {
    /// The upstream's, but for what the route says.
    pub(super) fn new(upstream: &UpstreamConfig, route: Option<&RouteConfig>) -> Self {
        let own = |of: fn(&RouteConfig) -> Option<Duration>| route.and_then(of);
        Self {
            response: own(|route| route.response_timeout).unwrap_or(upstream.response_timeout),
            idle: own(|route| route.idle_timeout).unwrap_or(upstream.idle_timeout),
            tunnel_idle: upstream.tunnel_idle_timeout,
            request: own(|route| route.request_timeout).or(upstream.request_timeout),
        }
    }
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

#[derive(Debug)]
struct EndpointState {
    dialer: Dialer,
    is_secure: bool,
    authority: HeaderValue,
    pool: Arc<Pool>,
    streams: StreamPool,
}

/// A connection that is this request's, or a place on one that is shared.
enum Link {
    Own(Box<Connection>),
    Shared(Lease),
}

impl EndpointState {
    /// One that is open already.
    fn kept(&self, is_tunnel: bool, towards: Option<IpAddr>) -> Option<Link> {
        // Who switches protocols shares its connection with nobody, before or after.
        if is_tunnel {
            return None;
        }
        let shared = if self.dialer.may_be_http2() { self.streams.take_spread().map(Link::Shared) } else { None };
        shared.or_else(|| self.pool.take(towards).map(Link::Own))
    }

    /// A new one; or, of HTTP/2, one that somebody else has just opened.
    async fn open(&self, towards: Option<IpAddr>) -> io::Result<Link> {
        if !self.dialer.may_be_http2() {
            let dialed = self.dialer.dial(towards).await?;
            return Ok(Link::Own(Box::new(Connection::new(dialed.stream, dialed.address))));
        }
        let _turn = self.streams.opening.lock().await;
        if let Some(lease) = self.streams.take_spread() {
            return Ok(Link::Shared(lease));
        }
        let dialed = match self.dialer.dial(self.streams.next_address().or(towards)).await {
            Ok(dialed) => dialed,
            // One to another address is as good.
            Err(error) => return self.streams.take().map(Link::Shared).ok_or(error),
        };
        Ok(match dialed.speaks {
            Speaks::Http1 => Link::Own(Box::new(Connection::new(dialed.stream, dialed.address))),
            Speaks::Http2 => {
                let opened = self.streams.open(dialed.stream, dialed.address).await;
                Link::Shared(opened.map_err(io::Error::other)?)
            }
        })
    }
}

impl Upstream {
    /// `dialers`: of its endpoints, shared by all workers.
    pub(super) fn new(config: &UpstreamConfig, dialers: &[Dialer], cluster: &Arc<Cluster>, metrics: &Metrics) -> Self {
        let endpoints = config.endpoints.iter().zip(dialers).map(|(endpoint, dialer)| EndpointState {
            dialer: dialer.clone(),
            is_secure: endpoint.transport == Transport::Tls,
            authority: HeaderValue::from_str(&endpoint.authority).expect("configuration takes only authorities"),
            pool: Pool::new(config, dialer.name()),
            streams: StreamPool::new(config, dialer.name()),
        });
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
                    let Some(unsent) = unsent else { return Err(fault) };
                    before = Some(Err(fault));
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

    /// Tries one endpoint: on a connection that is kept, else on a new one.
    async fn attempt(
        &self,
        endpoint: &EndpointState,
        mut upload: Upload,
        asked: &Asked<'_>,
        budget: &Budget,
        leaving: &mut impl FnMut(bool),
    ) -> Attempt {
        let towards = endpoint.dialer.name().and_then(|name| name.next());
        let mut kept = endpoint.kept(upload.is_tunnel(), towards);
        let mut may_repeat = asked.is_replayable;
        let mut refusals = 0;
        loop {
            let is_kept = kept.is_some();
            let link = match kept.take() {
                Some(link) => link,
                None => match self.connect(endpoint, towards, budget).await {
                    Ok(link) => link,
                    Err(fault) => return Attempt::Failed(Some(upload), fault),
                },
            };
            let is_shared = matches!(link, Link::Shared(_));
            leaving(true);
            let sent = match link {
                Link::Own(connection) => self.send(connection, upload, endpoint, asked, budget).await,
                Link::Shared(lease) => self.send_stream(lease, upload, endpoint, asked, budget).await,
            };
            match sent {
                Sent::Answered(Ok(response)) => return Attempt::Answered(response),
                Sent::Answered(Err(fault)) => return Attempt::Failed(None, fault),
                Sent::Late => return Attempt::Failed(None, ExchangeFault::Late),
                Sent::NotWritten(unsent, error) => {
                    leaving(false);
                    upload = unsent;
                    refusals += u8::from(is_shared);
                    if refusals > REFUSALS_MOST || !(is_kept || is_shared) {
                        // New, and closed at once: as good as refused.
                        return Attempt::Failed(Some(upload), ExchangeFault::Broken(error));
                    }
                    kept = endpoint.kept(upload.is_tunnel(), towards);
                }
                // Once, and on a new connection: another kept one may have died the same way.
                Sent::Broken { heard: false, .. } if is_kept && may_repeat => {
                    may_repeat = false;
                    upload = Upload::new(OutgoingBody::NONE);
                }
                Sent::Broken { error, heard } => {
                    let may_go_on = asked.is_replayable && !heard && self.retry_on.reset;
                    let upload = may_go_on.then(|| Upload::new(OutgoingBody::NONE));
                    return Attempt::Failed(upload, ExchangeFault::Broken(error));
                }
            }
        }
    }

    async fn send(
        &self,
        mut connection: Box<Connection>,
        upload: Upload,
        endpoint: &EndpointState,
        asked: &Asked<'_>,
        budget: &Budget,
    ) -> Sent {
        let host = (!asked.keep_host).then_some(&endpoint.authority);
        upload.write_head(&mut connection.outgoing, asked.head, host);
        let mut exchange = Exchange::new(connection, upload, *asked.head.method() == Method::HEAD);
        let answer = poll_fn(|context| exchange.poll_head(context));
        let answered = self.head_in_time(answer, asked, budget).await;
        asked.peer.disarm();
        match answered {
            None => Sent::Late,
            Some(Ok(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                let is_agreed = websocket::agrees(asked.head.headers(), &head.headers) && exchange.open_tunnel();
                Sent::Answered(if is_agreed {
                    Ok(Self::returning(head, exchange, endpoint, asked, budget))
                } else {
                    Err(ExchangeFault::SwitchedProtocols)
                })
            }
            Some(Ok(head)) => Sent::Answered(Ok(Self::returning(head, exchange, endpoint, asked, budget))),
            Some(Err(error)) => match exchange.take_unsent() {
                Some(upload) if matches!(error, ConnectionFault::Io(_)) => Sent::NotWritten(upload, error),
                _ => Sent::Broken { error, heard: exchange.heard() },
            },
        }
    }

    /// The same on a stream of HTTP/2.
    async fn send_stream(
        &self,
        lease: Lease,
        upload: Upload,
        endpoint: &EndpointState,
        asked: &Asked<'_>,
        budget: &Budget,
    ) -> Sent {
        if upload.is_tunnel() {
            return Sent::Answered(Err(ExchangeFault::NoTunnel));
        }
        let host = (!asked.keep_host).then_some(&endpoint.authority);
        let begun = StreamExchange::begin(lease, asked.head, host, endpoint.is_secure, upload);
        let mut exchange = match begun {
            Ok(exchange) => exchange,
            Err((upload, error)) => return Sent::NotWritten(upload, error),
        };
        let answer = poll_fn(|context| exchange.poll_head(context));
        let answered = self.head_in_time(answer, asked, budget).await;
        asked.peer.disarm();
        match answered {
            None => {
                exchange.abandon();
                Sent::Late
            }
            Some(Ok(head)) => {
                let (head, incoming) = head.into_parts();
                let download = StreamDownload::new(exchange, incoming, &head.headers);
                let body = Returned::Http2(Box::new(download));
                let body = ReturningBody::new(body, asked.peer.clone(), asked.timeouts.idle, budget.clone());
                Sent::Answered(Ok(Response::from_parts(head, body)))
            }
            Some(Err(error)) => match exchange.into_unprocessed(&error) {
                Some(upload) => Sent::NotWritten(upload, error),
                // Others use the connection too; whether this one was looked at, nobody knows.
                None => Sent::Broken { error, heard: true },
            },
        }
    }

    fn returning(
        head: AnswerHead,
        exchange: Exchange,
        endpoint: &EndpointState,
        asked: &Asked<'_>,
        budget: &Budget,
    ) -> Response<ReturningBody> {
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let framing = if is_tunnel { Framing::UntilClose } else { head.framing };
        let download = Download::new(exchange, framing, head.keeps_alive, &endpoint.pool);
        let (idle, budget) = if is_tunnel {
            // A tunnel lasts as long as it is used.
            (asked.timeouts.tunnel_idle, Budget(None))
        } else {
            (asked.timeouts.idle, budget.clone())
        };
        let body = ReturningBody::new(Returned::Http1(download), asked.peer.clone(), idle, budget);
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            response.extensions_mut().insert(reason);
        }
        response
    }

    /// Waits for the head. While the request's body still moves up, the upstream is not late:
    /// it may want all of it first.
    async fn head_in_time<T>(&self, answer: impl Future<Output = T>, asked: &Asked<'_>, budget: &Budget) -> Option<T> {
        let Asked { peer, intake, timeouts, .. } = asked;
        let mut answer = pin!(answer);
        let mut moved = 0;
        peer.arm(budget.at_most(timeouts.response));
        poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            if !peer.is_late() {
                return Poll::Pending;
            }
            match intake.filter(|intake| !intake.has_ended() && !budget.is_spent()) {
                Some(intake) if intake.bytes() > moved => {
                    moved = intake.bytes();
                    peer.arm(budget.at_most(timeouts.response));
                    Poll::Pending
                }
                _ => Poll::Ready(None),
            }
        })
        .await
    }

    async fn connect(
        &self,
        endpoint: &EndpointState,
        towards: Option<IpAddr>,
        budget: &Budget,
    ) -> Result<Link, ExchangeFault> {
        let authority = || endpoint.dialer.authority().to_owned();
        match tokio::time::timeout(budget.at_most(self.connect_timeout), endpoint.open(towards)).await {
            Err(_) => Err(ExchangeFault::ConnectLate { authority: authority() }),
            Ok(Err(source)) => Err(ExchangeFault::Connect { authority: authority(), source }),
            Ok(Ok(link)) => Ok(link),
        }
    }

    #[cfg(test)]
    pub(super) fn idle_connections(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.pool.len()).sum()
    }
}

/// What became of a request on one endpoint.
enum Attempt {
    Answered(Response<ReturningBody>),
    /// With the request, where another endpoint may get it.
    Failed(Option<Upload>, ExchangeFault),
}

/// What of a call stays the same whichever connection it is tried on.
struct Asked<'a> {
    head: &'a Request<()>,
    keep_host: bool,
    peer: &'a Peer,
    intake: Option<&'a Intake>,
    timeouts: Timeouts,
    /// It may be sent twice.
    is_replayable: bool,
}

enum Sent {
    Answered(Result<Response<ReturningBody>, ExchangeFault>),
    NotWritten(Upload, ConnectionFault),
    /// Written, and no whole head came back; `heard`: a part of one did.
    Broken {
        error: ConnectionFault,
        heard: bool,
    },
    Late,
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
