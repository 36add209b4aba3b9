//! A collector of traces in tests: real HTTP, read by the protocol's own messages.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A collector; it ends when dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct State {
    /// How many posts are still answered 503.
    failures: u32,
    posts: u32,
    spans: Vec<Span>,
    resource: Vec<KeyValue>,
    head: Option<(String, HeaderMap)>,
    /// Every body as it came.
    bytes: Vec<u8>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, runtime: Some(runtime) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic holds it"))
    }

    /// Answers so many posts with 503 and takes nothing of them.
    pub(crate) fn fail(&self, posts: u32) {
        self.with(|state| state.failures = posts);
    }

    pub(crate) fn posts(&self) -> u32 {
        self.with(|state| state.posts)
    }

    /// What was taken, in order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.with(|state| state.spans.clone())
    }

    /// Target and headers of the last post that was taken.
    pub(crate) fn head(&self) -> (String, HeaderMap) {
        self.with(|state| state.head.clone()).expect("something was taken")
    }

    /// What the last post said of its process.
    pub(crate) fn resource(&self, name: &str) -> Option<String> {
        self.with(|state| find(&state.resource, name))
    }

    /// Every byte of every body.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with(|state| state.bytes.clone())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An attribute's value as text; none: it is not told.
pub(crate) fn find(attributes: &[KeyValue], name: &str) -> Option<String> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == name);
    let value = found.next()?.value.clone();
    assert!(found.next().is_none(), "{name} stands twice");
    match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("descriptors are left");
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut state = state.lock().expect("no panic holds it");
    state.posts += 1;
    let mut response = Response::new(Full::default());
    if state.failures > 0 {
        state.failures -= 1;
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    let Ok(export) = ExportTraceServiceRequest::decode(body.clone()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    state.bytes.extend_from_slice(&body);
    state.head = Some((head.uri.to_string(), head.headers));
    for of_resource in export.resource_spans {
        state.resource = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        state.spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
    }
    Ok(response)
}
