//! Connections that are kept: what they serve, what their death costs, how many there are.

use super::*;

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let connections = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&connections);
    let address = upstream(move |number, mut connection| {
        seen.store(number, Ordering::SeqCst);
        async move {
            loop {
                connection.until("\r\n\r\n").await;
                connection.send(OK).await;
            }
        }
    });
    let front = Front::to(address.await);
    let mut caller = front.server.connect().await;
    for _ in 0..50 {
        caller.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        caller.until("\r\n\r\nok").await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// A kept connection that takes the next request and dies without a word.
async fn dying() -> (SocketAddr, Arc<AtomicU32>) {
    let connections = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&connections);
    let address = upstream(move |number, mut connection| {
        seen.store(number, Ordering::SeqCst);
        async move {
            connection.until("\r\n\r\n").await;
            connection.send(OK).await;
            connection.until("\r\n\r\n").await;
        }
    });
    (address.await, connections)
}

#[tokio::test]
async fn a_kept_connection_that_dies_costs_a_safe_request_nothing() {
    for method in ["GET", "OPTIONS"] {
        let (address, connections) = dying().await;
        let front = Front::to(address);
        for _ in 0..3 {
            assert!(front.ask(method).await.ends_with("\r\n\r\nok"), "{method}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3, "{method}: the second and third went to a new one");
    }
}

#[tokio::test]
async fn a_kept_connection_that_dies_is_no_reason_to_send_an_unsafe_request_twice() {
    let (address, connections) = dying().await;
    let front = Front::to(address);
    assert!(front.ask("POST").await.ends_with("\r\n\r\nok"));
    assert!(front.ask("POST").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// It was read, and the answer had begun: whatever it did is done.
#[tokio::test]
async fn a_kept_connection_that_dies_within_its_answer_is_no_reason_to_send_twice() {
    let asked = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&asked);
    let address = upstream(move |_, mut connection| {
        let seen = Arc::clone(&seen);
        async move {
            connection.until("\r\n\r\n").await;
            seen.fetch_add(1, Ordering::SeqCst);
            connection.send(OK).await;
            connection.until("\r\n\r\n").await;
            seen.fetch_add(1, Ordering::SeqCst);
            connection.send("HTTP/1.1 2").await;
        }
    });
    let front = Front::to(address.await);
    assert!(front.ask("GET").await.ends_with("\r\n\r\nok"));
    assert!(front.ask("GET").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_connection_that_dies_is_not_tried_again() {
    let (tries, address) = {
        let tries = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&tries);
        let address = upstream(move |number, mut connection| {
            seen.store(number, Ordering::SeqCst);
            async move { drop(connection.until("\r\n\r\n").await) }
        });
        (tries, address.await)
    };
    let front = Front::to(address);
    assert!(front.ask("GET").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn idle_connections_are_bounded_and_grow_old() {
    let front = Front::of(&UpstreamConfig { keep_alive_connections: 2, ..settings(&[answering(OK, false).await]) });
    let clock = SystemClock::new();
    let now = crate::model::clock::Clock::monotonic(&clock);
    front.upstream.tick(now);
    let asked = (0..5).map(|_| front.ask("GET"));
    for answer in asked {
        assert!(answer.await.ends_with("ok"));
    }
    assert_eq!(front.upstream.idle_connections(), 1);
    front.upstream.tick(now.after(Duration::from_secs(59)));
    assert_eq!(front.upstream.idle_connections(), 1);
    front.upstream.tick(now.after(Duration::from_secs(61)));
    assert_eq!(front.upstream.idle_connections(), 0);
}
