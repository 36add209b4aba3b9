//! Endpoints that are names: their addresses come and go while requests go on.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::testing::Told;

/// What a service at one address was sent.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicU32>,
    open: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
}

/// Answers everything at `address`, and counts.
async fn service(address: (&str, u16)) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let counts = seen.clone();
    Tasks::spawn_here(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = counts.clone();
            Tasks::spawn_here(async move {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                seen.open.fetch_add(1, Ordering::SeqCst);
                answer_all(stream, &seen.requests).await;
                seen.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

async fn answer_all(mut stream: tokio::net::TcpStream, requests: &AtomicU32) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut heads = Vec::new();
    while stream.read_buf(&mut heads).await.is_ok_and(|read| read > 0) {
        if heads.ends_with(b"\r\n\r\n") {
            heads.clear();
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    }
}

/// A gateway whose one endpoint is a name for what `told` says.
fn front(port: u16, told: &Told, change: impl FnOnce(&mut UpstreamConfig)) -> (Front, Dialer) {
    let mut config = settings(&[]);
    config.endpoints = vec![Endpoint::parse(&format!("http://orders.internal:{port}")).unwrap()];
    change(&mut config);
    let dialer = Dialer::with_lookup(&config.endpoints[0], config.protocol, None, Box::new(told.clone()));
    (Front::through(&config, std::slice::from_ref(&dialer)), dialer)
}

async fn until(fact: impl Fn() -> bool) {
    in_time(async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Ticks as the sweep does.
fn keep_ticking(front: &Front) -> CancellationToken {
    let (upstream, stop) = (Arc::clone(&front.upstream), CancellationToken::new());
    let (clock, ended) = (SystemClock::shared(), stop.clone());
    Tasks::spawn_here(async move {
        while !ended.is_cancelled() {
            upstream.tick(clock.monotonic());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    stop
}

#[tokio::test]
async fn all_addresses_of_a_name_get_requests_in_turn_on_connections_that_are_kept() {
    let (address, first) = service(("127.0.0.1", 0)).await;
    let (_, second) = service(("127.0.0.2", address.port())).await;
    let told = Told::default();
    told.tell(["127.0.0.1", "127.0.0.2"]);
    let (front, _) = front(address.port(), &told, |_| {});
    for _ in 0..40 {
        assert!(front.ask("GET").await.ends_with("ok"));
    }
    for seen in [first, second] {
        let requests = seen.requests.load(Ordering::SeqCst);
        assert!((19..=21).contains(&requests), "{requests}");
        assert!(seen.connections.load(Ordering::SeqCst) <= 2);
    }
    assert_eq!(told.asked(), 1, "once known, requests look nothing up");
}

#[tokio::test]
async fn an_address_that_is_gone_gets_no_new_requests_and_nobody_notices() {
    let (address, old) = service(("127.0.0.1", 0)).await;
    let (_, new) = service(("127.0.0.2", address.port())).await;
    let told = Told::default();
    told.tell(["127.0.0.1"]);
    let (front, dialer) = front(address.port(), &told, |_| {});
    let stop = keep_ticking(&front);
    let interval = Duration::from_millis(20);
    Tasks::spawn_here(Arc::clone(dialer.name().unwrap()).keep_up(interval, stop.clone()));
    // Always under way, on a connection that is never idle for long.
    let mut caller = front.server.connect().await;
    for number in 0..600 {
        if number == 200 {
            told.tell(["127.0.0.2"]);
        }
        if number == 400 {
            told.fail();
        }
        caller.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await;
        caller.until("\r\n\r\nok").await;
        if number % 200 > 150 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    until(|| old.open.load(Ordering::SeqCst) == 0).await;
    let (before, after) = (old.requests.load(Ordering::SeqCst), new.requests.load(Ordering::SeqCst));
    assert_eq!(before + after, 600);
    assert!(before >= 200 && after >= 200, "{before} {after}");
    stop.cancel();
}

#[tokio::test]
async fn an_address_that_takes_no_connection_costs_no_request() {
    let (address, seen) = service(("127.0.0.2", 0)).await;
    let told = Told::default();
    told.tell(["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let (front, _) = front(address.port(), &told, |_| {});
    for _ in 0..30 {
        assert!(front.ask("POST").await.ends_with("ok"));
    }
    let connections = seen.connections.load(Ordering::SeqCst);
    assert!(connections <= 4, "the others stand back: {connections} connections for 30 requests");
}

#[tokio::test]
async fn a_name_without_addresses_is_502_until_it_has_one() {
    let (address, _) = service(("127.0.0.1", 0)).await;
    let told = Told::default();
    let (front, _) = front(address.port(), &told, |_| {});
    assert!(front.ask("GET").await.starts_with("HTTP/1.1 502 "));
    assert!(front.notes.all().is_empty(), "nothing left");
    told.tell(["127.0.0.1"]);
    assert!(front.ask("GET").await.ends_with("ok"));
}

#[tokio::test]
async fn a_connection_serves_for_its_lifetime() {
    let (address, seen) = service(("127.0.0.1", 0)).await;
    let mut config = settings(&[address]);
    config.connection_lifetime = Some(Duration::from_secs(30));
    let front = Front::of(&config);
    let now = SystemClock::shared().monotonic();
    for (second, connections) in [(0, 1), (20, 1), (29, 1), (31, 2), (50, 2), (62, 3)] {
        front.upstream.tick(now.after(Duration::from_secs(second)));
        assert!(front.ask("GET").await.ends_with("ok"));
        assert_eq!(seen.connections.load(Ordering::SeqCst), connections, "second {second}");
    }
}
