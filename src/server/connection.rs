//! One connection: hyper frames, the watch judges, the handler answers.
//!
//! hyper's own header timeout is off, because it is a timer per request and runs while nothing
//! happens; the deadlines are those of [`watch`](super::watch). The seam for an HTTP/1 half of
//! our own is [`run`]: a socket in, calls of the handler, the socket's end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::caller_io::CallerIo;
use super::watch::{Verdict, Watch};
use super::{Handler, Peer, Refusal, RequestBody};
use crate::config::server::ServerLimits;

/// How many header lines hyper parses without allocating; a limit above costs an allocation.
const LINES_ON_STACK: usize = 100;

/// The least a connection may buffer; more where heads may be larger.
const LEAST_BUFFER: usize = 64 * 1024;

/// hyper, set up once a worker. Its limits stand above ours, as a backstop: ours answer with a
/// body that says what was too large.
pub(super) fn protocol(limits: &ServerLimits) -> Builder {
    let buffer = LEAST_BUFFER.max(2 * (limits.uri + limits.headers));
    let mut builder = Builder::new();
    // The buffer's limit is a soft one; that of the head is exact.
    builder.half_close(false).header_read_timeout(None::<Duration>).max_buf_size(buffer).max_header_size(buffer);
    if limits.header_count > LINES_ON_STACK {
        builder.max_headers(limits.header_count + 1);
    }
    builder
}

/// Serves one connection to its end.
pub(super) async fn run<H: Handler>(stream: TcpStream, handler: Arc<H>, watch: Arc<Watch>, protocol: Builder) {
    let peer = Peer::new(Arc::clone(&watch));
    let io = TokioIo::new(CallerIo::new(stream, Arc::clone(&watch), Arc::clone(&handler)));
    let service = service_fn(|request| answer(request, Arc::clone(&handler), peer.clone(), Arc::clone(&watch)));
    let mut connection = protocol.serve_connection(io, service);
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
        let _ = socket2::SockRef::from(io.stream()).set_linger(Some(Duration::ZERO));
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
    let request = request.map(|incoming| RequestBody::new(incoming, Arc::clone(&watch), expects));
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
