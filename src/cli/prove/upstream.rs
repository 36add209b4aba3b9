//! The service behind the gateway under proof: writes down the id of every request whose head
//! arrived, and then answers well, badly, halfway or not at all, as the path asks.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Interval, interval};
use uuid::Uuid;

use crate::tasks::Tasks;

/// Stands in every answer that came from here, and not from the gateway.
pub(super) const MARK: HeaderName = HeaderName::from_static("x-proof");

/// A running upstream.
pub(super) struct Upstream {
    /// Where it listens.
    pub(super) address: SocketAddr,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    /// A gateway that tries again sends an id twice.
    arrived: Mutex<HashSet<Uuid>>,
    /// Closes connections before it reads.
    deaf: AtomicBool,
}

impl Upstream {
    /// Listens on a free port.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let record = Arc::new(Record::default());
        Tasks::spawn_here(accept(listener, Arc::clone(&record)));
        Ok(Self { address, record })
    }

    /// Ids of all requests whose head arrived.
    pub(super) fn arrived(&self) -> HashSet<Uuid> {
        self.record.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many those are.
    pub(super) fn count(&self) -> u64 {
        self.record.arrived.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Whether new connections are closed at once.
    pub(super) fn turn_deaf(&self, deaf: bool) {
        self.record.deaf.store(deaf, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, record: Arc<Record>) {
    loop {
        // An accept that fails (no descriptor left) must not spin.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if !record.deaf.load(Ordering::Relaxed) {
            Tasks::spawn_here(serve(stream, Arc::clone(&record)));
        }
    }
}

async fn serve(stream: TcpStream, record: Arc<Record>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Arc::clone(&record)));
    // A gateway that is killed ends its connections; nobody is to be told.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, record: Arc<Record>) -> io::Result<Response<Pieces>> {
    let (head, mut body) = request.into_parts();
    // Before the body is read: the head has arrived, whatever becomes of the rest.
    let id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).and_then(|id| Uuid::parse_str(id).ok());
    record.arrived.lock().unwrap_or_else(PoisonError::into_inner).insert(id.unwrap_or_default());
    if record.deaf.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| io::ErrorKind::ConnectionReset)?;
    }
    let mut status = StatusCode::OK;
    let pieces = match head.uri.path() {
        "/large" => Pieces::new(8, 32 * 1024),
        "/slow" => Pieces::new(5, 100).each(Duration::from_millis(40)),
        "/half" => Pieces::new(3, 1024).broken_off(),
        "/silent" => return Err(io::ErrorKind::ConnectionReset.into()),
        "/failing" => {
            status = StatusCode::INTERNAL_SERVER_ERROR;
            Pieces::new(1, 10)
        }
        _ => Pieces::new(1, 10),
    };
    let mut response = Response::new(pieces);
    *response.status_mut() = status;
    response.headers_mut().insert(MARK, HeaderValue::from_static("upstream"));
    Ok(response)
}

/// A body of equal pieces.
pub(super) struct Pieces {
    left: u32,
    bytes: usize,
    pause: Option<Interval>,
    breaks_off: bool,
}

impl Pieces {
    fn new(left: u32, bytes: usize) -> Self {
        Self { left, bytes, pause: None, breaks_off: false }
    }

    fn each(self, pause: Duration) -> Self {
        Self { pause: Some(interval(pause)), ..self }
    }

    fn broken_off(self) -> Self {
        Self { breaks_off: true, ..self }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        static ZEROS: [u8; 32 * 1024] = [b'0'; 32 * 1024];
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll_tick(context));
        }
        if self.left == 0 {
            let end = self.breaks_off.then(|| Err(io::ErrorKind::ConnectionReset.into()));
            return Poll::Ready(end);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS[..self.bytes])))))
    }
}
