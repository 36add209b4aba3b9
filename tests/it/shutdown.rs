//! SIGTERM: not ready at once, what runs may finish, every entry is handed over.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::books::Books;
use crate::callers::{connect, fetch, read_head};
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

#[test]
fn a_running_request_finishes_and_is_counted() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    let (data, slow) = (setup.data, header.clone());
    let running = std::thread::spawn(move || fetch(data, "/slow/1500", &[&slow]));
    eventually("the request reached the upstream", || upstream.request_ids().len() == 1);
    gateway.signal("TERM");
    eventually("not ready", || {
        std::net::TcpStream::connect(setup.admin).is_ok() && fetch(setup.admin, "/readyz", &[]).status == 503
    });
    let answer = running.join().unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
    let mut gateway = gateway;
    assert_eq!(gateway.wait_exit(), 0);
    let events = Books::sqlite(&setup.path("octroi.db")).events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].outcome.as_str(), events[0].status), ("complete", Some(200)));
    assert_eq!(setup.usage("client")["total"]["requests"], 1, "usage is complete at once after a clean exit");
}

#[test]
fn what_outlasts_the_drain_is_cut_and_counted_as_cut() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[server.drain]\ntimeout = \"1s\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let mut stream = connect(setup.data);
    write!(stream, "GET /stream HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n\r\n", key.raw).unwrap();
    assert!(read_head(&mut stream).starts_with(b"HTTP/1.1 200"));
    assert_eq!(gateway.stop(), 0);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut stream must not look finished");
    let events = Books::sqlite(&setup.path("octroi.db")).events();
    assert_eq!((events.len(), events[0].outcome.as_str(), events[0].status), (1, "cut", Some(200)));
    assert!(events[0].bytes_out > 0);
}

#[test]
fn a_signal_in_the_first_moment_is_obeyed_in_order() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    for _ in 0..10 {
        let gateway = setup.spawn(&["serve"]);
        // Somebody is served already; nothing was logged yet, perhaps.
        eventually("it lives", || std::net::TcpStream::connect(setup.admin).is_ok());
        assert_eq!(fetch(setup.admin, "/livez", &[]).status, 200);
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let gateway = setup.start();
    let _idle = connect(setup.data);
    let begun = std::time::Instant::now();
    assert_eq!(gateway.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "an idle connection held the stop up: {:?}", begun.elapsed());
}
