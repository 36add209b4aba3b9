//! Connections that have nothing to say: what they cost, and that they serve on.

use std::io::Write as _;
use std::thread::sleep;
use std::time::Duration;

use crate::callers::{ask, connect};
use crate::harness::Setup;
use crate::upstream::Upstream;

const CONNECTIONS: u64 = 2_000;

/// What one may take of the process, with what the allocator cannot give back.
const KIB_EACH: u64 = 8;

#[test]
fn connections_at_rest_cost_little_and_serve_on() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite_with(upstream.address, "[limits.default]\nrate = \"100000/s\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", key.raw);
    let gateway = setup.start();
    let mut first = connect(setup.data);
    assert_eq!(ask(&mut first, request.as_bytes()), Some(200));
    let before = gateway.anonymous_kib();
    let mut open: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = connect(setup.data);
            assert_eq!(ask(&mut stream, request.as_bytes()), Some(200));
            stream
        })
        .collect();
    // Longer than they keep what serving takes.
    sleep(Duration::from_secs(1));
    let each = gateway.anonymous_kib().saturating_sub(before) / CONNECTIONS;
    assert!(each < KIB_EACH, "{each} KiB for each connection");
    for stream in open.iter_mut().step_by(100) {
        // A head in pieces, and then a whole one.
        for piece in request.as_bytes().chunks(40) {
            stream.write_all(piece).unwrap();
        }
        assert_eq!(ask(stream, b""), Some(200));
        assert_eq!(ask(stream, request.as_bytes()), Some(200));
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("client")["total"]["requests"], CONNECTIONS + 1 + 2 * CONNECTIONS / 100);
}
