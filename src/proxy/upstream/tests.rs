//! Calls through a real server to upstreams that speak bytes.

mod both_ways;
mod endpoints;
mod kept_connections;
mod names;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderValue;
use tokio::net::TcpListener;

use super::*;
use crate::config::balancing::{Balance, EjectionConfig, EndpointLimits, RetryOn};
use crate::config::server::UnderscoreHeaders;
use crate::config::upstream::{Endpoint, Transport, UpstreamProtocol, UpstreamTlsConfig};
use crate::model::clock::SystemClock;
use crate::proxy::forward;
use crate::proxy::gateway::whose_fault;
use crate::proxy::headers::{Rewrite, Shape};
use crate::proxy::returning::ReturnFault;
use crate::server::testing::{Caller, Running, config, in_time};
use crate::server::{Handler, Refusal, RequestBody};
use crate::tasks::Tasks;
use crate::wire::body::Body;
use crate::wire::observed::{End, Observed, Observer};

const SHORT: Duration = Duration::from_millis(300);
const LIMIT: u64 = 100_000;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Passes everything to one upstream and notes what happened.
struct Through {
    upstream: Arc<Upstream>,
    clock: SharedClock,
    timeouts: Timeouts,
    notes: Notes,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer<ReturnFault> for Notes {
    fn ended(self, end: End<'_, ReturnFault>, bytes: u64) {
        let how = match end {
            End::Complete => "Complete",
            End::Failed(ReturnFault::Broken(_)) => "Broken",
            End::Failed(ReturnFault::Late) => "Late",
            End::Failed(ReturnFault::Overdue) => "Overdue",
            End::Dropped => "Dropped",
        };
        self.add(format!("{how} {bytes}"));
    }
}

impl Handler for Through {
    type Body = Observed<Body<ReturningBody>, Notes>;

    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Self::Body> {
        let (mut head, body) = request.into_parts();
        Rewrite {
            credentials: &[],
            underscores: UnderscoreHeaders::Drop,
            trusted: false,
            peer: peer.address_value(),
            request_id: &HeaderValue::from_static("r"),
            identity: None,
            shape: Shape::default(),
        }
        .apply(&mut head.headers);
        let method = head.method.clone();
        let target = head.uri.path_and_query().unwrap().clone();
        let (body, intake) = OutgoingBody::new(body, Some(LIMIT));
        let notes = self.notes.clone();
        let call = Call {
            request: forward::request(head, target),
            body,
            keep_host: false,
            intake: intake.as_deref(),
            peer,
            noted: None,
            leaving: |leaves| notes.add(if leaves { "leaves" } else { "stayed" }),
            timeouts: self.timeouts,
            key: 0,
        };
        match self.upstream.exchange(call, &self.clock).await {
            Ok(response) => forward::response(response, &method)
                .map(|body| Observed::new(Body::Stream(body), Some(self.notes.clone()))),
            Err(fault) => {
                let rejection = whose_fault(intake.and_then(|intake| intake.fault()), fault);
                let response = rejection.problem("r").response();
                response.map(|body| Observed::new(Body::Full(body), None))
            }
        }
    }

    fn refuse(&self, _: Refusal, _: IpAddr) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
}

/// The gateway's half of a test.
struct Front {
    server: Running,
    upstream: Arc<Upstream>,
    notes: Notes,
}

pub(in crate::proxy) fn settings(endpoints: &[SocketAddr]) -> UpstreamConfig {
    UpstreamConfig {
        name: "up".into(),
        endpoints: endpoints
            .iter()
            .map(|address| Endpoint {
                transport: Transport::Plain,
                host: address.ip().to_string(),
                port: address.port(),
                authority: address.to_string(),
            })
            .collect(),
        protocol: UpstreamProtocol::Http1,
        tls: UpstreamTlsConfig::default(),
        balance: Balance::RoundRobin,
        retry_on: RetryOn { reset: true, ..RetryOn::default() },
        limits: EndpointLimits { requests: None, pending: 0 },
        health: None,
        ejection: EjectionConfig { consecutive_failures: 0, base_time: SHORT, max_share: 50, return_time: SHORT },
        connect_timeout: SHORT,
        response_timeout: SHORT,
        idle_timeout: SHORT,
        tunnel_idle_timeout: SHORT,
        request_timeout: None,
        keep_alive: Duration::from_mins(1),
        keep_alive_connections: 4,
        connection_lifetime: None,
        resolve_interval: SHORT,
    }
}

impl Front {
    fn of(config: &UpstreamConfig) -> Self {
        let dialer = |endpoint| Dialer::new(endpoint, config.protocol, None);
        Self::through(config, &config.endpoints.iter().map(dialer).collect::<Vec<_>>())
    }

    fn through(config: &UpstreamConfig, dialers: &[Dialer]) -> Self {
        let metrics = Metrics::new(&[], &[]);
        let cluster = Cluster::new(config, &metrics);
        let upstream = Arc::new(Upstream::new(config, dialers, &cluster, &metrics));
        let notes = Notes::default();
        let through = Through {
            upstream: Arc::clone(&upstream),
            clock: SystemClock::shared(),
            timeouts: Timeouts::new(config, None),
            notes: notes.clone(),
        };
        Self { server: Running::start(through, super_config()), upstream, notes }
    }

    fn to(address: SocketAddr) -> Self {
        Self::of(&settings(&[address]))
    }

    async fn ask(&self, method: &str) -> String {
        self.server.ask(&format!("{method} /x HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: close\r\n\r\n")).await
    }
}

fn super_config() -> crate::config::server::ServerConfig {
    let mut config = config();
    config.timeouts.body_idle = SHORT;
    config
}

/// An upstream whose connections, numbered from 1, each run `script`.
async fn upstream<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(u32, Caller) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Tasks::spawn_here(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            Tasks::spawn_here(script(number, Caller(stream)));
        }
    });
    address
}

/// Answers every request of every connection with the same bytes, then closes if told to.
async fn answering(bytes: &'static str, closes: bool) -> SocketAddr {
    upstream(move |_, mut connection| async move {
        loop {
            connection.until("\r\n\r\n").await;
            connection.send(bytes).await;
            if closes {
                return;
            }
        }
    })
    .await
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn answers_of_every_framing_come_through_whole() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
    for (method, bytes, closes, start, end, told) in [
        ("GET", OK, false, "HTTP/1.1 200 OK", "\r\n\r\nok", "Complete 2"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\n\r\nto the end",
            true,
            "HTTP/1.1 200",
            "A\r\nto the end\r\n0\r\n\r\n",
            "Complete 10",
        ),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nold", true, "HTTP/1.1 200", "3\r\nold\r\n0\r\n\r\n", "Complete 3"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", false, "HTTP/1.1 200", "\r\n\r\n", "Complete 0"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", false, "HTTP/1.1 204", "\r\n\r\n", "Complete 0"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            false,
            "HTTP/1.1 304",
            "\r\n\r\n",
            "Complete 0",
        ),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
            false,
            "HTTP/1.1 201",
            "\r\n\r\n",
            "Complete 0",
        ),
        ("GET", chunked, false, "HTTP/1.1 200", "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", "Complete 3"),
    ] {
        let front = Front::to(answering(bytes, closes).await);
        let answer = front.ask(method).await;
        assert!(answer.starts_with(start) && answer.ends_with(end), "{bytes:?} became {answer:?}");
        assert_eq!(front.notes.all(), ["leaves", told], "{bytes:?}");
        assert_eq!(front.upstream.idle_connections(), usize::from(!closes), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_survive() {
    let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let front = Front::to(answering(bytes, false).await);
    let answer = front.ask("GET").await;
    assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
    assert!(answer.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn what_breaks_before_the_head_is_said_and_what_breaks_after_it_is_cut() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (bytes, start, notes) in [
        ("", "HTTP/1.1 502", &["leaves"][..]),
        ("garbage\r\n\r\n", "HTTP/1.1 502", &["leaves"]),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 502", &["leaves"]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 502", &["leaves"]),
        (cut, "HTTP/1.1 200", &["leaves", "Broken 4"]),
        (chunk, "HTTP/1.1 200", &["leaves", "Broken 4"]),
    ] {
        let front = Front::to(answering(bytes, true).await);
        let answer = front.ask("GET").await;
        assert!(answer.starts_with(start), "{bytes:?} became {answer:?}");
        assert_eq!(front.notes.all(), notes, "{bytes:?}");
        if start.contains("200") {
            assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"), "{answer}");
        } else {
            assert!(answer.contains("upstream_unavailable"), "{answer}");
        }
        assert_eq!(front.upstream.idle_connections(), 0, "a broken connection is not kept");
    }
}

#[tokio::test]
async fn nobody_there_is_502_and_nothing_leaves() {
    let front = Front::to(nobody().await);
    assert!(front.ask("GET").await.starts_with("HTTP/1.1 502 "));
    assert!(front.notes.all().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_passed_over_whatever_the_method() {
    let there = answering(OK, false).await;
    let front = Front::of(&settings(&[nobody().await, there]));
    for _ in 0..4 {
        assert!(front.ask("POST").await.ends_with("ok"));
    }
}

#[tokio::test]
async fn upstreams_that_are_late_are_504_or_cut() {
    let silent = upstream(|_, mut connection| async move {
        connection.until("\r\n\r\n").await;
        connection.rest().await;
    });
    let front = Front::to(silent.await);
    let answer = front.ask("GET").await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("upstream_timeout"), "{answer}");

    let stalling = upstream(|_, mut connection| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        connection.rest().await;
    });
    let front = Front::to(stalling.await);
    let answer = front.ask("GET").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("half"), "{answer}");
    assert_eq!(front.notes.all(), ["leaves", "Late 4"]);
}

#[tokio::test]
async fn the_whole_exchange_has_its_own_deadline() {
    let endless = upstream(|_, mut connection| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\n\r\n").await;
        while connection.0.writable().await.is_ok() && connection.0.try_write(b"more").is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let front = Front::of(&UpstreamConfig { request_timeout: Some(SHORT), ..settings(&[endless.await]) });
    let answer = front.ask("GET").await;
    assert!(answer.contains("more") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert!(front.notes.all()[1].starts_with("Overdue"), "{:?}", front.notes.all());
}

/// Reads a whole request with its body, in whichever framing, and echoes what it read.
async fn echo() -> SocketAddr {
    upstream(|_, mut connection| async move {
        loop {
            let head = connection.until("\r\n\r\n").await;
            let body = match head.to_lowercase().split("content-length: ").nth(1) {
                Some(rest) => {
                    let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
                    let mut body = vec![0; length];
                    tokio::io::AsyncReadExt::read_exact(&mut connection.0, &mut body).await.unwrap();
                    String::from_utf8(body).unwrap()
                }
                None if head.contains("chunked") => connection.until("0\r\n\r\n").await,
                None => String::new(),
            };
            let answer = format!("{head}|{body}");
            connection.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())).await;
        }
    })
    .await
}

#[tokio::test]
async fn bodies_go_up_in_their_framing_and_trailers_do_not() {
    let front = Front::to(echo().await);
    let mut caller = front.server.connect().await;
    for (request, seen) in [
        ("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", "|body"),
        ("GET /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", "|body"),
        (
            "GET /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            "|4\r\nbody\r\n0\r\n\r\n",
        ),
        (
            "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x-octroi-client-id\r\n\r\n4\r\nbody\r\n0\r\nx-octroi-client-id: me\r\n\r\n",
            "|4\r\nbody\r\n0\r\n\r\n",
        ),
        ("DELETE /p HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "|"),
    ] {
        caller.send(request).await;
        let answer = caller.until(seen).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("host: {}", front.authority())),
            "{answer}"
        );
    }
    assert_eq!(front.upstream.idle_connections(), 1);
}

impl Front {
    fn authority(&self) -> String {
        self.upstream.endpoints[0].dialer.authority().to_owned()
    }
}

#[tokio::test]
async fn a_caller_who_waits_for_the_word_is_given_it_when_the_body_is_wanted() {
    let front = Front::to(echo().await);
    let mut caller = front.server.connect().await;
    caller.send("POST /p HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    caller.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    caller.send("body").await;
    assert!(caller.until("|body").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_grows_past_its_limit_or_stands_still_is_not_the_upstream_s_fault() {
    let front = Front::to(echo().await);
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let large = format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(4));
    let answer = front.server.ask(&large).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    let answer = front.server.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    assert_eq!(front.upstream.idle_connections(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_upstream_connection_along() {
    let (closed, told) = tokio::sync::oneshot::channel();
    let closed = Mutex::new(Some(closed));
    let address = upstream(move |_, mut connection| {
        let closed = closed.lock().unwrap().take();
        async move {
            connection.until("\r\n\r\n").await;
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
            connection.rest().await;
            closed.unwrap().send(()).unwrap();
        }
    });
    let front = Front::of(&UpstreamConfig { idle_timeout: Duration::from_mins(1), ..settings(&[address.await]) });
    let mut caller = front.server.connect().await;
    caller.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    caller.until("half").await;
    drop(caller);
    in_time(told).await.unwrap();
    assert_eq!(front.notes.all(), ["leaves", "Dropped 4"]);
}
