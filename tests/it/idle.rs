//! Connections that have nothing to say: what they cost, and that they serve on.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use crate::callers::{ask, connect};
use crate::harness::Setup;
use crate::upstream::Upstream;

const CONNECTIONS: u64 = 2_000;

/// So many are there before anything is measured.
const FIRST: u64 = 400;

/// So many are opened before those are given the time to come to rest.
const AT_ONCE: u64 = 200;

/// What one may take of the process, with what the allocator cannot give back.
const KIB_EACH: u64 = 8;

#[test]
fn connections_at_rest_cost_little_and_serve_on() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite_with(upstream.address, "[limits.default]\nrate = \"100000/s\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", key.raw);
    let gateway = setup.start();
    let open_some = |count: u64| -> Vec<TcpStream> {
        (0..count)
            .map(|number| {
                let mut stream = connect(setup.data);
                assert_eq!(ask(&mut stream, request.as_bytes()), Some(200));
                // What serving takes is kept a moment: not by all at once, or its holes would be measured.
                if number % AT_ONCE == 0 {
                    sleep(Duration::from_millis(300));
                }
                stream
            })
            .collect()
    };
    // What a process takes when it begins to serve is not what one connection more costs.
    let _first = open_some(FIRST);
    sleep(Duration::from_secs(1));
    let before = gateway.anonymous_kib();
    let mut open = open_some(CONNECTIONS);
    // Longer than they keep what serving takes.
    sleep(Duration::from_secs(1));
    let after = gateway.anonymous_kib();
    let each = after.saturating_sub(before) / CONNECTIONS;
    assert!(each < KIB_EACH, "{each} KiB for each connection: {before} KiB, then {after}");
    for stream in open.iter_mut().step_by(100) {
        // A head in pieces, and then a whole one.
        for piece in request.as_bytes().chunks(40) {
            stream.write_all(piece).unwrap();
        }
        assert_eq!(ask(stream, b""), Some(200));
        assert_eq!(ask(stream, request.as_bytes()), Some(200));
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("client")["total"]["requests"], FIRST + CONNECTIONS + 2 * CONNECTIONS / 100);
}
