//! What a request costs: its route's weight, or what its upstream says; never what its caller says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use crate::callers::fetch;
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

const HEADER: &str = "[metering]\ncost_header = \"x-cost\"\ncost_max = 100\n";

fn weigh(setup: &Setup, cost: u32) {
    setup.write_config(&format!("{}cost = {cost}\n", setup.config()));
}

fn costs_are_billed_and_count(setup: &Setup) {
    weigh(setup, 3);
    let client = setup.client(&["acme", "--rate", "1000/s", "--quota", "200/month"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    let left = |answer: &crate::callers::Answer| {
        let level = answer.header("ratelimit").unwrap();
        let (_, rest) = level.split_once("\"client.month\";r=").unwrap();
        rest.split(';').next().unwrap().parse::<u64>().unwrap()
    };
    let ask = |path: &str| {
        fetch(setup.data, path, &[&format!("X-API-Key: {}", key.raw), "X-Cost: 0", "Idempotency-Key: once"])
    };
    let mut billed = 0;
    // What each costs shows in what is left after the next one's own weight was taken.
    for (path, cost) in
        [("/", 3), ("/cost/0", 0), ("/cost/10", 10), ("/cost/0", 0), ("/cost/1000000", 100), ("/status/404", 3)]
    {
        let answer = ask(path);
        assert_eq!(answer.header("x-cost"), None, "it is no business of the caller");
        assert_eq!(left(&answer), 200 - billed - 3, "{path}");
        billed += cost;
    }
    assert_eq!(billed, 116);
    // 84 are left: a request whose true cost is more takes it below nothing, and then nothing passes.
    assert_eq!(ask("/cost/90").status, 200);
    let refused = ask("/cost/0");
    assert_eq!((refused.status, refused.problem().as_str()), (429, "quota_exhausted"));
    let metrics = String::from_utf8(fetch(setup.admin, "/metrics", &[]).body).unwrap();
    assert!(metrics.contains(r#"octroi_metering_entries_total{state="cost_capped"} 1"#), "{metrics}");
    assert_eq!(gateway.stop(), 0);
    let total = &setup.usage("outcome")["total"];
    assert_eq!((&total["requests"], &total["units"], &total["rejected"]), (&7.into(), &206.into(), &1.into()));

    let again = setup.start();
    assert_eq!(ask("/").status, 429, "the ledger says the same");
    setup.json(&["client", "update", "acme", "--quota", "212/month"]);
    eventually("the wider quota is in force", || ask("/cost/0").status == 200);
    assert_eq!(left(&ask("/")), 212 - 206 - 3);
    assert_eq!(again.stop(), 0);
}

#[test]
fn costs_are_billed_and_count_on_sqlite() {
    let upstream = Upstream::start();
    costs_are_billed_and_count(&Setup::sqlite_with(upstream.address, HEADER));
}

#[test]
fn costs_are_billed_and_count_on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    costs_are_billed_and_count(&Setup::new(upstream.address, &database.url(), HEADER));
}

#[test]
fn rates_are_charged_the_cost_where_they_shall() {
    let upstream = Upstream::start();
    for (charge, statuses) in [("requests", [200, 200, 200, 200]), ("cost", [200, 200, 200, 429])] {
        let setup = Setup::sqlite_with(upstream.address, &format!("{HEADER}[limits]\ncharge = \"{charge}\"\n"));
        weigh(&setup, 2);
        let client = setup.client(&["acme", "--rate", "1/h", "--burst", "8"]);
        let key = setup.key(&client, &[]);
        let _gateway = setup.start();
        let ask = |path: &&str| fetch(setup.data, path, &[&format!("X-API-Key: {}", key.raw)]).status;
        // By cost 8 are left after the first, 3 after the second, 1 after the third: no room for 2.
        let paths = ["/cost/0", "/cost/5", "/cost/2", "/cost/0"];
        assert_eq!(paths.each_ref().map(ask), statuses, "{charge}");
    }
}

/// An upstream that says the same to everybody.
fn says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                seen.push(byte[0]);
            }
            let _ = stream.write_all(answer);
        }
    });
    address
}

#[test]
fn a_stream_may_say_it_at_its_end() {
    for (answer, units) in [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-cost\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\nX-Cost: 42\r\n\r\n"[..], 42),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Cost: 7\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\nX-Cost: 9\r\n\r\n", 9),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Cost: 7\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n", 7),
        // It breaks off: what was said before holds.
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Cost: 8\r\nConnection: close\r\n\r\n2\r\nok\r\n", 8),
    ] {
        let setup = Setup::sqlite_with(says(answer), HEADER);
        let key = setup.key(&setup.client(&["acme"]), &[]);
        let gateway = setup.start();
        let whole = answer.ends_with(b"\r\n\r\n");
        let request =
            format!("GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n", key.raw);
        let answered = crate::callers::raw(setup.data, request.as_bytes());
        let text = String::from_utf8(answered).unwrap().to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200") && text.contains("ok"), "{text}");
        assert!(!text.contains("x-cost"), "{text}");
        assert_eq!(text.ends_with("0\r\n\r\n"), whole, "{text}");
        assert_eq!(gateway.stop(), 0);
        assert_eq!(setup.usage("outcome")["total"]["units"], units);
    }
}
