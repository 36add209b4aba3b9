//! The lane on real sockets: what is served in it, what leaves it, and that hyper agrees.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::server::testing::{Running, config, in_time};
use crate::tasks::Tasks;
use crate::wire::problem::Problem;

/// Answers with what it saw: method, target, body; or never, at `/never`.
#[derive(Default)]
struct Echo {
    dropped: Arc<AtomicUsize>,
}

/// Counts when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Echo {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<RequestBody>, _: &Peer) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if head.uri.path() == "/never" {
            let _dropped = Dropped(Arc::clone(&self.dropped));
            std::future::pending::<()>().await;
        }
        let body = match body.collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(fault) => format!("{fault}"),
        };
        Response::new(Full::from(format!("[{} {} {body}]", head.method, head.uri)))
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

/// Whole connections: what is sent, and the statuses and bodies that come back.
const CONNECTIONS: &[(&str, &[&str])] = &[
    ("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &["200 [GET /a ]"]),
    ("\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &["200 [GET /a ]"]),
    ("POST /a HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody", &["200 [POST /a body]"]),
    (
        "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;x\r\nbo\r\n2\r\ndy\r\n0\r\nt: 1\r\n\r\n",
        &["200 [POST /a body]"],
    ),
    (
        "POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nConnection: close\r\n\r\n",
        &["200 [POST /a body]", "200 [GET /b ]", "200 [GET /c ]"],
    ),
    (
        "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 1\r\nConnection: close\r\n\r\nb",
        &["200 [POST /a a]", "200 [POST /b b]"],
    ),
    // Other shapes: one answer, and the connection is closed behind it.
    ("GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.1\r\n\r\n", &["200 [GET /a ]"]),
    ("GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\n\r\n", &["200 [GET http://h/a ]"]),
    ("GET /b HTTP/1.1\r\n\r\nGET /a HTTP/1.0\r\n\r\n", &["200 [GET /b ]", "200 [GET /a ]"]),
    // Refused, at once and for good.
    ("nonsense\r\n\r\nGET /b HTTP/1.1\r\n\r\n", &["400"]),
    ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", &["400"]),
    ("GET / HTTP/1.1\r\nHost: h\nX: GET\r\n\r\n", &["400"]),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        &["400"],
    ),
    ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &["400"]),
    ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", &["400"]),
    ("GET /a HTTP/1.1\r\n\r\nGET / HTTP/1.1\nHost: h\r\n\r\n", &["200 [GET /a ]", "400"]),
];

/// Statuses, with the body where it is the handler's.
fn answers(mut text: &str) -> Vec<String> {
    let mut found = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let status = head.split(' ').nth(1).unwrap();
        let length = head.split("content-length: ").nth(1).expect("a length").lines().next().unwrap();
        let (body, next) = rest.split_at(length.parse().unwrap());
        found.push(if body.starts_with('[') { format!("{status} {body}") } else { status.to_owned() });
        text = next;
    }
    found
}

#[tokio::test]
async fn a_verdict_does_not_depend_on_how_the_bytes_arrive() {
    let server = Running::start(Echo::default(), config());
    for (bytes, expected) in CONNECTIONS {
        for split in 0..bytes.len() {
            let mut caller = server.connect().await;
            let (before, after) = bytes.split_at(split);
            caller.send(before).await;
            // The server runs on this thread: now it reads what is there.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            // Refused already: the rest is not taken any more.
            let _ = in_time(caller.0.write_all(after.as_bytes())).await;
            let mut text = Vec::new();
            let _ = in_time(caller.0.read_to_end(&mut text)).await;
            assert_eq!(answers(std::str::from_utf8(&text).unwrap()), *expected, "{bytes:?} split at {split}");
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_handler_along() {
    let echo = Echo::default();
    let dropped = Arc::clone(&echo.dropped);
    let server = Running::start(echo, config());
    let mut caller = server.connect().await;
    caller.send("GET /never HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\n\r\n").await;
    drop(caller);
    in_time(async {
        while dropped.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_framed_wrongly_fails() {
    let server = Running::start(Echo::default(), config());
    let wrong = server.ask("POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n").await;
    assert!(wrong.ends_with("[POST / the request body broke off]"), "{wrong}");
    assert!(wrong.contains("connection: close\r\n"), "{wrong}");
}

/// What hyper makes of a connection with this one request: method, target and headers, if it
/// calls its service.
async fn by_hyper(bytes: &[u8]) -> Option<(Method, String, http::HeaderMap)> {
    let (mut caller, server) = tokio::io::duplex(64 * 1024);
    let (seen, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (head, _) = request.into_parts();
        let _ = seen.send((head.method, head.uri.to_string(), head.headers));
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    });
    let serving = Tasks::spawn_here(async move {
        let _ = Builder::new().keep_alive(false).serve_connection(TokioIo::new(server), service).await;
    });
    caller.write_all(bytes).await.unwrap();
    caller.shutdown().await.unwrap();
    let _ = serving.await;
    told.try_recv().ok()
}

/// Parts of heads, good and bad, in any order.
fn heads() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => Just("Host: h\r\n".to_owned()),
        2 => Just("Content-Length: 3\r\n".to_owned()),
        1 => Just("Content-Length: +3\r\n".to_owned()),
        2 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Transfer-Encoding: gzip\r\n".to_owned()),
        1 => Just("Connection: close\r\n".to_owned()),
        1 => Just("X: a\n".to_owned()),
        1 => Just(" folded\r\n".to_owned()),
        1 => Just("X : a\r\n".to_owned()),
        1 => Just("Expect: 100-continue\r\n".to_owned()),
        3 => "[A-Za-z-]{1,8}: ?[ -~\t\u{80}-\u{ff}]{0,12}\r\n",
        1 => "[ -~\r\n\0]{0,12}\r\n",
    ];
    let start = prop_oneof![
        6 => Just("GET / HTTP/1.1\r\n".to_owned()),
        3 => Just("POST /a?b HTTP/1.1\r\n".to_owned()),
        2 => "[A-Z]{1,6} /[!-~]{0,12} HTTP/1.1\r\n",
        1 => "[ -~]{0,16}\r\n",
        1 => Just("GET / HTTP/1.0\r\n".to_owned()),
    ];
    (start, prop::collection::vec(line, 0..6)).prop_map(|(start, lines)| start + &lines.concat() + "\r\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is plain here is accepted by hyper, and read as the same.
    #[test]
    fn what_is_plain_hyper_reads_the_same(head in heads()) {
        let bytes = Bytes::from(head.clone().into_bytes());
        let Some(end) = head_end(&bytes, 0) else { return Ok(()) };
        let Judged::Plain(plain) = request::judge(&bytes.slice(..end), 100) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let theirs = runtime.block_on(by_hyper(&bytes[..end]));
        let ours = (plain.request.method().clone(), plain.request.uri().to_string(), plain.request.headers().clone());
        prop_assert_eq!(Some(ours), theirs, "{:?}", head);
    }
}
