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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use thiserror::Error;

use self::connection::Exchange;
pub(super) use self::connection::{Connection, ConnectionFault};
use self::download::Download;
pub(super) use self::returned::Returned;
pub(super) use self::streams::is_grpc;
use self::streams::{Lease, StreamDownload, StreamExchange, StreamPool};
use self::upload::Upload;
use super::intake::{Intake, OutgoingBody};
use super::pool::Pool;
use super::returning::ReturningBody;
use crate::config::upstream::{Transport, UpstreamConfig};
use crate::model::clock::{Monotonic, SharedClock};
use crate::server::dial::Dialer;
use crate::server::{Peer, Speaks};
use crate::wire::http1::Framing;
use crate::wire::http1::answer::AnswerHead;
use crate::wire::websocket;

mod connection;
mod download;
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
    /// No response head within `response_timeout`, or within what was left of `request_timeout`.
    #[error("the upstream's response came too late")]
    Late,
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
    /// Called with `true` just before the first byte may leave, with `false` when it turned out
    /// that none did.
    pub(super) leaving: F,
}

/// A worker's side of one upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    endpoints: Vec<EndpointState>,
    connect_timeout: Duration,
    response_timeout: Duration,
    idle_timeout: Duration,
    tunnel_idle_timeout: Duration,
    request_timeout: Option<Duration>,
    next: AtomicUsize,
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
    pub(super) fn new(config: &UpstreamConfig, dialers: &[Dialer]) -> Self {
        let endpoints = config.endpoints.iter().zip(dialers).map(|(endpoint, dialer)| EndpointState {
            dialer: dialer.clone(),
            is_secure: endpoint.transport == Transport::Tls,
            authority: HeaderValue::from_str(&endpoint.authority).expect("configuration takes only authorities"),
            pool: Pool::new(config, dialer.name()),
            streams: StreamPool::new(config, dialer.name()),
        });
        Self {
            endpoints: endpoints.collect(),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            tunnel_idle_timeout: config.tunnel_idle_timeout,
            request_timeout: config.request_timeout,
            next: AtomicUsize::new(0),
        }
    }

    /// Closes idle connections that are too old.
    pub(super) fn tick(&self, now: Monotonic) {
        for endpoint in &self.endpoints {
            endpoint.pool.tick(now);
            endpoint.streams.tick(now);
        }
    }

    /// Sends a head and a body, gives a head and a body back.
    ///
    /// Endpoints take turns; one that cannot be connected to is passed over, as long as there is
    /// another that was not tried. The head comes back as it was sent; its body streams, carries
    /// trailers and its own deadline, and returns the connection when it ends.
    pub(super) async fn exchange<F: FnMut(bool)>(
        &self,
        mut call: Call<'_, F>,
        clock: &SharedClock,
    ) -> Result<Response<ReturningBody>, ExchangeFault> {
        let budget = Budget::start(clock, self.request_timeout);
        let mut upload = Upload::new(call.body);
        let is_replayable = is_safe(call.request.method()) && upload.is_empty();
        let asked = Asked { head: &call.request, keep_host: call.keep_host, peer: call.peer, intake: call.intake };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut fault = None;
        for offset in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[(turn + offset) % self.endpoints.len()];
            let towards = endpoint.dialer.name().and_then(|name| name.next());
            let mut kept = endpoint.kept(upload.is_tunnel(), towards);
            let mut may_repeat = is_replayable;
            let mut refusals = 0;
            loop {
                let is_kept = kept.is_some();
                let link = match kept.take() {
                    Some(link) => link,
                    None => match self.connect(endpoint, towards, &budget).await {
                        Ok(link) => link,
                        Err(error) => {
                            fault = Some(error);
                            break;
                        }
                    },
                };
                let is_shared = matches!(link, Link::Shared(_));
                (call.leaving)(true);
                let sent = match link {
                    Link::Own(connection) => self.send(connection, upload, endpoint, &asked, &budget).await,
                    Link::Shared(lease) => self.send_stream(lease, upload, endpoint, &asked, &budget).await,
                };
                match sent {
                    Sent::Answered(response) => return response,
                    Sent::Late => return Err(ExchangeFault::Late),
                    Sent::NotWritten(unsent, error) => {
                        (call.leaving)(false);
                        upload = unsent;
                        refusals += u8::from(is_shared);
                        if refusals > REFUSALS_MOST || !(is_kept || is_shared) {
                            // New, and closed at once: as good as refused.
                            fault = Some(ExchangeFault::Broken(error));
                            break;
                        }
                        kept = endpoint.kept(upload.is_tunnel(), towards);
                    }
                    // Once, and on a new connection: another kept one may have died the same way.
                    Sent::Broken { heard: false, .. } if is_kept && may_repeat => {
                        may_repeat = false;
                        upload = Upload::new(OutgoingBody::NONE);
                    }
                    Sent::Broken { error, .. } => return Err(ExchangeFault::Broken(error)),
                }
            }
        }
        Err(fault.expect("an upstream has at least one endpoint, and its loop ends with a fault"))
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
        let answered = self.head_in_time(answer, asked.peer, asked.intake, budget).await;
        asked.peer.disarm();
        match answered {
            None => Sent::Late,
            Some(Ok(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                let is_agreed = websocket::agrees(asked.head.headers(), &head.headers) && exchange.open_tunnel();
                Sent::Answered(if is_agreed {
                    Ok(self.returning(head, exchange, endpoint, asked.peer, budget))
                } else {
                    Err(ExchangeFault::SwitchedProtocols)
                })
            }
            Some(Ok(head)) => Sent::Answered(Ok(self.returning(head, exchange, endpoint, asked.peer, budget))),
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
        let answered = self.head_in_time(answer, asked.peer, asked.intake, budget).await;
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
                let body = ReturningBody::new(body, asked.peer.clone(), self.idle_timeout, budget.clone());
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
        &self,
        head: AnswerHead,
        exchange: Exchange,
        endpoint: &EndpointState,
        peer: &Peer,
        budget: &Budget,
    ) -> Response<ReturningBody> {
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let framing = if is_tunnel { Framing::UntilClose } else { head.framing };
        let download = Download::new(exchange, framing, head.keeps_alive, &endpoint.pool);
        let (idle, budget) = if is_tunnel {
            // A tunnel lasts as long as it is used.
            (self.tunnel_idle_timeout, Budget(None))
        } else {
            (self.idle_timeout, budget.clone())
        };
        let body = ReturningBody::new(Returned::Http1(download), peer.clone(), idle, budget);
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
    async fn head_in_time<T>(
        &self,
        answer: impl Future<Output = T>,
        peer: &Peer,
        intake: Option<&Intake>,
        budget: &Budget,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        let mut moved = 0;
        peer.arm(budget.at_most(self.response_timeout));
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
                    peer.arm(budget.at_most(self.response_timeout));
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

/// What of a call stays the same whichever connection it is tried on.
struct Asked<'a> {
    head: &'a Request<()>,
    keep_host: bool,
    peer: &'a Peer,
    intake: Option<&'a Intake>,
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

/// Methods that may be sent twice when nobody knows whether the first arrived (RFC 9110 §9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests;
