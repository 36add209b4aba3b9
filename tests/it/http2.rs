//! HTTP/2 of callers: what one stream does is that stream's alone, and what it carries is what
//! HTTP/1.1 would carry. The caller is the h2 library, frame by frame, on a listener without TLS.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;

use crate::books::Books;
use crate::harness::{Key, Setup, free_address};
use crate::upstream::Upstream;
use crate::websockets::echo_service;

/// A gateway with a listener for HTTP/2 without TLS.
struct Scene {
    setup: Setup,
    address: SocketAddr,
    client: String,
    key: Key,
}

impl Scene {
    fn new(upstream: SocketAddr, more: &str) -> Self {
        let setup = Setup::sqlite_with(upstream, more);
        let address = free_address();
        let listener = format!("[[server.listeners]]\naddress = \"{address}\"\nprotocol = \"h2c\"\n");
        setup.write_config(&(setup.config() + &listener));
        let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
        let key = setup.key(&client, &[]);
        Self { setup, address, client, key }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri).header("x-api-key", &self.key.raw)
    }
}

/// A connection.
struct Caller(SendRequest<Bytes>);

impl Caller {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (caller, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(caller.ready().await.unwrap())
    }

    fn send(&mut self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.0.send_request(request, ends).unwrap()
    }

    async fn ask(&mut self, request: Request<()>) -> Response<RecvStream> {
        self.send(request, true).0.await.unwrap()
    }
}

/// The whole body; its trailers are dropped.
async fn read(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_mins(1), test).await.expect("it ends in time") })
}

#[test]
fn what_a_stream_carries_is_what_http_1_would_carry() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "[server.limits]\nbody = \"1MiB\"\n");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let (response, mut body) = caller.send(scene.request("POST", "/echo").body(()).unwrap(), false);
        body.send_data(Bytes::from_static(b"up and "), false).unwrap();
        body.send_data(Bytes::from_static(b"down"), true).unwrap();
        assert_eq!(read(response.await.unwrap().into_body()).await.unwrap(), b"up and down");
        assert_eq!(upstream.last().headers["transfer-encoding"], "chunked");

        let (response, mut body) =
            caller.send(scene.request("POST", "/echo").header("content-length", "4").body(()).unwrap(), false);
        body.send_data(Bytes::from_static(b"four"), true).unwrap();
        assert_eq!(response.await.unwrap().headers()["content-length"], "4");
        assert_eq!(upstream.last().headers["content-length"], "4");

        // One line of cookies, the caller's own Host, nothing of the protocol.
        let crumbs =
            scene.request("GET", "/x").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers");
        let answer = caller.ask(crumbs.body(()).unwrap()).await;
        assert_eq!(answer.headers()["content-length"], "2");
        assert!(answer.headers().contains_key("date") && answer.headers().contains_key("ratelimit"));
        let seen = upstream.last().headers;
        assert_eq!(seen["cookie"], "a=1; b=2");
        assert_eq!(seen["host"], scene.address.to_string().as_str());
        assert!(!seen.contains_key("te"));

        let head = caller.ask(scene.request("HEAD", "/bytes/77").body(()).unwrap()).await;
        assert_eq!(head.headers()["content-length"], "77");
        assert!(head.into_body().is_end_stream());
        let refused = caller.ask(scene.request("HEAD", "//").body(()).unwrap()).await;
        assert_eq!((refused.status(), refused.body().is_end_stream()), (http::StatusCode::BAD_REQUEST, true));
        let empty = caller.ask(scene.request("GET", "/status/204").body(()).unwrap()).await;
        assert_eq!((empty.status().as_u16(), empty.body().is_end_stream()), (204, true));

        // Announced or found out on the way.
        let large = scene.request("POST", "/echo").header("content-length", "2000000").body(()).unwrap();
        assert_eq!(caller.send(large, false).0.await.unwrap().status(), 413);
        let (response, mut body) = caller.send(scene.request("POST", "/echo").body(()).unwrap(), false);
        body.send_data(Bytes::from(vec![0; 1_500_000]), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);

        let other_host = scene.request("GET", "/").header("host", "elsewhere").body(()).unwrap();
        assert_eq!(caller.ask(other_host).await.status(), 400);
        let mut connect = scene.request("CONNECT", "").body(()).unwrap();
        *connect.uri_mut() = "a.example:443".parse().unwrap();
        assert_eq!(caller.ask(connect).await.status(), 405);
        assert_eq!(
            read(caller.ask(scene.request("GET", "/bytes/3000000").body(()).unwrap()).await.into_body())
                .await
                .unwrap()
                .len(),
            3_000_000
        );
    });
}

#[test]
fn a_call_of_grpc_is_refused_without_a_body() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let uri = format!("http://{}/orders.Orders/Place", scene.address);
        let call = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        let (response, mut body) = caller.send(call.body(()).unwrap(), false);
        body.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
        let refused = response.await.unwrap();
        assert_eq!(refused.status(), 200);
        assert_eq!(refused.headers()["content-type"], "application/grpc");
        assert_eq!(refused.headers()["grpc-status"], "16");
        // "Trailers-only": the stream ends with its head.
        assert!(refused.body().is_end_stream());
    });
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_caller_that_waits_for_leave_gets_it_when_the_body_is_wanted() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let asks = scene.request("POST", "/echo").header("expect", "100-continue").body(()).unwrap();
        let (mut response, mut body) = caller.send(asks, false);
        let go_on = std::future::poll_fn(|context| response.poll_informational(context)).await;
        assert_eq!(go_on.unwrap().unwrap().status(), 100);
        body.send_data(Bytes::from_static(b"now"), true).unwrap();
        assert_eq!(read(response.await.unwrap().into_body()).await.unwrap(), b"now");
    });
}

#[test]
fn one_slow_reader_costs_its_stream_and_no_other() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "[server.timeouts]\nwrite_idle = \"500ms\"\n");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        // More than the window, and nobody reads it.
        let stuck = caller.ask(scene.request("GET", "/bytes/3000000").body(()).unwrap()).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let answer = caller.ask(scene.request("GET", "/").body(()).unwrap()).await;
            assert_eq!(answer.status(), 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let cut = read(stuck.into_body()).await.unwrap_err();
        assert_eq!(cut.reason(), Some(Reason::CANCEL));
    });
    let books = Books::sqlite(&scene.setup.path("octroi.db"));
    crate::harness::eventually("the event of the cut stream", || {
        books.events().iter().any(|event| event.outcome == "cut" && event.reason.as_deref() == Some("deadline"))
    });
}

#[test]
fn a_revoked_key_ends_its_streams_and_no_other() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let stays = scene.setup.key(&scene.client, &[]);
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let revoked = caller.ask(scene.request("GET", "/stream").body(()).unwrap()).await;
        let request =
            Request::builder().uri(format!("http://{}/stream", scene.address)).header("x-api-key", &stays.raw);
        let other = caller.ask(request.body(()).unwrap()).await;
        scene.setup.json(&["key", "revoke", &scene.key.public_id]);
        let cut = read(revoked.into_body()).await.unwrap_err();
        assert_eq!(cut.reason(), Some(Reason::CANCEL));
        let mut other = other.into_body();
        for _ in 0..20 {
            let tick = other.data().await.unwrap().unwrap();
            other.flow_control().release_capacity(tick.len()).unwrap();
        }
    });
}

#[test]
fn a_caller_that_gives_up_a_stream_takes_the_upstream_s_request_with_it() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let (response, mut stream) = caller.send(scene.request("GET", "/hang").body(()).unwrap(), true);
        let deadline = Instant::now() + Duration::from_secs(10);
        while upstream.seen().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stream.send_reset(Reason::CANCEL);
        assert!(response.await.is_err());
        assert_eq!(caller.ask(scene.request("GET", "/").body(()).unwrap()).await.status(), 200);
    });
    let books = Books::sqlite(&scene.setup.path("octroi.db"));
    crate::harness::eventually("the event", || books.events().iter().any(|event| event.outcome == "client_gone"));
}

#[test]
fn a_stop_lets_streams_end_and_takes_no_more() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let mut gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let (slow, _) = caller.send(scene.request("GET", "/slow/1500").body(()).unwrap(), true);
        // It has arrived when another one behind it was answered.
        assert_eq!(caller.ask(scene.request("GET", "/").body(()).unwrap()).await.status(), 200);
        gateway.signal("TERM");
        assert_eq!(read(slow.await.unwrap().into_body()).await.unwrap(), b"ok");
    });
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(scene.setup.usage("client")["total"]["requests"], 2);
}

#[test]
fn websockets_pass_over_http_2() {
    let scene = Scene::new(echo_service(), "");
    let gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        let mut request = scene.request("CONNECT", "/chat").header("sec-websocket-version", "13").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        assert_eq!(request.method(), Method::CONNECT);
        let (response, mut up) = caller.send(request, false);
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        assert!(!response.headers().contains_key("sec-websocket-accept"), "{response:?}");
        let mut down = response.into_body();
        let mut next = async || down.data().await.unwrap().unwrap();
        // A text frame: hello.
        assert_eq!(next().await, &b"\x81\x05hello"[..]);
        up.send_data(Bytes::from_static(b"\x81\x82\0\0\0\0hi"), false).unwrap();
        assert_eq!(next().await, &b"\x81\x02hi"[..]);
        // It closes: 1000, and the stream ends.
        up.send_data(Bytes::from_static(b"\x88\x82\0\0\0\0\x03\xe8"), false).unwrap();
        assert_eq!(next().await, &b"\x88\x02\x03\xe8"[..]);
        let end = down.data().await;
        assert!(end.as_ref().is_none_or(|end| end.as_ref().is_ok_and(Bytes::is_empty)), "{end:?}");
    });
    assert_eq!(gateway.stop(), 0);
    let books = Books::sqlite(&scene.setup.path("octroi.db"));
    let events: Vec<_> =
        books.events().into_iter().map(|event| (event.status, event.outcome, event.bytes_in)).collect();
    assert_eq!(events, [(Some(101), "complete".to_owned(), 16)]);
}

#[test]
fn a_service_that_is_no_websocket_cannot_be_taken_for_one() {
    let upstream = Upstream::start();
    let scene = Scene::new(upstream.address, "");
    let _gateway = scene.setup.start();
    run(async {
        let mut caller = Caller::connect(scene.address).await;
        for (protocol, path, status) in
            [("websocket", "/", 502), ("websocket", "/status/403", 403), ("other", "/", 405)]
        {
            let mut request = scene.request("CONNECT", path).body(()).unwrap();
            request.extensions_mut().insert(Protocol::from_static(protocol));
            assert_eq!(caller.send(request, false).0.await.unwrap().status(), status, "{protocol} {path}");
        }
    });
}
