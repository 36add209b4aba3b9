//! One try on one endpoint: on which connection, what is repeated there, and what came of it.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;

use http::{Method, Request, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use super::connection::{ConnectionFault, Exchange};
use super::deadlines::{Budget, Timeouts};
use super::download::Download;
use super::endpoint::{EndpointState, Link};
use super::returned::Returned;
use super::streams::{Lease, StreamDownload, StreamExchange};
use super::upload::Upload;
use super::{Connection, ExchangeFault, Upstream};
use crate::proxy::intake::{Intake, OutgoingBody};
use crate::proxy::returning::ReturningBody;
use crate::server::Peer;
use crate::wire::http1::Framing;
use crate::wire::http1::answer::AnswerHead;
use crate::wire::websocket;

/// How often an endpoint may refuse a stream before another one is asked. Once is usual: how many
/// it takes is known only after the first were sent.
const REFUSALS_MOST: u8 = 3;

/// What became of a request on one endpoint.
pub(super) enum Attempt {
    Answered(Response<ReturningBody>),
    /// With the request, where another endpoint may get it.
    Failed(Option<Upload>, ExchangeFault),
}

/// What of a call stays the same whichever connection it is tried on.
pub(super) struct Asked<'a> {
    pub(super) head: &'a Request<()>,
    pub(super) keep_host: bool,
    pub(super) peer: &'a Peer,
    pub(super) intake: Option<&'a Intake>,
    pub(super) timeouts: Timeouts,
    /// It may be sent twice.
    pub(super) is_replayable: bool,
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

impl Upstream {
    /// Tries one endpoint: on a connection that is kept, else on a new one.
    pub(super) async fn attempt(
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
}
