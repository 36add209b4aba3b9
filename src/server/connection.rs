//! One connection of a caller: framing by hyper, deadlines by the worker's look.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::watch::{Order, Watch};
use super::{BodyError, Handler, Peer};
use crate::wire::problem::Problem;

/// The bound of hyper's read buffer: a backstop above our own limits on heads, and large enough
/// that bodies are read in good pieces.
const READ_BUFFER: usize = 64 * 1024;

/// How long the last word of a closing connection may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What hyper is allowed before our own limits answer with a problem document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backstops {
    pub(super) headers: usize,
    pub(super) head_bytes: usize,
}

/// Serves a connection until it ends.
pub(super) async fn serve<H: Handler>(stream: TcpStream, peer: Peer, handler: Arc<H>, backstops: Backstops) {
    let watch = Arc::clone(&peer.connection);
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, peer) = (Arc::clone(&handler), peer.clone());
        async move {
            peer.connection.begin_request();
            let over = RequestOver(Arc::clone(&peer.connection));
            let response = handler.handle(request, peer).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| WatchedBody { body, over: Some(over) }))
        }
    });
    let io = WatchedIo { io: TokioIo::new(stream), watch: Arc::clone(&watch) };
    let mut connection = http1::Builder::new()
        .max_headers(backstops.headers)
        .max_buf_size(READ_BUFFER.max(backstops.head_bytes))
        // hyper's own deadline runs while a connection is idle, and arms a timer per request.
        .header_read_timeout(None)
        .serve_connection(io, service);
    let (mut remembered, mut finishing) = (false, false);
    let order = poll_fn(|context| {
        if !remembered {
            watch.remember(context.waker());
            remembered = true;
        }
        match watch.order() {
            Order::None => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            order @ (Order::Close | Order::TimeOut | Order::Cut) => return Poll::Ready(order),
        }
        // How a connection ended is its requests' matter; each has settled itself by now.
        Pin::new(&mut connection).poll(context).map(|_ended| Order::None)
    })
    .await;
    if order == Order::TimeOut {
        say_time_out(connection.into_parts().io.io.into_inner()).await;
    }
}

/// Tells a caller whose head took too long, as far as it listens.
async fn say_time_out(mut stream: TcpStream) {
    let problem = Problem {
        status: 408,
        code: "request_timeout",
        title: "The request took too long",
        detail: "the request's head did not arrive in time; send it whole",
        request_id: "",
    };
    let bytes = problem.wire("Request Timeout");
    let said = tokio::time::timeout(LAST_WORD, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    });
    // A caller that does not listen either is closed all the same.
    drop(said.await);
}

/// Marks the end of a request when it is dropped: after the body's last byte was handed over, or
/// when the answer is given up.
struct RequestOver(Arc<Watch>);

impl Drop for RequestOver {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// A response's body that marks the end of its request.
struct WatchedBody<B> {
    body: B,
    #[expect(dead_code, reason = "its drop is its use")]
    over: Option<RequestOver>,
}

impl<B> Body for WatchedBody<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that tells its watch what moves.
struct WatchedIo {
    io: TokioIo<TcpStream>,
    watch: Arc<Watch>,
}

impl WatchedIo {
    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.watch.write_blocked();
        } else {
            self.watch.write_moved();
        }
        written
    }
}

impl hyper::rt::Read for WatchedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if read.is_ready() {
            self.watch.received();
        }
        read
    }
}

impl hyper::rt::Write for WatchedIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.wrote(written)
    }
}
