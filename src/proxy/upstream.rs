//! One call to an upstream: which endpoint, which connection, and what is tried again.
//!
//! [`Upstream::exchange`] is the seam of the upstream side: "send this head and this body, give
//! me head and body back". It is a plain function on purpose. An HTTP/1 half of our own takes
//! hyper's place behind it without anything above noticing; nothing above knows of hyper's
//! client but the type of the returned body.
//!
//! What is tried again, and why it is safe:
//! - a request that hyper hands back was never written: any method, its body untouched;
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

use http::header::HOST;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::heard::{Heard, HeardIo};
use super::intake::{Intake, OutgoingBody};
use super::pool::{Lease, Pool, Sender};
use super::returning::ReturningBody;
use crate::config::upstream::{Endpoint, UpstreamConfig};
use crate::model::clock::{Monotonic, SharedClock};
use crate::server::Peer;
use crate::tasks::Tasks;

/// The most that one connection buffers: pieces large enough to be cheap, and no more, because
/// it is held for every body under way.
const BUFFER: usize = 64 * 1024;

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
    Broken(#[source] hyper::Error),
    /// It switched protocols, which nobody had asked for.
    #[error("the upstream switched protocols unasked")]
    SwitchedProtocols,
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
    /// Head and body. Its Host is the caller's; see `keep_host`.
    pub(super) request: Request<OutgoingBody>,
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
    request_timeout: Option<Duration>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct EndpointState {
    endpoint: Endpoint,
    /// The address, where no name has to be looked up.
    address: Option<IpAddr>,
    authority: HeaderValue,
    pool: Arc<Pool>,
}

impl Upstream {
    pub(super) fn new(config: &UpstreamConfig) -> Self {
        let endpoints = config.endpoints.iter().map(|endpoint| EndpointState {
            endpoint: endpoint.clone(),
            address: endpoint.host.parse().ok(),
            authority: HeaderValue::from_str(&endpoint.authority).expect("configuration takes only authorities"),
            pool: Pool::new(config.keep_alive, config.keep_alive_connections),
        });
        Self {
            endpoints: endpoints.collect(),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            request_timeout: config.request_timeout,
            next: AtomicUsize::new(0),
        }
    }

    /// Closes idle connections that are too old.
    pub(super) fn tick(&self, now: Monotonic) {
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.tick(now));
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
        let is_replayable = is_safe(call.request.method()) && call.request.body().is_end_stream();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut fault = None;
        for offset in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[(turn + offset) % self.endpoints.len()];
            if !call.keep_host {
                call.request.headers_mut().insert(HOST, endpoint.authority.clone());
            }
            let mut kept = endpoint.pool.take();
            // A copy of the head for the one retry. It costs a map of headers for each safe
            // request on a kept connection; the values are shared, not copied.
            let mut spare = (is_replayable && kept.is_some()).then(|| copy_of_head(&call.request));
            loop {
                let is_kept = kept.is_some();
                let sender = match kept.take() {
                    Some(sender) => sender,
                    None => match self.connect(endpoint, &budget).await {
                        Ok(sender) => sender,
                        Err(error) => {
                            fault = Some(error);
                            break;
                        }
                    },
                };
                match self
                    .send(sender, call.request, endpoint, &mut call.leaving, call.peer, call.intake, &budget)
                    .await
                {
                    Sent::Answered(response) => return response,
                    Sent::Late => return Err(ExchangeFault::Late),
                    Sent::NotWritten(request, error) => {
                        (call.leaving)(false);
                        call.request = *request;
                        if !is_kept {
                            // New, and closed at once: as good as refused.
                            fault = Some(ExchangeFault::Broken(error));
                            break;
                        }
                        kept = endpoint.pool.take();
                    }
                    Sent::Broken { error, heard } => match spare.take().filter(|_| is_kept && !heard) {
                        // On a new connection: another kept one may have died the same way.
                        Some(request) => call.request = request,
                        None => return Err(ExchangeFault::Broken(error)),
                    },
                }
            }
        }
        Err(fault.expect("an upstream has at least one endpoint, and its loop ends with a fault"))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a call, which the retry must keep apart")]
    async fn send(
        &self,
        mut sender: Sender,
        request: Request<OutgoingBody>,
        endpoint: &EndpointState,
        leaving: &mut impl FnMut(bool),
        peer: &Peer,
        intake: Option<&Intake>,
        budget: &Budget,
    ) -> Sent {
        leaving(true);
        sender.heard.forget();
        let answer = sender.half.try_send_request(request);
        let answered = self.head_in_time(answer, peer, intake, budget).await;
        peer.disarm();
        match answered {
            None => Sent::Late,
            Some(Ok(response)) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                Sent::Answered(Err(ExchangeFault::SwitchedProtocols))
            }
            Some(Ok(response)) => Sent::Answered(Ok(self.returning(response, sender, endpoint, peer, budget))),
            Some(Err(mut error)) => match error.take_message() {
                Some(request) => Sent::NotWritten(Box::new(request), error.into_error()),
                None => Sent::Broken { error: error.into_error(), heard: sender.heard.anything() },
            },
        }
    }

    fn returning(
        &self,
        response: Response<Incoming>,
        sender: Sender,
        endpoint: &EndpointState,
        peer: &Peer,
        budget: &Budget,
    ) -> Response<ReturningBody> {
        let lease = Lease::new(sender, Arc::clone(&endpoint.pool));
        response.map(|incoming| ReturningBody::new(incoming, lease, peer.clone(), self.idle_timeout, budget.clone()))
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

    async fn connect(&self, endpoint: &EndpointState, budget: &Budget) -> Result<Sender, ExchangeFault> {
        let authority = || endpoint.endpoint.authority.clone();
        let connected = async {
            match endpoint.address {
                Some(address) => TcpStream::connect((address, endpoint.endpoint.port)).await,
                None => TcpStream::connect((endpoint.endpoint.host.as_str(), endpoint.endpoint.port)).await,
            }
        };
        let stream = match tokio::time::timeout(budget.at_most(self.connect_timeout), connected).await {
            Err(_) => return Err(ExchangeFault::ConnectLate { authority: authority() }),
            Ok(Err(source)) => return Err(ExchangeFault::Connect { authority: authority(), source }),
            Ok(Ok(stream)) => stream,
        };
        // Requests are written whole; without the option the connection still works.
        let _ = stream.set_nodelay(true);
        let heard = Heard::default();
        let (half, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(HeardIo::new(stream, heard.clone())))
            .await
            .map_err(ExchangeFault::Broken)?;
        // On this worker, as a task of its own: polled inside the request's task, each of the
        // two would be polled for the other's events. What goes wrong on it, the request hears.
        Tasks::spawn_here(async move {
            let _ = connection.await;
        });
        Ok(Sender { half, heard })
    }

    #[cfg(test)]
    pub(super) fn idle_connections(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.pool.len()).sum()
    }
}

#[expect(clippy::large_enum_variant, reason = "it lives for one match; the large variant is the usual one")]
enum Sent {
    Answered(Result<Response<ReturningBody>, ExchangeFault>),
    NotWritten(Box<Request<OutgoingBody>>, hyper::Error),
    /// Written, and no whole head came back; `heard`: a part of one did.
    Broken {
        error: hyper::Error,
        heard: bool,
    },
    Late,
}

/// Methods that may be sent twice when nobody knows whether the first arrived (RFC 9110 §9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn copy_of_head(request: &Request<OutgoingBody>) -> Request<OutgoingBody> {
    let mut copy = Request::new(OutgoingBody::NONE);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests;
