//! Connections on real sockets, with a handler that does what the path says.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::config::server::ServerConfig;
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::usage::CutReason;
use crate::server::testing::{Running, config, in_time};
use crate::server::{BodyFault, RequestBody};
use crate::wire::problem::Problem;

/// How a response's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Read,
    CallerGone,
    Cut(CutReason),
}

type Ends = UnboundedSender<Ended>;

struct Script {
    ends: Ends,
}

/// `left` pieces, then the end, or a failure.
struct Pieces {
    left: usize,
    fails: bool,
    waits: bool,
    peer: Peer,
    ends: Ends,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let pieces = self.get_mut();
        if pieces.left > 0 {
            pieces.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece")))));
        }
        if pieces.waits {
            return Poll::Pending;
        }
        Poll::Ready(pieces.fails.then(|| Err("on purpose")))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let is_read = self.left == 0 && !self.waits;
        let cut = || self.peer.cut_reason().map_or(Ended::CallerGone, Ended::Cut);
        let _ = self.ends.send(if is_read { Ended::Read } else { cut() });
    }
}

impl Handler for Script {
    type Body = Pieces;

    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Pieces> {
        let path = request.uri().path().to_owned();
        let fragment = peer.take_fragment();
        let mut status = StatusCode::OK;
        if path == "/read" {
            match request.into_body().collect().await {
                Ok(_) => {}
                Err(BodyFault::Late) => status = StatusCode::REQUEST_TIMEOUT,
                Err(BodyFault::Broken(_)) => status = StatusCode::BAD_REQUEST,
            }
        } else if path == "/never" {
            std::future::pending::<()>().await;
        } else if fragment {
            status = StatusCode::IM_A_TEAPOT;
        }
        let (left, fails, waits) = match path.as_str() {
            "/endless" => (usize::MAX, false, false),
            "/fails" => (1, true, false),
            "/waits" => (1, false, true),
            _ => (1, false, false),
        };
        let mut response = Response::new(Pieces { left, fails, waits, peer: peer.clone(), ends: self.ends.clone() });
        *response.status_mut() = status;
        response
    }

    fn refuse(&self, refusal: Refusal, _: std::net::IpAddr) -> Response<Bytes> {
        let status = match refusal {
            Refusal::Malformed => StatusCode::BAD_REQUEST,
            Refusal::UriTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem { status, code: "refused", title: "t", detail: "d", request_id: None, oauth_error: None }.response()
    }
}

fn started(config: ServerConfig) -> (Running, UnboundedReceiver<Ended>) {
    let (ends, told) = unbounded_channel();
    (Running::start(Script { ends }, config), told)
}

fn with_timeouts(change: impl FnOnce(&mut crate::config::server::TimeoutConfig)) -> ServerConfig {
    let mut config = config();
    change(&mut config.timeouts);
    config
}

const SHORT: Duration = Duration::from_millis(200);
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PIECE: &str = "5\r\npiece\r\n0\r\n\r\n";

#[tokio::test]
async fn what_is_no_request_gets_an_answer_with_a_body() {
    let (server, _ends) = started(config());
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(120));
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\na: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nx : y\r\n\r\n", "400"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "400"),
        (&many, "431"),
        (&huge, "431"),
    ] {
        let answer = server.ask(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.ends_with('}'), "{answer}");
    }
}

#[tokio::test]
async fn a_fragment_is_seen_although_the_parser_drops_it() {
    let (server, _ends) = started(config());
    let mut caller = server.connect().await;
    for (target, seen) in [("/a#b", true), ("/a", false), ("/a?#", true)] {
        caller.send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = caller.until(PIECE).await;
        assert_eq!(answer.starts_with("HTTP/1.1 418"), seen, "{target}");
    }
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let (server, _ends) = started(with_timeouts(|timeouts| {
        timeouts.request_head = SHORT;
        timeouts.keep_alive = SHORT;
    }));
    let clock = SystemClock::new();
    let begun = clock.monotonic();
    assert_eq!(server.ask("").await, "", "nothing was asked, nothing is answered");
    let half = server.ask("GET / HTTP/1.1\r\nHost").await;
    assert!(half.starts_with("HTTP/1.1 408 ") && half.ends_with('}'), "{half}");
    assert!(clock.monotonic().since(begun) >= 2 * SHORT, "a deadline is never early");

    let mut caller = server.connect().await;
    caller.send(GET).await;
    caller.until(PIECE).await;
    let idle = clock.monotonic();
    assert_eq!(caller.rest().await, "");
    assert!(clock.monotonic().since(idle) >= SHORT);
}

#[tokio::test]
async fn a_head_that_drips_has_no_more_time_than_one_that_stands() {
    let (server, _ends) = started(with_timeouts(|timeouts| timeouts.request_head = SHORT));
    let caller = server.connect().await;
    let mut dripped = 0;
    for _ in 0..100 {
        dripped += 1;
        if caller.0.try_write(b"G").is_err() {
            break;
        }
        tokio::time::sleep(SHORT / 10).await;
        let mut byte = [0];
        if caller.0.try_read(&mut byte).is_ok() {
            break;
        }
    }
    assert!(dripped < 50, "dripping kept the connection open");
}

#[tokio::test]
async fn a_body_that_stands_still_is_answered_and_the_connection_closed() {
    let (server, _ends) = started(with_timeouts(|timeouts| timeouts.body_idle = SHORT));
    let answer = server.ask("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_body_nobody_reads_does_not_cost_the_answer() {
    let (server, _ends) = started(config());
    // Larger than all buffers in between: without waiting, the close would reset the answer away.
    let large = "x".repeat(8 * 1024 * 1024);
    let answer =
        server.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len())).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");

    let mut caller = server.connect().await;
    for _ in 0..3 {
        caller.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
        let answer = caller.until(PIECE).await;
        assert!(!answer.contains("connection: close"), "a small body is no reason to close: {answer}");
    }
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "a body that is not wanted is not asked for: {answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (server, _ends) = started(config());
    let answers = server.ask(&format!("{GET}{GET}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_and_the_body_learns_why() {
    let (server, mut ends) = started(with_timeouts(|timeouts| timeouts.write_idle = SHORT));
    let mut caller = server.connect().await;
    caller.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(in_time(ends.recv()).await, Some(Ended::Cut(CutReason::Deadline)));
}

#[tokio::test]
async fn a_caller_that_leaves_is_no_cut() {
    let (server, mut ends) = started(config());
    let mut caller = server.connect().await;
    caller.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.until("5\r\npiece\r\n").await;
    drop(caller);
    assert_eq!(in_time(ends.recv()).await, Some(Ended::CallerGone));
}

#[tokio::test]
async fn a_soft_stop_ends_idle_connections_at_once_and_lets_others_finish() {
    let (server, mut ends) = started(config());
    let mut fresh = server.connect().await;
    let mut idle = server.connect().await;
    idle.send(GET).await;
    idle.until(PIECE).await;
    let mut busy = server.connect().await;
    busy.send("POST /read HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    busy.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    server.tasks.stop_softly();
    assert_eq!((idle.rest().await, fresh.rest().await), (String::new(), String::new()));
    busy.send("body").await;
    let answer = busy.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing new is accepted");
    server.ended().await;
    assert_eq!((ends.recv().await, ends.recv().await), (Some(Ended::Read), Some(Ended::Read)));
}

#[tokio::test]
async fn a_hard_stop_cuts_what_still_runs() {
    let (server, mut ends) = started(config());
    let mut caller = server.connect().await;
    caller.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.until("piece\r\n").await;
    server.tasks.stop_hard();
    assert_eq!(in_time(ends.recv()).await, Some(Ended::Cut(CutReason::Shutdown)));
    assert_eq!(caller.rest().await, "", "a cut body does not look finished");
    server.ended().await;
}

#[tokio::test]
async fn a_body_that_fails_never_looks_finished() {
    let (server, _ends) = started(config());
    let modern = server.ask("GET /fails HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!modern.ends_with("0\r\n\r\n"), "{modern}");
    // For an old caller the end of the connection is the end of the body: it must be a reset.
    let mut old = server.connect().await;
    old.send("GET /fails HTTP/1.0\r\n\r\n").await;
    let mut bytes = Vec::new();
    let read = in_time(old.0.read_to_end(&mut bytes)).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let whole = server.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert!(whole.ends_with("\r\n\r\npiece"), "{whole}");
}

#[tokio::test]
async fn over_the_cap_is_refused_at_once_and_a_place_comes_free() {
    let mut few = config();
    few.limits.connections = 1;
    let (server, _ends) = started(few);
    let mut first = server.connect().await;
    first.send(GET).await;
    first.until(PIECE).await;
    let refused = server.ask("").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.ends_with('}'), "{refused}");
    drop(first);
    in_time(async {
        let closing = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        while !server.ask(closing).await.starts_with("HTTP/1.1 200 ") {}
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_head_leaves_the_connection_idle() {
    let (server, _ends) = started(with_timeouts(|timeouts| timeouts.keep_alive = SHORT));
    let mut caller = server.connect().await;
    caller.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.until("\r\n\r\n").await;
    assert_eq!(caller.rest().await, "", "closed when it was idle for too long, and not before");
}
