//! HTTP/2 that would be two requests as HTTP/1.1, or another one: raw frames, in front of the strict
//! upstream.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::strict::Strict;
use super::table::SMUGGLED;
use crate::callers::connect;
use crate::harness::{Setup, free_address};

type Fields<'r> = &'r [(&'r str, &'r str)];

/// What becomes of a stream.
enum Then {
    /// It is reset, the connection goes, or the answer is a refusal of ours.
    Refused,
    /// The upstream sees this, and it is what is answered.
    Passes(&'static str),
}

struct Row<'r> {
    name: &'static str,
    fields: Vec<(&'r str, &'r str)>,
    body: Option<&'r str>,
    trailers: Fields<'r>,
    then: Then,
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/g")];
const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/p")];

/// A GET with one pseudo-header changed.
fn with(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GET.map(|(known, usual)| (known, if known == name { value } else { usual })).to_vec()
}

fn get(more: Fields<'_>) -> Vec<(&str, &str)> {
    [&GET[..], more].concat()
}

fn post(more: Fields<'_>) -> Vec<(&str, &str)> {
    [&POST[..], more].concat()
}

fn refused<'r>(name: &'static str, fields: Vec<(&'r str, &'r str)>) -> Row<'r> {
    Row { name, fields, body: None, trailers: &[], then: Then::Refused }
}

fn refused_body<'r>(name: &'static str, more: Fields<'r>, body: &'r str) -> Row<'r> {
    Row { body: Some(body), ..refused(name, post(more)) }
}

fn passes<'r>(name: &'static str, fields: Vec<(&'r str, &'r str)>) -> Row<'r> {
    Row { then: Then::Passes("GET /g "), ..refused(name, fields) }
}

fn passes_body<'r>(name: &'static str, more: Fields<'r>, body: &'r str) -> Row<'r> {
    Row { then: Then::Passes("POST /p hello"), ..refused_body(name, more, body) }
}

/// What cannot be said in HTTP/1.1, or would be said in another way.
fn refusals() -> Vec<Row<'static>> {
    vec![
        refused("CR LF in a value", get(&[("x", "y\r\nHost: b")])),
        refused("a request in a value", get(&[("x", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")])),
        refused("LF in a value", get(&[("x", "y\nz: 1")])),
        refused("CR in a value", get(&[("x", "y\rz")])),
        refused("NUL in a value", get(&[("x", "y\0z")])),
        refused("CR LF in a name", get(&[("x\r\ny", "z")])),
        refused("a header in a name", get(&[("x: y\r\nz", "1")])),
        refused("a colon in a name", get(&[("x:y", "z")])),
        refused("a blank in a name", get(&[("x y", "z")])),
        refused("NUL in a name", get(&[("x\0", "z")])),
        refused("a name in capitals", get(&[("X-Up", "z")])),
        refused("no name", get(&[("", "z")])),
        refused("a request line in the path", with(":path", "/g HTTP/1.1\r\nHost: b\r\nX: y")),
        refused("a blank in the path", with(":path", "/g h")),
        refused("LF in the path", with(":path", "/g\nh")),
        refused("NUL in the path", with(":path", "/g\0")),
        refused("a path without a slash", with(":path", "g")),
        refused("an empty path", with(":path", "")),
        refused("an asterisk", with(":path", "*")),
        refused("a URI for a path", with(":path", "http://b/g")),
        refused("two slashes first", with(":path", "//b/g")),
        refused("dot segments", with(":path", "/g/../h")),
        refused("an encoded NUL", with(":path", "/g%00")),
        refused("a request line in the method", with(":method", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET")),
        refused("a blank in the method", with(":method", "GET /h")),
        refused("an empty method", with(":method", "")),
        refused("a method that is no token", with(":method", "G@T")),
        refused("CONNECT", vec![(":method", "CONNECT"), (":authority", "a:80")]),
        refused("TRACE", with(":method", "TRACE")),
        refused("CR LF in the authority", with(":authority", "a\r\nX: y")),
        refused("userinfo in the authority", with(":authority", "u@a")),
        refused("a path in the authority", with(":authority", "a/b")),
        refused("a list for an authority", with(":authority", "a, b")),
        refused("an empty authority", with(":authority", "")),
        refused("another Host than the authority", get(&[("host", "b")])),
        refused("two Hosts", get(&[("host", "a"), ("host", "a")])),
        refused("neither authority nor Host", vec![GET[0], GET[1], GET[3]]),
        refused("CR LF in the scheme", with(":scheme", "http://b/\r\n")),
        refused("an empty scheme", with(":scheme", "")),
        refused("Transfer-Encoding", get(&[("transfer-encoding", "chunked")])),
        refused("Connection", get(&[("connection", "close")])),
        refused("Connection that names", get(&[("connection", "x-octroi-client-id")])),
        refused("Keep-Alive", get(&[("keep-alive", "5")])),
        refused("Proxy-Connection", get(&[("proxy-connection", "keep-alive")])),
        refused("Upgrade", get(&[("upgrade", "h2c")])),
        refused("TE other than trailers", get(&[("te", "gzip")])),
        refused("a pseudo-header behind others", vec![GET[0], GET[1], GET[2], ("x", "y"), GET[3]]),
        refused("two methods", get(&[(":method", "POST")])),
        refused("two paths", vec![GET[0], GET[1], GET[2], GET[3], (":path", "/smuggled")]),
        refused("an unknown pseudo-header", vec![(":x", "y"), GET[0], GET[1], GET[2], GET[3]]),
        refused("a pseudo-header of answers", vec![(":status", "200"), GET[0], GET[1], GET[2], GET[3]]),
        refused_body("a length that is too long", &[("content-length", "9")], "hello"),
        refused_body("a length that is too short", &[("content-length", "3")], "hello"),
        refused_body("no length, and a request", &[("content-length", "0")], SMUGGLED),
        refused_body("two lengths", &[("content-length", "5"), ("content-length", "6")], "hello"),
        refused_body("a length with +", &[("content-length", "+5")], "hello"),
        refused_body("a list of lengths", &[("content-length", "5, 5")], "hello"),
        refused_body("an empty length", &[("content-length", "")], "hello"),
        refused_body("Transfer-Encoding and a body", &[("transfer-encoding", "chunked")], "5\r\nhello\r\n0\r\n\r\n"),
        Row { trailers: &[("x", "y\r\nz")], ..refused_body("CR LF in a trailer", &[], "hello") },
    ]
}

/// What is one request, whatever it looks like.
fn passing() -> Vec<Row<'static>> {
    vec![
        passes("nothing special", get(&[])),
        // The library takes both away before anybody sees them.
        passes("a fragment in the path", with(":path", "/g#h")),
        Row { trailers: &[(":path", "/smuggled")], ..passes_body("a pseudo-header behind the body", &[], "hello") },
        passes("Host like the authority", get(&[("host", "a")])),
        passes("Host alone", vec![GET[0], GET[1], GET[3], ("host", "a")]),
        passes("TE: trailers", get(&[("te", "trailers")])),
        passes("names in our space", get(&[("x-octroi-client-id", "forged"), ("x_octroi_scopes", "forged")])),
        passes(
            "names of proxies",
            get(&[("x-forwarded-for", "forged"), ("forwarded", "forged"), ("x-real-ip", "forged")]),
        ),
        passes("an underscored length", get(&[("content_length", "99"), ("transfer_encoding", "forged")])),
        passes("bytes outside ASCII in a value", get(&[("x", "\u{e9}")])),
        passes("two cookies", get(&[("cookie", "a=1"), ("cookie", "b=2")])),
        passes_body("a body with its length", &[("content-length", "5")], "hello"),
        passes_body("a body without a length", &[], "hello"),
        Row { trailers: &[("x-sum", "1")], ..passes_body("a trailer", &[], "hello") },
        Row {
            trailers: &[("x-octroi-client-id", "forged"), ("content-length", "99"), ("host", "forged")],
            ..passes_body("trailers in our name", &[], "hello")
        },
        Row {
            then: Then::Passes("POST /p 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
            ..passes_body("chunks and a request in a body", &[], "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        },
    ]
}

#[test]
fn a_stream_is_one_request_of_http_1_or_none() {
    let upstream = Strict::start();
    let setup = Setup::sqlite(upstream.address);
    let h2c = free_address();
    let listener = format!("[[server.listeners]]\naddress = \"{h2c}\"\nprotocol = \"h2c\"\n");
    setup.write_config(&(setup.config() + "auth = \"none\"\n" + &listener));
    let _gateway = setup.start();
    let rows: Vec<Row<'_>> = refusals().into_iter().chain(passing()).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let before = upstream.seen().len();
        let ended = ask(h2c, row);
        let seen = upstream.seen().split_off(before);
        let fits = match row.then {
            Then::Refused => seen.is_empty() && matches!(&ended, Ended::Refused(_)),
            Then::Passes(text) => seen == [text] && ended == Ended::Answered(text.to_owned()),
        };
        if !fits {
            wrong.push(format!("{}: {ended:?}, and the upstream saw {seen:?}", row.name));
        }
    }
    // Nothing of what was refused came later, either.
    let passed = rows.iter().filter(|row| matches!(row.then, Then::Passes(_))).count();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(upstream.seen().len(), passed);
}

#[derive(Debug, PartialEq)]
enum Ended {
    /// With the upstream's text.
    Answered(String),
    /// By a reset, the connection's end, or a problem of ours.
    Refused(String),
    /// Not at all.
    Open,
}

/// Asks on a connection of its own.
fn ask(address: std::net::SocketAddr, row: &Row<'_>) -> Ended {
    const END_STREAM: u8 = 1;
    let mut stream = connect(address);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ends = |is_last: bool| if is_last { END_STREAM } else { 0 };
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, 4, 0, 0, b"");
    let has_trailers = !row.trailers.is_empty();
    frame(&mut out, 1, 4 | ends(row.body.is_none()), 1, &header_block(&row.fields));
    if let Some(body) = row.body {
        frame(&mut out, 0, ends(!has_trailers), 1, body.as_bytes());
    }
    if has_trailers {
        frame(&mut out, 1, 4 | END_STREAM, 1, &header_block(row.trailers));
    }
    let _ = stream.write_all(&out);
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ended::Open,
            Err(_) => return Ended::Refused("closed".to_owned()),
        }
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        let _ = stream.read_exact(&mut payload);
        let (kind, flags, id) = (head[3], head[4], head[8]);
        match (kind, id) {
            (3, 1) => return Ended::Refused(format!("reset, code {}", payload[3])),
            (7, _) => return Ended::Refused(format!("connection, code {}", payload[7])),
            (0 | 1, 1) => {
                if kind == 0 {
                    body.extend_from_slice(&payload);
                }
                if flags & END_STREAM != 0 {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    let is_ours = body.contains("urn:octroi:error:");
                    return if is_ours { Ended::Refused(body) } else { Ended::Answered(body) };
                }
            }
            _ => {}
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    out.extend_from_slice(payload);
}

/// Literals without an index and without Huffman's code (RFC 7541 §6.2.2): any bytes whatever.
fn header_block(fields: Fields<'_>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length of one byte");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
