//! More requests than a worker can serve: who is refused, and that those who send little are not.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::callers::{ask, connect, fetch};
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

/// Keeps `connections` requests under way, until told to stop; returns what was answered, by
/// status: 200 and 503.
fn flood(to: std::net::SocketAddr, key: &str, connections: usize, stop: &AtomicBool) -> (u64, u64) {
    let request = format!("GET /loud HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n").into_bytes();
    let mut open: Vec<TcpStream> = (0..connections).map(|_| connect(to)).collect();
    let (mut served, mut refused) = (0, 0);
    while !stop.load(Relaxed) {
        for stream in &mut open {
            stream.write_all(&request).unwrap();
        }
        for stream in &mut open {
            match ask(stream, b"") {
                Some(200) => served += 1,
                Some(503) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    (served, refused)
}

#[test]
fn who_sends_most_is_refused_first_and_who_sends_little_not_at_all() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite_with(
        upstream.address,
        "[server.limits]\nqueue_delay = \"4ms\"\n[limits.default]\nrate = \"1000000/s\"\n",
    );
    setup.set("OCTROI__SERVER__WORKERS", "1");
    let loud = setup.key(&setup.client(&["loud"]), &[]);
    let quiet = setup.key(&setup.client(&["quiet"]), &[]);
    let gateway = setup.start();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (to, key, stop) = (setup.data, loud.raw.clone(), Arc::clone(&stop));
            std::thread::spawn(move || flood(to, &key, 60, &stop))
        })
        .collect();
    gateway.wait_for_log("a worker cannot keep up");
    // Far less than any share, for as long as the flood lasts.
    let header = format!("X-API-Key: {}", quiet.raw);
    let until = Instant::now() + Duration::from_secs(3);
    let mut answers = Vec::new();
    while Instant::now() < until {
        answers.push(fetch(setup.data, "/quiet", &[&header]).status);
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Relaxed);
    let counts: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
    let (served, refused) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert!(answers.len() > 5 && answers.iter().all(|status| *status == 200), "{answers:?}");
    assert!(served > 100 && refused > 100, "served {served}, refused {refused}");
    gateway.wait_for_log("a worker keeps up again");
    eventually("the loud one is served again", || {
        fetch(setup.data, "/loud", &[&format!("X-API-Key: {}", loud.raw)]).status == 200
    });
    // Refusals stand in the books, and every request that passed is an event.
    gateway.stop();
    let usage = setup.usage("client");
    let row = |name: &str| {
        let items = usage["items"].as_array().unwrap();
        let id = setup.json(&["client", "show", name])["id"].clone();
        items.iter().find(|item| item["client"] == id).cloned().unwrap_or_else(|| panic!("{usage}"))
    };
    assert_eq!(row("loud")["rejected"].as_u64(), Some(refused));
    assert_eq!(row("loud")["requests"].as_u64(), Some(served + 1));
    assert_eq!(row("quiet")["requests"].as_u64(), Some(answers.len() as u64));
}
