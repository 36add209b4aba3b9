//! What may not pass as a request: each refused before it reaches anything, or closed.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::callers::{connect, fetch, parse, raw};
use crate::harness::Setup;
use crate::upstream::Upstream;

#[test]
fn ambiguous_heads_are_refused_and_never_forwarded() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let k = format!("X-API-Key: {}\r\n", key.raw);
    let rows: Vec<(&str, String, &[u16])> = vec![
        ("no Host", format!("GET / HTTP/1.1\r\n{k}\r\n"), &[400]),
        ("two Hosts", format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{k}\r\n"), &[400]),
        ("two equal Hosts", format!("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("absolute form against Host", format!("GET http://b/ HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("userinfo", format!("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("another scheme", format!("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("CONNECT", format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{k}\r\n"), &[405]),
        ("TRACE", format!("TRACE / HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[405]),
        (
            "TE gzip, chunked",
            format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "TE chunked, chunked",
            format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "two TE lines",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{k}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        ("TE identity", format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Transfer-Encoding: identity\r\n\r\n"), &[400]),
        (
            "TE in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nHost: a\r\n{k}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            &[400],
        ),
        ("a signed length", format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Content-Length: +1\r\n\r\na"), &[400]),
        ("a listed length", format!("POST / HTTP/1.1\r\nHost: a\r\n{k}Content-Length: 1, 1\r\n\r\na"), &[400]),
        (
            "a length beside a coding",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{k}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        (
            "a coding beside a length",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{k}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        ("a bare LF", format!("GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n{k}\r\n"), &[400]),
        ("a bare LF at the end", format!("GET / HTTP/1.1\r\nHost: a\r\n{k}\n"), &[400]),
        ("obs-fold", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n{k}\r\n"), &[400]),
        ("space before the colon", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n{k}\r\n"), &[400]),
        ("NUL in a value", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n{k}\r\n"), &[400]),
        ("encoded slash", format!("GET /a%2fb HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("encoded backslash", format!("GET /a%5Cb HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("encoded NUL", format!("GET /a%00b HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("dot segments", format!("GET /a/../b HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("encoded dot segments", format!("GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("two slashes", format!("GET /a//b HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("a backslash", format!("GET /a\\b HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("a broken escape", format!("GET /a%zz HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("no leading slash", format!("GET a HTTP/1.1\r\nHost: a\r\n{k}\r\n"), &[400]),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n{k}\r\n", "x".repeat(8200)), &[414]),
        ("large headers", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n{k}\r\n", "x".repeat(17_000)), &[431]),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: a\r\n{}{k}\r\n", "X-A: b\r\n".repeat(120)), &[431]),
    ];
    for (what, wire, statuses) in rows {
        let bytes = raw(setup.data, wire.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes());
        let answer = parse(&bytes, false);
        assert!(
            answer.as_ref().is_some_and(|answer| statuses.contains(&answer.status)),
            "{what}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert!(upstream.seen().is_empty(), "a refused request reached the upstream: {:?}", upstream.seen());
    assert_eq!(fetch(setup.data, "/ok", &[k.trim_end()]).status, 200);
}

#[test]
fn one_canonical_path_is_matched_and_forwarded() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let more = "\n[[routes]]\nname = \"admin\"\npath = \"/admin\"\nupstream = \"up\"\nscopes = [\"admin\"]\n\
                [[routes]]\nname = \"strip\"\npath = \"/strip\"\nupstream = \"up\"\nstrip_prefix = true\n";
    setup.write_config(&(setup.config() + more));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let ask = |path: &str| fetch(setup.data, path, &[&format!("X-API-Key: {}", key.raw)]);
    assert_eq!(ask("/%61dmin/x").problem(), "insufficient_scope", "an escaped letter hides no route");
    assert_eq!(ask("/%7Euser/caf%c3%a9?q=%2f..").status, 200);
    assert_eq!(upstream.last().target, "/~user/caf%C3%A9?q=%2f..");
    assert_eq!(ask("/strip/a/b").status, 200);
    assert_eq!(upstream.last().target, "/a/b");
    assert_eq!(ask("/strip").status, 200);
    assert_eq!(upstream.last().target, "/");
    assert_eq!(ask("/.octroi/secret").status, 404, "our own space is never proxied");
}

#[test]
fn slow_callers_are_closed_on_time() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(
        upstream.address,
        "[server.timeouts]\nrequest_head = \"1s\"\nbody_idle = \"1s\"\nkeep_alive = \"2s\"\n",
    );
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let k = format!("X-API-Key: {}\r\n", key.raw);
    let ends = |bytes: &str| {
        let mut stream = connect(setup.data);
        let begun = Instant::now();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (begun.elapsed(), answer)
    };
    let (took, answer) = ends("GET / HTTP/1.1\r\nHost: a\r\nX-Slow");
    assert!(took < Duration::from_secs(4), "half a head held a connection for {took:?}");
    assert_eq!(parse(&answer, false).unwrap().status, 408);
    let (took, answer) = ends(&format!("POST /sink HTTP/1.1\r\nHost: a\r\n{k}Content-Length: 10\r\n\r\nhalf"));
    assert!(took < Duration::from_secs(4), "half a body held a connection for {took:?}");
    assert_eq!(parse(&answer, false).unwrap().status, 408);
    let (took, answer) = ends(&format!("GET /ok HTTP/1.1\r\nHost: a\r\n{k}\r\n"));
    assert_eq!(parse(&answer, false).unwrap().status, 200);
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "an idle connection stayed {took:?}");
}

#[test]
fn connections_over_the_cap_are_refused_at_once() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[server.limits]\nconnections = 10\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let mut held: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = connect(setup.data);
            write!(stream, "GET /ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", key.raw).unwrap();
            assert!(crate::callers::read_head(&mut stream).starts_with(b"HTTP/1.1 200"));
            stream
        })
        .collect();
    let mut over = connect(setup.data);
    let begun = Instant::now();
    let mut answer = Vec::new();
    let _ = over.read_to_end(&mut answer);
    assert!(begun.elapsed() < Duration::from_secs(2));
    let answer = parse(&answer, false).unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
    held.pop();
    crate::harness::eventually("a place is free again", || {
        let bytes = raw(
            setup.data,
            format!("GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: {}\r\n\r\n", key.raw).as_bytes(),
        );
        bytes.starts_with(b"HTTP/1.1 200")
    });
}
