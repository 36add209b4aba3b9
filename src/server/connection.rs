//! One connection: at rest until it asks, in the fast lane for as long as it is plain, then hyper,
//! once.
//!
//! A head that is not plain leaves [`fast_lane`] for hyper, with the bytes that were read.
//! hyper answers that one request and closes the connection: whatever comes next is read by the
//! lane again, so that no head is taken that was not judged by its bytes.
//!
//! hyper's own header timeout is off, because it is a timer per request and runs while nothing
//! happens; the deadlines are those of [`watch`](super::watch).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;

use super::caller_io::CallerIo;
use super::fast_lane::{self, HeadLimits, Leaving};
use super::resting::{self, Over};
use super::stream::Stream;
use super::watch::{Verdict, Watch};
use super::{Handler, Peer, Refusal, RequestBody};
use crate::config::server::ServerLimits;

/// How many header lines hyper parses without allocating; a limit above costs an allocation.
const LINES_ON_STACK: usize = 100;

/// The least a connection may buffer; more where heads may be larger.
const LEAST_BUFFER: usize = 64 * 1024;

/// What both engines take, set up once a worker.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    hyper: Builder,
    heads: HeadLimits,
}

impl Protocol {
    /// The engines' limits stand above ours, as a backstop: ours answer with a body that says what
    /// was too large.
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let buffer = LEAST_BUFFER.max(2 * (limits.uri + limits.headers));
        let mut hyper = Builder::new();
        hyper.keep_alive(false).half_close(false).header_read_timeout(None::<Duration>);
        // The buffer's limit is a soft one; that of the head is exact.
        hyper.max_buf_size(buffer).max_header_size(buffer);
        let mut lines = LINES_ON_STACK;
        if limits.header_count > lines {
            lines = limits.header_count + 1;
            hyper.max_headers(lines);
        }
        Self { hyper, heads: HeadLimits { bytes: buffer, lines } }
    }
}

/// Serves one connection to its end.
pub(super) async fn run<H: Handler>(mut stream: Stream, handler: Arc<H>, watch: Arc<Watch>, protocol: Protocol) {
    let io = |stream, before| CallerIo::new(stream, before, Arc::clone(&watch), Arc::clone(&handler));
    loop {
        let before = match resting::until_asked(&mut stream, &watch).await {
            Ok(before) => before,
            Err(Over::Gone) => return,
            Err(Over::Drained) => return finish(io(stream, BytesMut::new()), &watch).await,
        };
        // On the heap for as long as it is needed: a connection at rest is a tenth as large.
        match Box::pin(fast_lane::serve(stream, before, &*handler, &watch, protocol.heads)).await {
            Leaving::Rests(rests) => stream = rests,
            Leaving::Gone => return,
            Leaving::Done(stream) => return finish(io(stream, BytesMut::new()), &watch).await,
            Leaving::Refused(stream, refusal) => {
                let mut io = io(stream, BytesMut::new());
                io.answer_with(refusal);
                return finish(io, &watch).await;
            }
            Leaving::Other(stream, before) => {
                let io = io(stream, before);
                // On the heap too, because few connections come here.
                return Box::pin(run_hyper(io, handler, Arc::clone(&watch), protocol.hyper)).await;
            }
        }
    }
}

/// Has hyper serve one request.
async fn run_hyper<H: Handler>(io: CallerIo<H>, handler: Arc<H>, watch: Arc<Watch>, protocol: Builder) {
    let peer = Peer::new(Arc::clone(&watch));
    let service = service_fn(|request| answer(request, Arc::clone(&handler), peer.clone(), Arc::clone(&watch)));
    let mut connection = protocol.serve_connection(TokioIo::new(io), service);
    let mut told = false;
    let verdict = std::future::poll_fn(|context| {
        watch.runs_in(context.waker());
        if watch.verdict() != Verdict::None {
            return Poll::Ready(watch.verdict());
        }
        if watch.draining() && !told {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // What hyper reports as an error is a caller that left or sent nonsense; the one was
        // settled when its body was dropped, the other was answered.
        Pin::new(&mut connection).poll(context).map(|_| Verdict::None)
    })
    .await;
    let reset = watch.must_reset();
    let mut io = connection.into_parts().io.into_inner();
    if reset {
        // An error means the socket is gone already, which is what was wanted.
        let _ = io.stream().socket().set_linger(Some(Duration::ZERO));
    } else if verdict == Verdict::HeadTimeout {
        io.answer_with(Refusal::HeadTimeout);
        finish(io, &watch).await;
    }
}

/// Writes the last answer out and closes, for as long as the watch lets it.
async fn finish<H: Handler>(mut io: CallerIo<H>, watch: &Watch) {
    std::future::poll_fn(|context| {
        if matches!(watch.verdict(), Verdict::Close | Verdict::Stalled | Verdict::Shutdown | Verdict::Revoked) {
            return Poll::Ready(());
        }
        Pin::new(&mut io).poll_shutdown(context).map(|_| ())
    })
    .await;
}

async fn answer<H: Handler>(
    request: Request<Incoming>,
    handler: Arc<H>,
    peer: Peer,
    watch: Arc<Watch>,
) -> Result<Response<Served<H::Body>>, Infallible> {
    watch.request_began();
    let is_head = request.method() == Method::HEAD;
    let is_old = request.version() == Version::HTTP_10;
    let expects = request.headers().contains_key(EXPECT);
    let request = request.map(|incoming| RequestBody::of_engine(incoming, Arc::clone(&watch), expects));
    let mut response = handler.handle(request, &peer).await;
    if watch.is_unread() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let is_framed = response.body().size_hint().exact().is_some() || response.headers().contains_key(CONTENT_LENGTH);
    watch.close_is_the_end(is_old && !is_framed && !is_head);
    Ok(response.map(|body| Served { body, watch, ends_unread: is_head, ended: false }))
}

/// A response's body on its way out; tells the watch when nothing more is added to it.
struct Served<B: Body> {
    body: B,
    watch: Arc<Watch>,
    /// The answer to HEAD: hyper drops the body without reading it.
    ends_unread: bool,
    ended: bool,
}

impl<B: Body<Data = Bytes>> Body for Served<B>
where
    B: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let served = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut served.body).poll_frame(context));
        // Trailers are the last frame, and hyper does not ask for another.
        served.ended = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for Served<B> {
    fn drop(&mut self) {
        if self.ended || self.ends_unread || self.body.is_end_stream() {
            self.watch.response_ended();
        }
    }
}

#[cfg(test)]
mod tests;
