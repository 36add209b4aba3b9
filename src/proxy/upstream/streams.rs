//! Connections of HTTP/2 to one endpoint, on one worker, and the exchanges on their streams.
//!
//! A connection is shared by as many exchanges as the upstream allows; when it takes no more,
//! another one is opened. What the upstream says it has not looked at (a refused stream, one beyond
//! the last of a GOAWAY) may be sent again.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Frame, SizeHint};

use super::connection::ConnectionFault;
use super::upload::Upload;
use crate::config::upstream::UpstreamConfig;
use crate::model::clock::Monotonic;
use crate::proxy::intake::OutgoingBody;
use crate::server::Stream;
use crate::server::names::Name;
use crate::tasks::Tasks;
use crate::wire::http1::answer::HEAD_MAX;
use crate::wire::http1::fields::decimal;
use crate::wire::http2::{SendFault, Sending};

/// The most streams on one connection: its upstream's window and its lock are shared by all.
const STREAMS_MOST: usize = 100;

/// What an upstream may send of one body before it is read on, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// What waits to be sent on one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// The open connections of one endpoint.
#[derive(Debug)]
pub(super) struct StreamPool {
    keep_alive: Duration,
    lifetime: Option<Duration>,
    /// Of the endpoint, if it is one.
    name: Option<Arc<Name>>,
    // A std mutex: a worker's own, so nobody waits; held for a look.
    kept: Mutex<Vec<Kept>>,
    /// Held while one is opened: who comes meanwhile shares it.
    pub(super) opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    /// Where it leads, where a name was looked up for it.
    address: Option<IpAddr>,
    /// When it takes no more streams; as of the first tick.
    expires: Option<Monotonic>,
    /// Since when no stream is open; as of the ticks.
    idle_since: Option<Monotonic>,
}

#[derive(Debug, Default)]
struct State {
    open: AtomicUsize,
    /// It takes no more streams.
    closed: AtomicBool,
}

/// A place for one stream on a connection.
#[derive(Debug)]
pub(super) struct Lease {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Relaxed);
    }
}

impl Lease {
    fn of(kept: &Kept) -> Self {
        kept.state.open.fetch_add(1, Relaxed);
        Self { sender: kept.sender.clone(), state: Arc::clone(&kept.state) }
    }

    /// The connection does not answer: nobody else is to use it.
    pub(super) fn abandon(&self) {
        self.state.closed.store(true, Relaxed);
    }
}

impl StreamPool {
    /// `name`: the endpoint's, if it is not an address.
    pub(super) fn new(config: &UpstreamConfig, name: Option<&Arc<Name>>) -> Self {
        Self {
            keep_alive: config.keep_alive,
            lifetime: config.connection_lifetime,
            name: name.cloned(),
            kept: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// A place on the connection with the most room. Where the endpoint is a name with more
    /// addresses than there are connections, none: the next one shall lead elsewhere.
    pub(super) fn take_spread(&self) -> Option<Lease> {
        let spread = self.name.as_ref().map_or(1, |name| name.known().count());
        let mut kept = self.kept();
        kept.retain(|connection| !connection.state.closed.load(Relaxed));
        if kept.len() < spread {
            return None;
        }
        if spread > 1 {
            // Of those with as much room, in turn.
            kept.rotate_left(1);
        }
        place(&kept)
    }

    /// A place on any connection that is open.
    pub(super) fn take(&self) -> Option<Lease> {
        place(&self.kept())
    }

    /// Where the next connection shall lead: where none does yet.
    pub(super) fn next_address(&self) -> Option<IpAddr> {
        let known = self.name.as_ref()?.known();
        let kept = self.kept();
        known.in_use().find(|address| kept.iter().all(|connection| connection.address != Some(*address)))
    }

    /// Speaks HTTP/2 on a new connection.
    pub(super) async fn open(&self, stream: Stream, address: Option<IpAddr>) -> Result<Lease, h2::Error> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(stream).await?;
        let kept = Kept { sender, state: Arc::default(), address, expires: None, idle_since: None };
        let lease = Lease::of(&kept);
        let state = Arc::clone(&kept.state);
        Tasks::spawn_here(async move {
            // Its end is told to every stream on it.
            let _ = connection.await;
            state.closed.store(true, Relaxed);
        });
        self.kept().push(kept);
        Ok(lease)
    }

    /// Closes what has been idle for too long. What is too old, or leads where the name no longer
    /// does, takes no more streams, and ends with its last.
    pub(super) fn tick(&self, now: Monotonic) {
        let known = self.name.as_ref().map(|name| name.known()).filter(|known| known.count() > 0);
        self.kept().retain_mut(|connection| {
            let is_young =
                self.lifetime.is_none_or(|lifetime| now < *connection.expires.get_or_insert(now.after(lifetime)));
            let leads_there = known.as_ref().zip(connection.address).is_none_or(|(known, address)| known.has(address));
            if !is_young || !leads_there {
                return false;
            }
            if connection.state.open.load(Relaxed) > 0 {
                connection.idle_since = None;
                return true;
            }
            let since = *connection.idle_since.get_or_insert(now);
            now.since(since) < self.keep_alive && !connection.state.closed.load(Relaxed)
        });
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(kept: &[Kept]) -> Option<Lease> {
    let open = |connection: &&Kept| connection.state.open.load(Relaxed);
    let has_room = |connection: &&Kept| {
        let most = connection.sender.current_max_send_streams().min(STREAMS_MOST);
        !connection.state.closed.load(Relaxed) && open(connection) < most
    };
    kept.iter().filter(has_room).min_by_key(open).map(Lease::of)
}

/// One request on its way on a stream, and the wait for the head of its answer.
#[derive(Debug)]
pub(super) struct StreamExchange {
    response: ResponseFuture,
    sending: Option<Sending<OutgoingBody>>,
    lease: Lease,
}

impl StreamExchange {
    /// Sends the head. `host`: in place of the caller's. An error gives the request back.
    #[expect(clippy::result_large_err, reason = "it is the request, which goes on to another connection")]
    pub(super) fn begin(
        mut lease: Lease,
        asked: &Request<()>,
        host: Option<&HeaderValue>,
        is_secure: bool,
        upload: Upload,
    ) -> Result<Self, (Upload, ConnectionFault)> {
        let is_empty = upload.is_empty();
        let head = head(asked, host, is_secure, upload.size());
        match lease.sender.send_request(head, is_empty) {
            Err(error) => {
                lease.abandon();
                Err((upload, error.into()))
            }
            Ok((response, stream)) => {
                let (first, body) = upload.into_body();
                let sending = (!is_empty).then(|| Sending::behind(first, body, stream));
                Ok(Self { response, sending, lease })
            }
        }
    }

    /// Sends and listens, until the head of the answer is there.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, ConnectionFault>> {
        poll_sending(&mut self.sending, context)?;
        Poll::Ready(ready!(Pin::new(&mut self.response).poll(context)).map_err(ConnectionFault::Stream))
    }

    /// The request, if the upstream says by `fault` that it has not looked at it, and nothing of
    /// its body is lost.
    pub(super) fn into_unprocessed(self, fault: &ConnectionFault) -> Option<Upload> {
        let ConnectionFault::Stream(error) = fault else { return None };
        let refused = error.reason() == Some(Reason::REFUSED_STREAM);
        if !error.is_remote() || !(refused || error.is_go_away()) {
            return None;
        }
        if error.is_go_away() {
            self.lease.abandon();
        }
        match self.sending {
            None => Some(Upload::new(OutgoingBody::NONE)),
            Some(sending) => sending.into_unread().map(Upload::new),
        }
    }

    /// It does not answer.
    pub(super) fn abandon(&self) {
        self.lease.abandon();
    }
}

fn poll_sending(sending: &mut Option<Sending<OutgoingBody>>, context: &mut Context<'_>) -> Result<(), ConnectionFault> {
    let Some(body) = sending else { return Ok(()) };
    match body.poll(context, |_| {}) {
        Poll::Pending => return Ok(()),
        Poll::Ready(Err(SendFault::Body)) => return Err(ConnectionFault::RequestBody),
        // It wants no more of the request; its answer counts.
        Poll::Ready(Ok(()) | Err(SendFault::Unwanted)) => {}
    }
    *sending = None;
    Ok(())
}

/// A head as a stream carries it (RFC 9113 §8.3.1).
fn head(asked: &Request<()>, host: Option<&HeaderValue>, is_secure: bool, size: Option<u64>) -> Request<()> {
    let headers = asked.headers();
    let authority = host.or_else(|| headers.get(HOST)).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let target = asked.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = Parts::default();
    parts.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.path_and_query = Some(target);
    let mut head = Request::new(());
    *head.method_mut() = asked.method().clone();
    *head.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
    *head.headers_mut() = headers.clone();
    let headers = head.headers_mut();
    for name in [HOST, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    if let Some(size) = size {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    if is_grpc(headers) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    head
}

/// Whether a request is gRPC's: its trailers mean something.
pub(in crate::proxy) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The body of an answer on its way down, off its stream.
#[derive(Debug)]
pub(in crate::proxy) struct StreamDownload {
    /// None when it has ended.
    incoming: Option<RecvStream>,
    sending: Option<Sending<OutgoingBody>>,
    left: Option<u64>,
    _lease: Lease,
}

impl StreamDownload {
    /// The body behind the head that `exchange` has just given.
    pub(super) fn new(exchange: StreamExchange, incoming: RecvStream, headers: &HeaderMap) -> Self {
        let left = headers.get(CONTENT_LENGTH).and_then(|length| decimal(length.as_bytes()));
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self { incoming, sending: exchange.sending, left, _lease: exchange.lease }
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    /// Whether more of the request has gone up since this was asked last.
    pub(in crate::proxy) fn take_moved(&mut self) -> bool {
        self.sending.as_mut().is_some_and(Sending::take_moved)
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionFault>>> {
        if let Err(fault) = poll_sending(&mut self.sending, context) {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match ready!(incoming.poll_data(context)) {
            Some(Ok(data)) => {
                // Whoever takes it has room for it: the upstream may send as much again.
                let _ = incoming.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                let trailers = ready!(incoming.poll_trailers(context));
                self.incoming = None;
                Poll::Ready(match trailers {
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    Err(error) => Some(Err(error.into())),
                })
            }
        }
    }
}
