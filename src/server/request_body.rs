//! The body of a request, with its deadline.
//!
//! Whoever reads it waits at most `server.timeouts.body_idle` for the next byte. Whoever drops
//! it unread leaves bytes in the socket; what has already arrived is taken out here, so that a
//! refused request with a small body does not cost its caller the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::fast_lane::caller::{self, SharedCaller};
use super::watch::Watch;
use crate::wire::http1::chunks::ChunkFault;
use crate::wire::http1::fields::decimal;

/// How many pieces of an unwanted body are taken out of the connection's buffer.
const UNWANTED_PIECES: usize = 4;

/// Why a request's body did not arrive.
#[derive(Debug, Error)]
pub enum BodyFault {
    /// It stood still for `server.timeouts.body_idle`.
    #[error("the request body stood still")]
    Late,
    /// The caller left, or framed it wrongly.
    #[error("the request body broke off")]
    Broken(#[source] BrokenBody),
}

/// How a request's body broke off.
#[derive(Debug, Error)]
pub enum BrokenBody {
    /// hyper's word for it.
    #[error(transparent)]
    Engine(#[from] hyper::Error),
    /// h2's.
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// The connection broke.
    #[error("the caller's connection broke")]
    Io(#[from] io::Error),
    /// The caller closed it.
    #[error("the caller left")]
    Closed,
    /// It was framed wrongly.
    #[error(transparent)]
    Chunks(#[from] ChunkFault),
}

/// Where it comes from.
#[derive(Debug)]
enum Source {
    None,
    Engine(Incoming),
    Caller(SharedCaller),
    /// Whatever comes behind a head that asked for another protocol, once that was agreed on:
    /// nothing is taken before somebody asks for it.
    Tunnel(SharedCaller),
    /// A stream of HTTP/2. `is_tunnel`: as above.
    Stream {
        body: Box<StreamBody>,
        is_tunnel: bool,
    },
}

/// The body on a stream of HTTP/2.
#[derive(Debug)]
pub(super) struct StreamBody {
    incoming: RecvStream,
    /// What the head announced, as far as it has not come.
    left: Option<u64>,
    /// Set when somebody reads: the caller waits for leave to send.
    wanted: Option<Arc<AtomicBool>>,
}

impl StreamBody {
    pub(super) fn new(incoming: RecvStream, headers: &HeaderMap, wanted: Option<Arc<AtomicBool>>) -> Self {
        let left = headers.get(CONTENT_LENGTH).and_then(|length| decimal(length.as_bytes()));
        Self { incoming, left, wanted }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted.store(true, Relaxed);
        }
        match ready!(self.incoming.poll_data(context)) {
            Some(Ok(data)) => {
                // Whoever takes it has room for it: the caller may send as much again.
                let _ = self.incoming.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                let trailers = ready!(self.incoming.poll_trailers(context));
                Poll::Ready(trailers.transpose().map(|trailers| Ok(Frame::trailers(trailers?))))
            }
        }
    }
}

impl Source {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self {
            Self::None => Poll::Ready(None),
            Self::Engine(incoming) => {
                Pin::new(incoming).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(BrokenBody::Engine)))
            }
            Self::Caller(caller) => caller::lock(caller).poll_body(context),
            Self::Tunnel(caller) => {
                let mut held = caller::lock(caller);
                held.begin_tunnel();
                let frame = held.poll_body(context);
                drop(held);
                if matches!(frame, Poll::Ready(None)) {
                    *self = Self::None;
                }
                frame
            }
            Self::Stream { body, .. } => {
                let frame = body.poll(context);
                if matches!(frame, Poll::Ready(None)) {
                    *self = Self::None;
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Engine(incoming) => incoming.is_end_stream(),
            Self::Caller(caller) => caller::lock(caller).body_has_ended(),
            Self::Tunnel(_) | Self::Stream { is_tunnel: true, .. } => false,
            Self::Stream { body, .. } => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Engine(incoming) => incoming.size_hint(),
            Self::Caller(caller) => caller::lock(caller).body_hint(),
            Self::Tunnel(_) | Self::Stream { is_tunnel: true, .. } => SizeHint::default(),
            Self::Stream { body, .. } if body.incoming.is_end_stream() => SizeHint::with_exact(0),
            Self::Stream { body, .. } => body.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    watch: Arc<Watch>,
    /// The caller waits for `100 Continue`, which reading would send.
    expects: bool,
    begun: bool,
    ended: bool,
}

impl RequestBody {
    /// hyper's.
    pub(super) fn of_engine(incoming: Incoming, watch: Arc<Watch>, expects: bool) -> Self {
        Self { source: Source::Engine(incoming), watch, expects, begun: false, ended: false }
    }

    /// Read off the caller's connection.
    pub(super) fn of_caller(caller: SharedCaller, watch: Arc<Watch>, expects: bool) -> Self {
        Self { source: Source::Caller(caller), watch, expects, begun: false, ended: false }
    }

    /// A stream's. `is_tunnel`: see [`Self::is_tunnel`].
    pub(super) fn of_stream(body: StreamBody, watch: Arc<Watch>, is_tunnel: bool) -> Self {
        let ended = !is_tunnel && body.incoming.is_end_stream();
        let source = if ended { Source::None } else { Source::Stream { body: Box::new(body), is_tunnel } };
        Self { source, watch, expects: false, begun: false, ended }
    }

    /// What comes behind a head that asked for another protocol.
    pub(super) fn tunnel(caller: SharedCaller, watch: Arc<Watch>) -> Self {
        Self { source: Source::Tunnel(caller), watch, expects: false, begun: false, ended: false }
    }

    /// Whether this is no body, but what follows if the request's `Upgrade` is answered with 101.
    /// Reading it is agreeing to that: whoever does not, drops it.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        matches!(self.source, Source::Tunnel(_) | Source::Stream { is_tunnel: true, .. })
    }

    /// There is none.
    pub(super) fn none(watch: Arc<Watch>) -> Self {
        Self { source: Source::None, watch, expects: false, begun: false, ended: true }
    }

    fn take_out_what_is_there(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..UNWANTED_PIECES {
            match self.source.poll(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => {
                    self.ended = true;
                    return;
                }
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let body = self.get_mut();
        body.begun = true;
        let frame = match body.source.poll(context) {
            Poll::Ready(frame) => frame,
            // Other protocols may be silent; how long is the upstream side's to say.
            Poll::Pending if body.is_tunnel() => return Poll::Pending,
            Poll::Pending if body.watch.body_late() => return Poll::Ready(Some(Err(BodyFault::Late))),
            Poll::Pending => {
                body.watch.body_wanted(context.waker());
                return Poll::Pending;
            }
        };
        body.watch.body_not_wanted();
        body.ended = frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(BodyFault::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // A stream ends by itself: h2 tells its caller to stop.
        let is_by_itself = (self.is_tunnel() && !self.begun) || matches!(self.source, Source::Stream { .. });
        if self.ended || is_by_itself || self.source.is_end_stream() {
            return;
        }
        self.watch.body_not_wanted();
        // One that was begun and given up is large, slow or broken.
        if !self.expects && !self.begun {
            self.take_out_what_is_there();
        }
        if !self.ended && !self.source.is_end_stream() {
            self.watch.leave_unread();
        }
    }
}
