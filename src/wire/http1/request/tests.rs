//! Heads as callers send them; and that hyper agrees with what is read here, or is less strict.

use super::*;

/// `plain` with the framing, `refused` or `other`.
fn verdict(head: &str) -> String {
    match judge(&Bytes::copy_from_slice(head.as_bytes()), LINES_MAX) {
        Judged::Plain(head) => format!("plain {:?}{}", head.framing, if head.upgrades { " upgrades" } else { "" }),
        Judged::Refused(_) => "refused".to_owned(),
        Judged::Other => "other".to_owned(),
    }
}

#[test]
fn heads_are_plain_refused_or_for_another_engine() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "plain Empty"),
        ("GET /a?b HTTP/1.1\r\n\r\n", "plain Empty"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "plain Empty"),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "plain Empty"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "plain Length(5)"),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "plain Empty"),
        ("POST / HTTP/1.1\r\nContent-Length:  5 \r\n\r\n", "plain Length(5)"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", "plain Chunked"),
        ("POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n", "plain Length(5)"),
        ("GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", "plain Empty"),
        ("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "plain Empty upgrades"),
        ("GET / HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n", "plain Empty upgrades"),
        // Ignored: not for us, ambiguous, of another protocol, or with something behind it.
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "plain Empty"),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", "plain Empty"),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n\r\n", "plain Empty"),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "plain Empty"),
        ("POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "plain Empty"),
        ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n", "plain Length(1)"),
        // Refused: an engine behind this one would not notice.
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "refused"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "refused"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", "refused"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "refused"),
        // Refused whatever the shape: behind another engine nobody could tell any more.
        ("POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "refused"),
        ("POST http://a/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "refused"),
        ("POST / HTTP/1.1\r\nExpect: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "refused"),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\nTransfer-Encoding: x\r\n\r\n", "refused"),
        ("GET / HTTP/1.0\nHost: a\r\n\r\n", "refused"),
        // Other shapes: hyper reads, answers or refuses.
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "other"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "other"),
        ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", "other"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "other"),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "other"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "other"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "other"),
        ("CONNECT / HTTP/1.1\r\nHost: a:1\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\nExpect: more\r\n\r\n", "other"),
        ("GET / HTTP/2.0\r\n\r\n", "other"),
        ("PRI * HTTP/2.0\r\n\r\n", "refused"),
        ("PRI * HTTP/2.1\r\n\r\n", "other"),
        ("GET /\r\n\r\n", "other"),
        ("nonsense\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "other"),
        ("GET / HTTP/1.1\r\n: b\r\n\r\n", "other"),
        ("GET  / HTTP/1.1\r\n\r\n", "other"),
        ("G@T / HTTP/1.1\r\n\r\n", "other"),
    ] {
        assert_eq!(verdict(head), expected, "{head:?}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(LINES_MAX + 1));
    assert_eq!(verdict(&many), "other");
    // Where more lines are allowed, they are read here too, and judged.
    let more = |head: &str| judge(&Bytes::copy_from_slice(head.as_bytes()), 2 * LINES_MAX);
    assert!(matches!(more(&many), Judged::Plain(_)));
    let both = many.replacen("a: b\r\n", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 1);
    assert!(matches!(more(&both), Judged::Refused(_)));
}

#[test]
fn what_a_head_says_is_told() {
    let told = |head: &str| match judge(&Bytes::copy_from_slice(head.as_bytes()), LINES_MAX) {
        Judged::Plain(head) => (head.closes, head.expects, head.takes_trailers, head.has_fragment),
        _ => panic!("{head:?} is plain"),
    };
    assert_eq!(told("GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"), (false, false, false, false));
    assert_eq!(told("GET / HTTP/1.1\r\nConnection: a\r\nConnection: b, Close\r\n\r\n"), (true, false, false, false));
    assert_eq!(told("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"), (false, true, false, false));
    assert_eq!(told("GET / HTTP/1.1\r\nTE: gzip, trailers\r\n\r\n"), (false, false, true, false));
    assert_eq!(told("GET /a#b HTTP/1.1\r\n\r\n"), (false, false, false, true));
}

#[test]
fn a_beginning_is_hopeless_when_no_end_could_mend_it() {
    for (bytes, hopeless) in [
        ("GET / HT", false),
        ("GET / HTTP/1.1\r\nHost: a", false),
        ("", false),
        ("\u{16}\u{3}\u{1}", true),
        ("GET / HTTP/3", true),
        ("GET / HTTP/1.1\r\nA : b", true),
    ] {
        assert_eq!(is_hopeless(bytes.as_bytes(), LINES_MAX), hopeless, "{bytes:?}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(LINES_MAX + 1));
    assert!(is_hopeless(many.as_bytes(), LINES_MAX) && !is_hopeless(many.as_bytes(), 2 * LINES_MAX));
}
