//! A connection of HTTP/2 (RFC 9113): its limits, its deadlines, and a task for each stream.
//!
//! A stream is an exchange like any other: it has a [`Watch`] of its own, so that what is late or
//! withdrawn ends that stream and no other. The connection's watch knows whether any stream is
//! open, and whether the socket takes what is written.
//!
//! The frames are h2's; what it bounds is set here: streams at once, the header list, what may be
//! buffered, and how often a peer may open streams only to reset them (CVE-2023-44487,
//! CVE-2025-8671). Header blocks over many frames (CVE-2024-27316) and empty frames it bounds by
//! itself.

mod exchange;
mod translation;
mod watched_io;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};
use http::Request;

use self::watched_io::WatchedIo;
use super::Handler;
use super::stream::Stream;
use super::watch::{Phase, Sweeper, Verdict, Watch};
use crate::config::server::ServerLimits;
use crate::tasks::Tasks;

/// Streams that a caller may have open at once: what common servers allow.
const STREAMS: u32 = 100;

/// What a caller may send of one body before it is read on, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What waits to be sent on one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset by the caller before anybody looked at them; more, and it goes.
const RESETS_PENDING: usize = 20;

/// Streams that we had to reset for what the caller did; more, and it goes.
const RESETS_OF_OURS: usize = 100;

/// What every connection is set up with.
#[derive(Clone, Debug)]
pub(super) struct Protocol(Builder);

impl Protocol {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(Some(RESETS_OF_OURS))
            // Ours is exact and answers with a body; this one stands behind it. RFC 9113 §6.5.2
            // counts 32 bytes more for each line.
            .max_header_list_size(u32::try_from(2 * (limits.uri + limits.headers)).unwrap_or(u32::MAX))
            .enable_connect_protocol();
        Self(builder)
    }
}

/// Serves a connection to its end.
pub(super) async fn run<H: Handler>(
    stream: Stream,
    handler: Arc<H>,
    watch: Arc<Watch>,
    sweeper: Arc<Sweeper>,
    protocol: &Protocol,
) {
    let io = WatchedIo::new(stream, Arc::clone(&watch));
    let mut opening = std::pin::pin!(protocol.0.handshake::<_, Bytes>(io));
    let opened = poll_fn(|context| {
        watch.runs_in(context.waker());
        if watch.verdict() != Verdict::None {
            return Poll::Ready(None);
        }
        opening.as_mut().poll(context).map(Result::ok)
    });
    let Some(mut connection) = opened.await else { return };
    let streams = Streams { open: Arc::default(), watch, sweeper };
    let mut told = false;
    while let Some((request, respond)) = next(&mut connection, &streams.watch, &mut told).await {
        let open = streams.open();
        let handler = Arc::clone(&handler);
        // Made inside: a future that is moved into another stands in it twice.
        Tasks::spawn_here(async move {
            exchange::run(request, respond, handler, Arc::clone(&open.watch)).await;
            drop(open);
        });
    }
}

type Next = (Request<RecvStream>, h2::server::SendResponse<Bytes>);

/// Drives the connection until another stream begins; none: it is over. `told`: whether the caller
/// knows that it is to end.
async fn next(connection: &mut Connection<WatchedIo, Bytes>, watch: &Watch, told: &mut bool) -> Option<Next> {
    poll_fn(|context| {
        watch.runs_in(context.waker());
        match watch.verdict() {
            Verdict::None => {}
            Verdict::Close | Verdict::HeadTimeout => {
                // Idle or never used: goodbye, as far as the socket takes it at once.
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let _ = connection.poll_closed(context);
                return Poll::Ready(None);
            }
            Verdict::Stalled | Verdict::Shutdown | Verdict::Revoked => return Poll::Ready(None),
        }
        if watch.draining() {
            if !std::mem::replace(told, true) {
                connection.graceful_shutdown();
            }
            // With nothing open, whoever does not answer is not waited for.
            if watch.phase().is_idle() {
                watch.enter(Phase::Linger);
            }
        }
        // An error is the caller's: it left, or broke the protocol, which h2 has told it.
        connection.poll_accept(context).map(|next| next.and_then(Result::ok))
    })
    .await
}

/// The open streams of a connection.
struct Streams {
    open: Arc<AtomicUsize>,
    watch: Arc<Watch>,
    sweeper: Arc<Sweeper>,
}

/// One of them.
struct OpenStream {
    /// The stream's own.
    watch: Arc<Watch>,
    of: Arc<Watch>,
    open: Arc<AtomicUsize>,
}

impl Streams {
    fn open(&self) -> OpenStream {
        if self.open.fetch_add(1, Relaxed) == 0 {
            self.watch.enter(Phase::Request);
        }
        let watch = self.watch.beside();
        self.sweeper.add(&watch);
        OpenStream { watch, of: Arc::clone(&self.watch), open: Arc::clone(&self.open) }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.open.fetch_sub(1, Relaxed) == 1 {
            self.of.enter(Phase::Idle);
        }
    }
}
