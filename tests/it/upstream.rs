//! The upstream behind the gateway in tests: a real HTTP/1.1 server that records what arrived.
//!
//! Its path says how it behaves: `/echo` answers with what it was sent, `/bytes/N` with N bytes,
//! `/cost/N` saying that it cost so much, `/slow/MS` after a pause, `/status/N` with that status, `/said` with headers that routes have a say in, `/hang` never, `/stream` with a chunk
//! each 50 ms for as long as someone reads, `/ticks/N/MS` with N of them and the end MS later, anything else with `ok`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body_bytes: u64,
}

/// A running upstream; it ends when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    record: Arc<Record>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    request_ids: Mutex<Vec<String>>,
    ids_only: bool,
}

impl Upstream {
    /// Records whole requests.
    pub(crate) fn start() -> Self {
        Self::with(Record::default())
    }

    /// Records request ids only: for load.
    pub(crate) fn start_counting() -> Self {
        Self::with(Record { ids_only: true, ..Record::default() })
    }

    fn with(record: Record) -> Self {
        let record = Arc::new(record);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(accept(listener, Arc::clone(&record)));
        Self { address, record, runtime: Some(runtime) }
    }

    /// Requests seen so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().expect("no panic holds it").clone()
    }

    /// The last request seen.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("a request arrived")
    }

    /// Request ids seen so far, in order of arrival.
    pub(crate) fn request_ids(&self) -> Vec<String> {
        self.record.request_ids.lock().expect("no panic holds it").clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, record: Arc<Record>) {
    loop {
        let (stream, _) = listener.accept().await.expect("descriptors are left");
        stream.set_nodelay(true).expect("a TCP socket");
        let record = Arc::clone(&record);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&record)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, record: Arc<Record>) -> Result<Response<Body>, Infallible> {
    let (head, mut body) = request.into_parts();
    // Recorded before the body is read: the head has arrived, whatever becomes of the rest.
    if let Some(id) = head.headers.get("x-request-id") {
        let id = id.to_str().expect("ASCII").to_owned();
        record.request_ids.lock().expect("no panic holds it").push(id);
    }
    let mut received = Vec::new();
    let mut body_bytes = 0;
    let keeps_body = head.uri.path().starts_with("/echo");
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        if let Some(data) = frame.data_ref() {
            body_bytes += data.len() as u64;
            if keeps_body {
                received.extend_from_slice(data);
            }
        }
    }
    if !record.ids_only {
        let seen = Seen {
            target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: head.headers.clone(),
            body_bytes,
        };
        record.seen.lock().expect("no panic holds it").push(seen);
    }
    Ok(behave(head.uri.path(), received).await)
}

async fn behave(path: &str, received: Vec<u8>) -> Response<Body> {
    let mut parts = path.trim_start_matches('/').split('/');
    let (word, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|text| text.parse::<u64>().ok()));
    match (word, number) {
        ("echo", _) => whole(Bytes::from(received)),
        ("bytes", Some(count)) => bytes(count),
        ("slow", Some(milliseconds)) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            whole(Bytes::from_static(b"ok"))
        }
        ("cost", Some(cost)) => {
            let mut response = whole(Bytes::from_static(b"ok"));
            response.headers_mut().insert("x-cost", cost.into());
            response
        }
        ("status", Some(status)) => {
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(u16::try_from(status).expect("a status")).expect("a status");
            response
        }
        ("said", _) => {
            let mut response = whole(Bytes::from_static(b"said"));
            for (name, value) in [("access-control-allow-origin", "*"), ("vary", "accept"), ("x-internal", "1")] {
                response.headers_mut().insert(name, http::HeaderValue::from_static(value));
            }
            response
        }
        ("hang", _) => std::future::pending().await,
        ("stream", _) => ticks(u64::MAX, 0),
        ("ticks", Some(count)) => ticks(count, parts.next().and_then(|text| text.parse().ok()).unwrap_or(0)),
        _ => whole(Bytes::from_static(b"ok")),
    }
}

fn whole(body: Bytes) -> Response<Body> {
    Response::new(Full::new(body).boxed_unsync())
}

fn bytes(count: u64) -> Response<Body> {
    const PIECE: usize = 64 * 1024;
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(4);
    tokio::spawn(async move {
        let mut left = count;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            if sender.send(Bytes::from_static(&ZEROS[..piece])).await.is_err() {
                return;
            }
            left -= piece as u64;
        }
    });
    let mut response = Response::new(from_channel(receiver));
    response.headers_mut().insert("content-length", count.into());
    response
}

fn ticks(count: u64, pause: u64) -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        for _ in 0..count {
            if sender.send(Bytes::from_static(b"tick\n")).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    });
    Response::new(from_channel(receiver))
}

fn from_channel(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Body {
    Pieces(pieces).boxed_unsync()
}

/// A body fed from elsewhere.
struct Pieces(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
