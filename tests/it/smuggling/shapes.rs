//! The rows about lines, chunks, targets, hops, and more than one request.

use super::table::{CHUNKS, Row, SMUGGLED, TE, Then, declined, get, passes, passes_then, post, refused};

/// Where lines end, and what may stand in them.
pub(super) fn lines() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        ("a bare LF behind the request line", &b"GET /g HTTP/1.1\nHost: a\r\n\r\n"[..]),
        ("a bare LF behind a header", b"GET /g HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        ("a bare LF at the end", b"GET /g HTTP/1.1\r\nHost: a\r\n\n"),
        ("bare LFs only", b"GET /g HTTP/1.1\nHost: a\n\n"),
        ("LF CR", b"GET /g HTTP/1.1\n\rHost: a\n\r\n\r"),
        ("a bare CR in a value", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
        ("a bare CR behind the request line", b"GET /g HTTP/1.1\rHost: a\r\n\r\n"),
        ("CR CR LF", b"GET /g HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("NUL in a value", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
        ("NUL in a name", b"GET /g HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
        ("NUL in the target", b"GET /g\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("SOH in a value", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\x01z\r\n\r\n"),
        ("DEL in a value", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\x7fz\r\n\r\n"),
        ("ESC in a value", b"GET /g HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\r\n\r\n"),
        ("a fold", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        ("a fold by a tab", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
        ("a fold of the first line", b"GET /g HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("a folded Host", b"GET /g HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
        ("an empty fold", b"GET /g HTTP/1.1\r\nHost: a\r\nX: y\r\n \r\n\r\n"),
        ("no colon", b"GET /g HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
        ("no name", b"GET /g HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
        ("a blank before the colon", b"GET /g HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        ("a blank in a name", b"GET /g HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n"),
        ("a slash in a name", b"GET /g HTTP/1.1\r\nHost: a\r\nX/Y: z\r\n\r\n"),
        ("brackets in a name", b"GET /g HTTP/1.1\r\nHost: a\r\nX(Y): z\r\n\r\n"),
        ("a name outside ASCII", b"GET /g HTTP/1.1\r\nHost: a\r\nX\xe9: z\r\n\r\n"),
        ("a soft hyphen in a name", b"GET /g HTTP/1.1\r\nHost: a\r\nContent\xadLength: 5\r\n\r\n"),
        ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ]
    .map(|(name, wire)| refused(name, wire))
    .into();
    rows.extend([
        passes("an empty line before", b"\r\nGET /g HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), &["GET /g "]),
        passes(
            "bytes outside ASCII in a value",
            b"GET /g HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n".to_vec(),
            &["GET /g "],
        ),
        passes("a tab in a value", get("X: y\tz\r\n"), &["GET /g "]),
        passes("an empty value", get("X:\r\n"), &["GET /g "]),
        passes("colons in a value", get("X: a: b:\r\n"), &["GET /g "]),
    ]);
    rows
}

/// The chunked coding.
pub(super) fn chunks() -> Vec<Row> {
    let body = |body: &str| post(TE, body);
    let bad = |name, text: &str| refused(name, body(text));
    let good = |name, text: &str| passes(name, body(text), &["POST /p hello"]);
    vec![
        bad("a size with +", "+5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with -", "-5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        bad("a size behind a blank", " 5\r\nhello\r\n0\r\n\r\n"),
        bad("a size behind a tab", "\t5\r\nhello\r\n0\r\n\r\n"),
        bad("no size", "\r\nhello\r\n0\r\n\r\n"),
        bad("a size that is none", "g\r\nhello\r\n0\r\n\r\n"),
        bad("two sizes", "5 5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with a comma", "5,5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        bad("a size over 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad("a size with NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
        bad("a size line with a bare LF", "5\nhello\r\n0\r\n\r\n"),
        bad("a size line with a bare CR", "5\rhello\r\n0\r\n\r\n"),
        bad("a size line with CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n"),
        bad("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        bad("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        bad("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        bad("a long extension", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000))),
        bad("many extensions", &format!("{}0\r\n\r\n", format!("1;{}\r\nh\r\n", "x".repeat(1000)).repeat(20))),
        bad("a chunk that is too long", "3\r\nhello\r\n0\r\n\r\n"),
        bad("a chunk that is too short", "7\r\nhello\r\n0\r\n\r\n"),
        bad("a chunk that ends with LF", "5\r\nhello\n0\r\n\r\n"),
        bad("a chunk that ends with CR", "5\r\nhello\r0\r\n\r\n"),
        bad("a chunk that ends with blanks", "5\r\nhello  0\r\n\r\n"),
        bad("a last chunk with a bare LF", "5\r\nhello\r\n0\n\r\n"),
        bad("trailers that end with a bare LF", "5\r\nhello\r\n0\r\nX: y\n\r\n\r\n"),
        bad("trailers that fold", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
        bad("trailers without a colon", "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
        bad("trailers with NUL", "5\r\nhello\r\n0\r\nX: \0\r\n\r\n"),
        bad("many trailers", &format!("5\r\nhello\r\n0\r\n{}\r\n", "a: b\r\n".repeat(200))),
        bad("large trailers", &format!("5\r\nhello\r\n0\r\na: {}\r\n\r\n", "b".repeat(20_000))),
        good("an extension", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        good("an extension behind a blank", "5 ;a=\"b;c\"\r\nhello\r\n0;z\r\n\r\n"),
        good("zeros before a size", "0005\r\nhello\r\n000\r\n\r\n"),
        good("many zeros before a size", &format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(100))),
        good("chunks of one byte", "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        good("a trailer", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        good(
            "trailers in our name",
            "5\r\nhello\r\n0\r\nX-Octroi-Client-Id: forged\r\nX_Octroi_Scopes: forged\r\n\r\n",
        ),
        good(
            "trailers that frame",
            "5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: forged\r\nHost: forged\r\n\r\n",
        ),
        good(
            "trailers with a credential",
            "5\r\nhello\r\n0\r\nAuthorization: Bearer forged\r\nX-API-Key: forged\r\n\r\n",
        ),
        passes(
            "a request behind the last chunk",
            body(&format!("{CHUNKS}{SMUGGLED}")),
            &["POST /p hello", "GET /smuggled "],
        ),
        passes(
            "a request in a chunk",
            body(&format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())),
            &[&format!("POST /p {SMUGGLED}")],
        ),
        passes_then(
            "garbage behind the last chunk",
            body(&format!("{CHUNKS}X\r\n\r\n")),
            &["POST /p hello"],
            Then::Refuses,
        ),
    ]
}

/// Whose request it is: Host, target, method, version.
pub(super) fn targets() -> Vec<Row> {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
    let hosts = |lines: &str| format!("GET /g HTTP/1.1\r\n{lines}\r\n").into_bytes();
    let mut rows: Vec<Row> = [
        ("no Host", hosts("X: y\r\n")),
        ("two Hosts", hosts("Host: a\r\nHost: b\r\n")),
        ("two Hosts alike", hosts("Host: a\r\nHost: a\r\n")),
        ("two Hosts apart", hosts("Host: a\r\nX: y\r\nhost: b\r\n")),
        ("an empty Host", hosts("Host:\r\n")),
        ("a list of Hosts", hosts("Host: a, b\r\n")),
        ("a Host with userinfo", hosts("Host: u@a\r\n")),
        ("a Host with a path", hosts("Host: a/b\r\n")),
        ("a Host with a blank", hosts("Host: a b\r\n")),
        ("a Host with NUL", hosts("Host: a\0b\r\n")),
        ("a Host with a port that is none", hosts("Host: a:80b\r\n")),
        ("a Host before a blank", hosts("Host : a\r\n")),
        ("a Host with a bracket open", hosts("Host: [::1\r\n")),
        ("a Host outside ASCII", hosts("Host: \u{e9}\r\n")),
        ("absolute form against Host", line("GET http://b/g HTTP/1.1")),
        ("absolute form with userinfo", line("GET http://u:p@a/g HTTP/1.1")),
        ("absolute form with userinfo like Host", line("GET http://a@b/g HTTP/1.1")),
        ("absolute form of another scheme", line("GET ftp://a/g HTTP/1.1")),
        ("absolute form without a host", line("GET http:///g HTTP/1.1")),
        ("absolute form and no Host", b"GET http://a/g HTTP/1.1\r\n\r\n".to_vec()),
        ("authority form", line("GET a:80 HTTP/1.1")),
        ("CONNECT", line("CONNECT a:80 HTTP/1.1")),
        ("CONNECT with a path", line("CONNECT /g HTTP/1.1")),
        ("TRACE", line("TRACE /g HTTP/1.1")),
        ("an asterisk", line("GET * HTTP/1.1")),
        ("no slash first", line("GET g HTTP/1.1")),
        ("a backslash first", line("GET \\g HTTP/1.1")),
        ("a blank in the target", line("GET /g b HTTP/1.1")),
        ("a target with a request line in it", line("GET /g HTTP/1.1 HTTP/1.1")),
        ("two blanks behind the method", line("GET  /g HTTP/1.1")),
        ("two blanks before the version", line("GET /g  HTTP/1.1")),
        ("a tab behind the method", line("GET\t/g HTTP/1.1")),
        ("a tab before the version", line("GET /g\tHTTP/1.1")),
        ("a blank before the method", line(" GET /g HTTP/1.1")),
        ("a blank behind the version", line("GET /g HTTP/1.1 ")),
        ("no method", line(" /g HTTP/1.1")),
        ("a method that is no token", line("G@T /g HTTP/1.1")),
        ("a method with a colon", line("GET: /g HTTP/1.1")),
        ("a fragment", line("GET /g#h HTTP/1.1")),
        ("HTTP/0.9", b"GET /g\r\n\r\n".to_vec()),
        ("HTTP/0.9 by name", line("GET /g HTTP/0.9")),
        ("HTTP/1.2", line("GET /g HTTP/1.2")),
        ("HTTP/2.0", line("GET /g HTTP/2.0")),
        ("HTTP/1.10", line("GET /g HTTP/1.10")),
        ("HTTP/01.1", line("GET /g HTTP/01.1")),
        ("HTTP/1", line("GET /g HTTP/1")),
        ("http/1.1", line("GET /g http/1.1")),
        ("HTTP /1.1", line("GET /g HTTP /1.1")),
        ("HTTPS/1.1", line("GET /g HTTPS/1.1")),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("no HTTP", b"EHLO a\r\nMAIL FROM: b\r\n\r\n".to_vec()),
    ]
    .map(|(name, wire)| refused(name, wire))
    .into();
    rows.extend([
        passes_then("absolute form like Host", line("GET http://a/g HTTP/1.1"), &["GET /g "], Then::Closes),
        passes_then("absolute form in capitals", line("GET HTTP://A:80/g HTTP/1.1"), &["GET /g "], Then::Closes),
        declined("two slashes first", line("GET //b/g HTTP/1.1")),
        declined("a target outside ASCII", line("GET /caf\u{e9} HTTP/1.1")),
        declined("an encoded NUL", line("GET /g%00 HTTP/1.1")),
        declined("an encoded CR LF in the path", line("GET /g%0d%0aX:%20y/../h HTTP/1.1")),
        declined("dot segments", line("GET /g/../h HTTP/1.1")),
        passes("a Host with a port", hosts("Host: a:8080\r\n"), &["GET /g "]),
        passes("a Host that is an address", hosts("Host: [::1]:80\r\n"), &["GET /g "]),
        passes("a method in small letters", line("get /g HTTP/1.1"), &["get /g "]),
        passes("an unknown method", line("BREW /g HTTP/1.1"), &["BREW /g "]),
        passes("an encoded CR LF in the query", line("GET /g?x=%0d%0ay HTTP/1.1"), &["GET /g?x=%0d%0ay "]),
        passes_then("HTTP/1.0", b"GET /g HTTP/1.0\r\nHost: a\r\n\r\n".to_vec(), &["GET /g "], Then::Closes),
    ]);
    rows
}

/// What callers may say about the next hop, and in the name of others.
pub(super) fn hops() -> Vec<Row> {
    let body = |lines: &str| post(&format!("{lines}Content-Length: 5\r\n"), "hello");
    let hello = &["POST /p hello"];
    vec![
        passes("Connection: Content-Length", body("Connection: Content-Length\r\n"), hello),
        passes("Connection: Transfer-Encoding", post(&format!("Connection: Transfer-Encoding\r\n{TE}"), CHUNKS), hello),
        passes("Connection: Host", body("Connection: Host\r\n"), hello),
        passes("Connection: our names", body("Connection: X-Octroi-Client-Id, Via, X-Forwarded-For\r\n"), hello),
        passes("Connection that is no name", body("Connection: \"a b\", ;\r\n"), hello),
        passes(
            "names in our space",
            body("X-Octroi-Client-Id: forged\r\nx_octroi_client_id: forged\r\nX.Octroi.Scopes: forged\r\n"),
            hello,
        ),
        passes(
            "names of proxies",
            body("X-Forwarded-For: forged\r\nForwarded: forged\r\nX-Real-IP: forged\r\nx_forwarded_proto: forged\r\n"),
            hello,
        ),
        passes(
            "names of one hop",
            body("Keep-Alive: forged\r\nProxy-Connection: forged\r\nTE: forged\r\nTrailer: forged\r\n"),
            hello,
        ),
        passes(
            "an upgrade to h2c",
            body("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: forged\r\n"),
            hello,
        ),
        passes("an upgrade to WebSocket behind a body", body("Connection: Upgrade\r\nUpgrade: websocket\r\n"), hello),
        passes("a length under another name", body("Content_Length: 99\r\nContent.Length: 99\r\n"), hello),
        passes("a Host under another name", body("X-Host: b\r\nHost_: forged\r\n_Host: forged\r\n"), hello),
        passes("a method to override", body("X-HTTP-Method-Override: DELETE\r\n"), hello),
    ]
}

/// More than one request.
pub(super) fn pipelines() -> Vec<Row> {
    let two = |first: Vec<u8>, second: &[u8]| [&first[..], second].concat();
    let one = &["GET /g "];
    vec![
        passes("two requests", two(get(""), SMUGGLED.as_bytes()), &["GET /g ", "GET /smuggled "]),
        passes(
            "three requests",
            two(get(""), SMUGGLED.repeat(2).as_bytes()),
            &["GET /g ", "GET /smuggled ", "GET /smuggled "],
        ),
        passes(
            "a body and a request",
            two(post("Content-Length: 5\r\n", "hello"), SMUGGLED.as_bytes()),
            &["POST /p hello", "GET /smuggled "],
        ),
        passes(
            "an empty line between",
            two(get(""), format!("\r\n{SMUGGLED}").as_bytes()),
            &["GET /g ", "GET /smuggled "],
        ),
        passes_then("garbage behind", two(get(""), b"garbage\r\n\r\n"), one, Then::Refuses),
        passes_then("a bare LF behind", two(get(""), b"GET /smuggled HTTP/1.1\nHost: a\n\n"), one, Then::Refuses),
        passes_then(
            "CL.TE behind",
            two(get(""), &post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", CHUNKS)),
            one,
            Then::Refuses,
        ),
        passes_then(
            "two Hosts behind",
            two(get(""), b"GET /smuggled HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            one,
            Then::Refuses,
        ),
        passes_then(
            "a request behind Connection: close",
            two(get("Connection: close\r\n"), SMUGGLED.as_bytes()),
            one,
            Then::Closes,
        ),
        passes_then(
            "a request behind HTTP/1.0",
            two(b"GET /g HTTP/1.0\r\nHost: a\r\n\r\n".to_vec(), SMUGGLED.as_bytes()),
            one,
            Then::Closes,
        ),
        refused("a request behind a refused one", two(get("X : y\r\n"), SMUGGLED.as_bytes())),
        refused(
            "a request behind CL.TE",
            two(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKS), SMUGGLED.as_bytes()),
        ),
        refused(
            "a request behind CONNECT",
            two(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_vec(), SMUGGLED.as_bytes()),
        ),
        refused("a request behind broken chunks", two(post(TE, "5\r\nhelloX"), SMUGGLED.as_bytes())),
    ]
}
