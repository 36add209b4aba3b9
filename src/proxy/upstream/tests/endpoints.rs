//! Several endpoints: which of them pays for what, and who is to blame.

use super::*;
use crate::config::balancing::EjectionConfig;

/// The endpoint that gets each of the next two turns.
fn next_two(front: &Front) -> Vec<usize> {
    let now = SystemClock::shared().monotonic();
    let chosen = (0..2).map(|turn| front.upstream.cluster.choose(&Ask { tried: Tried::default(), turn, key: 0, now }));
    chosen
        .filter_map(|choice| match choice {
            Choice::Endpoint(endpoint, _) => Some(endpoint),
            Choice::Full | Choice::None => None,
        })
        .collect()
}

fn ejecting(endpoints: &[SocketAddr], consecutive_failures: u32) -> UpstreamConfig {
    let times = (Duration::from_mins(1), Duration::ZERO);
    let ejection = EjectionConfig { consecutive_failures, base_time: times.0, max_share: 50, return_time: times.1 };
    UpstreamConfig { ejection, ..settings(endpoints) }
}

#[tokio::test]
async fn endpoints_that_take_no_connection_cost_no_request_however_many_they_are() {
    let there = answering(OK, false).await;
    // None is ejected: each request meets those that are away.
    let front = Front::of(&ejecting(&[nobody().await, nobody().await, there], 0));
    for number in 0..60 {
        let answer = front.ask("POST").await;
        assert!(answer.ends_with("ok"), "request {number}: {answer}");
    }
}

#[tokio::test]
async fn callers_cannot_have_an_endpoint_ejected() {
    let front = Front::of(&ejecting(&[echo().await, echo().await], 1));
    for _ in 0..4 {
        let answer = front.server.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert_eq!(next_two(&front), [0, 1]);
    let front = Front::of(&ejecting(&[answering("", true).await, echo().await], 1));
    for _ in 0..4 {
        front.ask("POST").await;
    }
    assert_eq!(next_two(&front), [1, 1], "what an endpoint does itself counts");
}
