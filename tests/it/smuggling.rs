//! What smuggles: for every input either we refuse it, close, and the upstream saw nothing of it, or
//! the upstream saw exactly the requests that we answered, each framed in one way.
//!
//! The upstream here is as strict as can be: it notes whatever it could not read as one request, and
//! answers each with what it read, so that an answer proves which request it belongs to.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::callers::connect;
use crate::harness::{Gateway, Setup};

/// What becomes of an input: the requests that pass, each as the upstream must see it, and whether
/// we refuse what follows them.
struct Row {
    name: &'static str,
    wire: Vec<u8>,
    passes: Vec<String>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Nothing is wrong: a last request on the connection is answered.
    GoesOn,
    /// A 4xx, and the end.
    Refuses,
    /// The end, with a 4xx or without a word: what came is another protocol.
    Ends,
    /// A 4xx for what is asked, not for how it is framed: a last request is answered.
    Declines,
    /// The end, for that is what was asked for.
    Closes,
}

/// A POST with whichever lines a case is about.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /p HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}").into_bytes()
}

fn get(lines: &str) -> Vec<u8> {
    format!("GET /g HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

fn refused(name: &'static str, wire: impl Into<Vec<u8>>) -> Row {
    Row { name, wire: wire.into(), passes: Vec::new(), then: Then::Refuses }
}

fn declined(name: &'static str, wire: impl Into<Vec<u8>>) -> Row {
    Row { then: Then::Declines, ..refused(name, wire) }
}

fn passes(name: &'static str, wire: impl Into<Vec<u8>>, seen: &[&str]) -> Row {
    Row { name, wire: wire.into(), passes: seen.iter().map(ToString::to_string).collect(), then: Then::GoesOn }
}

fn passes_then(name: &'static str, wire: impl Into<Vec<u8>>, seen: &[&str], then: Then) -> Row {
    Row { then, ..passes(name, wire, seen) }
}

const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
const TE: &str = "Transfer-Encoding: chunked\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Two lengths of one body: who believes which.
fn lengths_against_codings() -> Vec<Row> {
    let both = |lines: &str| post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
    vec![
        refused("CL.TE", both("Content-Length: 40\r\nTransfer-Encoding: chunked\r\n")),
        refused("TE.CL", both("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n")),
        refused("CL.0 TE", both("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n")),
        refused("CL TE CL", both("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n")),
        refused("CL and TE in capitals", both("CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n")),
        refused("CL and TE: identity", both("Content-Length: 5\r\nTransfer-Encoding: identity\r\n")),
        refused("CL and an empty TE", both("Content-Length: 5\r\nTransfer-Encoding:\r\n")),
        refused("CL and TE behind a tab", both("Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n")),
        refused("CL and TE before a blank", both("Content-Length: 5\r\nTransfer-Encoding : chunked\r\n")),
        refused("CL and TE on a folded line", both("Content-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\n")),
        refused("CL and TE hidden in a fold", both("Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n")),
        refused("CL and TE behind a bare LF", both("Content-Length: 5\r\nX: y\nTransfer-Encoding: chunked\r\n")),
        refused("CL and TE behind a bare CR", both("Content-Length: 5\r\nX: y\rTransfer-Encoding: chunked\r\n")),
        refused("CL and TE behind CR CR LF", both("Content-Length: 5\r\nX: y\r\r\nTransfer-Encoding: chunked\r\n")),
        refused("CL and TE with a NUL", both("Content-Length: 5\r\nTransfer-Encoding: chunked\0\r\n")),
        refused(
            "CL and TE in HTTP/1.0",
            b"POST /p HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        refused(
            "CL and TE in absolute form",
            b"POST http://a/p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        ),
        refused(
            "CL and TE behind Expect",
            both("Expect: 100-continue\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ),
        refused(
            "CL and TE behind Upgrade",
            both("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ),
        passes(
            "CL and an underscored TE",
            post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "hello"),
            &["POST /p hello"],
        ),
        passes(
            "CL and a dotted TE",
            post("Content-Length: 5\r\nTransfer.Encoding: chunked\r\n", "hello"),
            &["POST /p hello"],
        ),
        passes(
            "TE and an underscored CL",
            post("Transfer-Encoding: chunked\r\nContent_Length: 3\r\n", CHUNKS),
            &["POST /p hello"],
        ),
        passes(
            "CL and an X-TE",
            post("Content-Length: 5\r\nX-Transfer-Encoding: chunked\r\n", "hello"),
            &["POST /p hello"],
        ),
    ]
}

/// What a coding may be called.
fn codings() -> Vec<Row> {
    let coded = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), CHUNKS);
    let mut rows: Vec<Row> = [
        ("TE: gzip, chunked", " gzip, chunked"),
        ("TE: chunked, gzip", " chunked, gzip"),
        ("TE: identity", " identity"),
        ("TE: chunked, identity", " chunked, identity"),
        ("TE: identity, chunked", " identity, chunked"),
        ("TE: chunked, chunked", " chunked, chunked"),
        ("TE: xchunked", " xchunked"),
        ("TE: chunkedx", " chunkedx"),
        ("TE: chunk", " chunk"),
        ("TE: cow", " cow"),
        ("TE: chunked;q=1", " chunked;q=1"),
        ("TE in quotes", " \"chunked\""),
        ("TE with a comma behind", " chunked,"),
        ("TE with a comma before", " ,chunked"),
        ("TE with two commas", " chunked,,"),
        ("TE with VT behind", " chunked\x0b"),
        ("TE with FF before", " \x0cchunked"),
        ("TE with NUL behind", " chunked\0"),
        ("TE with a blank inside", " chun ked"),
        ("TE outside ASCII", " chun\u{212a}ed"),
        ("TE empty", ""),
        ("TE folded", "\r\n chunked"),
        ("TE folded by a tab", "\r\n\tchunked"),
        ("TE on two lines", " chunked\r\nTransfer-Encoding: chunked"),
        ("TE on two lines, one other", " chunked\r\nTransfer-Encoding: cow"),
        ("TE on two lines, identity first", " identity\r\nTransfer-Encoding: chunked"),
    ]
    .map(|(name, value)| refused(name, coded(value)))
    .into();
    rows.extend([
        passes("TE without a blank", coded("chunked"), &["POST /p hello"]),
        passes("TE behind a tab", coded("\tchunked"), &["POST /p hello"]),
        passes("TE before blanks", coded(" chunked \t "), &["POST /p hello"]),
        passes("TE in capitals", coded(" CHUNKED"), &["POST /p hello"]),
        passes(
            "TE to GET",
            b"GET /g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
            &["GET /g hello"],
        ),
        refused("TE before a blank", post("Transfer-Encoding : chunked\r\n", CHUNKS)),
        refused("TE before a tab", post("Transfer-Encoding\t: chunked\r\n", CHUNKS)),
        refused("TE with a NUL in its name", post("Transfer-\0Encoding: chunked\r\n", CHUNKS)),
        refused("TE with CR in its name", post("Transfer-Encoding\r: chunked\r\n", CHUNKS)),
        refused("TE in HTTP/1.0", format!("POST /p HTTP/1.0\r\nHost: a\r\n{TE}\r\n{CHUNKS}")),
        refused(
            "TE in HTTP/1.0 that stays",
            format!("POST /p HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{TE}\r\n{CHUNKS}"),
        ),
        refused("a blank before the first name", format!("POST /p HTTP/1.1\r\n {TE}Host: a\r\n\r\n{CHUNKS}")),
    ]);
    rows
}

/// What a length may be.
fn lengths() -> Vec<Row> {
    let long = |value: &str| post(&format!("Content-Length:{value}\r\n"), "hello");
    let mut rows: Vec<Row> = [
        ("CL: +5", " +5"),
        ("CL: -5", " -5"),
        ("CL: 0x5", " 0x5"),
        ("CL: 5 5", " 5 5"),
        ("CL: 5, 5", " 5, 5"),
        ("CL: 5,6", " 5,6"),
        ("CL: 5;", " 5;"),
        ("CL: 5.0", " 5.0"),
        ("CL: 5e0", " 5e0"),
        ("CL: 5_0", " 5_0"),
        ("CL in quotes", " \"5\""),
        ("CL in other digits", " \u{665}"),
        ("CL empty", ""),
        ("CL blank", "  "),
        ("CL over 64 bits", " 18446744073709551621"),
        ("CL of many digits", " 99999999999999999999999999"),
        ("CL with VT", " 5\x0b"),
        ("CL with NUL", " 5\0"),
        ("CL folded", "\r\n 5"),
        ("CL twice, differing", " 5\r\nContent-Length: 6"),
        ("CL twice, one empty", " 5\r\nContent-Length:"),
        ("CL thrice", " 5\r\nX: y\r\nContent-Length: 0\r\nContent-Length: 5"),
    ]
    .map(|(name, value)| refused(name, long(value)))
    .into();
    rows.extend([
        refused("CL before a blank", post("Content-Length : 5\r\n", "hello")),
        refused("CL before a tab", post("Content-Length\t: 5\r\n", "hello")),
        // Two that say the same are one (RFC 9112 §6.3); the connection ends all the same.
        passes_then("CL twice, alike", long(" 5\r\nContent-Length: 5"), &["POST /p hello"], Then::Closes),
        passes("CL with blanks around", long(" \t 5 \t"), &["POST /p hello"]),
        passes("CL with a zero before", long(" 05"), &["POST /p hello"]),
        passes("CL: 0", post("Content-Length: 0\r\n", ""), &["POST /p "]),
        passes(
            "CL to GET",
            b"GET /g HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
            &["GET /g hello"],
        ),
        passes(
            "CL to DELETE",
            b"DELETE /d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
            &["DELETE /d hello"],
        ),
        passes(
            "a request in a body",
            post(&format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED),
            &[&format!("POST /p {SMUGGLED}")],
        ),
        passes_then("CL too short", post("Content-Length: 3\r\n", "hello\r\n\r\n"), &["POST /p hel"], Then::Refuses),
        passes_then("no CL at all", post("", "hello\r\n\r\n"), &["POST /p "], Then::Refuses),
        passes_then(
            "only an underscored CL",
            post("Content_Length: 5\r\n", "hello\r\n\r\n"),
            &["POST /p "],
            Then::Refuses,
        ),
        passes("a request instead of a body", post("", SMUGGLED), &["POST /p ", "GET /smuggled "]),
    ]);
    rows
}

/// Where lines end, and what may stand in them.
fn lines() -> Vec<Row> {
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
fn chunks() -> Vec<Row> {
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
fn targets() -> Vec<Row> {
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
        passes_then("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[], Then::Ends),
        passes_then("HTTP/1.0", b"GET /g HTTP/1.0\r\nHost: a\r\n\r\n".to_vec(), &["GET /g "], Then::Closes),
    ]);
    rows
}

/// What callers may say about the next hop, and in the name of others.
fn hops() -> Vec<Row> {
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
fn pipelines() -> Vec<Row> {
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

fn table() -> Vec<Row> {
    [lengths_against_codings(), codings(), lengths(), lines(), chunks(), targets(), hops(), pipelines()]
        .into_iter()
        .flatten()
        .collect()
}

/// The gateway between, with an open route: what is refused is refused for how it is written.
fn scene(upstream: SocketAddr) -> (Setup, Gateway) {
    let setup = Setup::sqlite(upstream);
    setup.write_config(&(setup.config() + "auth = \"none\"\n"));
    let gateway = setup.start();
    (setup, gateway)
}

#[test]
fn either_we_refuse_or_the_upstream_sees_what_we_answer() {
    let upstream = Strict::start();
    let (setup, _gateway) = scene(upstream.address);
    let rows = table();
    assert!(rows.len() >= 150, "{} rows", rows.len());
    let wrong: Vec<String> = rows.iter().filter_map(|row| check(row, &[], &setup, &upstream).err()).collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// The same, with the head in two pieces, cut at each of its bytes.
#[test]
fn a_verdict_does_not_depend_on_how_the_bytes_arrive() {
    let upstream = Strict::start();
    let (setup, _gateway) = scene(upstream.address);
    let chosen = [
        "CL.TE",
        "TE.CL",
        "CL and TE behind a bare LF",
        "TE: gzip, chunked",
        "TE on two lines",
        "TE in capitals",
        "CL twice, differing",
        "CL with blanks around",
        "a bare LF at the end",
        "bare LFs only",
        "a bare CR in a value",
        "a fold",
        "an empty line before",
        "a size line with a bare LF",
        "trailers in our name",
        "two Hosts",
        "absolute form against Host",
        "HTTP/0.9",
        "HTTP/1.0",
        "the preface of HTTP/2",
        "two requests",
        "garbage behind",
        "a request behind Connection: close",
    ];
    let rows: Vec<Row> = table().into_iter().filter(|row| chosen.contains(&row.name)).collect();
    assert_eq!(rows.len(), chosen.len(), "each is a row of the table");
    let mut wrong = Vec::new();
    for row in &rows {
        let head = row.wire.windows(4).position(|window| window == b"\r\n\r\n").map_or(row.wire.len(), |at| at + 4);
        let cuts = (1..head.min(row.wire.len() - 1)).filter_map(|cut| check(row, &[cut], &setup, &upstream).err());
        wrong.extend(cuts.take(1));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sends a row, in pieces that end at `cuts`, and compares what came back and what went up.
fn check(row: &Row, cuts: &[usize], setup: &Setup, upstream: &Strict) -> Result<(), String> {
    let before = upstream.seen().len();
    let mut stream = connect(setup.data);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([row.wire.len()]) {
        // What was refused already may have closed the connection.
        let _ = stream.write_all(&row.wire[from..cut]);
        from = cut;
        if cut != row.wire.len() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut expected = row.passes.clone();
    let mut answers = Vec::new();
    if matches!(row.then, Then::GoesOn | Then::Declines) {
        read_answers(&mut stream, &mut answers, expected.len() + usize::from(row.then == Then::Declines));
        let _ = stream.write_all(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        expected.push("GET /last ".to_owned());
    }
    let has_ended = read_answers(&mut stream, &mut answers, usize::MAX);
    let answers = parse_answers(&answers);
    let seen = upstream.seen().split_off(before);
    let (by_upstream, by_us): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.by_upstream);
    let answered: Vec<&str> = by_upstream.iter().map(|answer| answer.body.as_str()).collect();
    let refusals: Vec<u16> = by_us.iter().map(|answer| answer.status).collect();
    let is_refused = matches!(refusals[..], [400..500]);
    let is_last = answers.last().is_some_and(|last| !last.by_upstream);
    let fits = match row.then {
        Then::Refuses => is_refused && is_last,
        Then::Declines => is_refused && !is_last,
        Then::Ends => refusals.is_empty() || (is_refused && is_last),
        Then::GoesOn | Then::Closes => refusals.is_empty(),
    };
    if seen == expected && answered == expected && fits && has_ended {
        return Ok(());
    }
    Err(format!(
        "{}{}: expected {expected:?} and then {:?}; the upstream saw {seen:?}, answered were {answered:?}, refused {refusals:?}, ended: {has_ended}",
        row.name,
        cuts.first().map(|cut| format!(", cut at {cut}")).unwrap_or_default(),
        row.then,
    ))
}

/// Reads until there are `count` answers, or nothing more comes. Whether the connection has ended.
fn read_answers(stream: &mut TcpStream, bytes: &mut Vec<u8>, count: usize) -> bool {
    let mut buffer = [0; 16 * 1024];
    while parse_answers(bytes).len() < count {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    false
}

#[derive(Debug)]
struct Answered {
    status: u16,
    by_upstream: bool,
    body: String,
}

/// Whole answers, one behind the other; interim ones are passed over.
fn parse_answers(mut bytes: &[u8]) -> Vec<Answered> {
    let mut answers = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let rest = &bytes[end + 4..];
        if (100..200).contains(&status) {
            bytes = rest;
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let Some(body) = rest.get(..length) else { break };
        let by_upstream = head.contains("\r\nx-upstream: ");
        answers.push(Answered { status, by_upstream, body: String::from_utf8_lossy(body).into_owned() });
        bytes = &rest[length..];
    }
    answers
}

/// An upstream that reads in one way only, answers with what it read, and notes what it could not.
struct Strict {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Strict {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || serve(stream, &noted));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match read_request(&bytes) {
            Read::Request(text, length) => {
                bytes.drain(..length);
                seen.lock().unwrap().push(text.clone());
                let head = format!("HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: {}\r\n\r\n", text.len());
                if stream.write_all((head + &text).as_bytes()).is_err() {
                    return;
                }
            }
            Read::Malformed(why) => {
                seen.lock().unwrap().push(format!("{why}: {}", bytes.escape_ascii()));
                return;
            }
            Read::Missing => match stream.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    // We may have begun to forward a body that turned out to be none: then the
                    // connection ends, and the upstream knows that it has no request.
                    return;
                }
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            },
        }
    }
}

enum Read {
    /// `METHOD TARGET BODY`, and how many bytes it was.
    Request(String, usize),
    Malformed(&'static str),
    Missing,
}

fn read_request(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Read::Missing };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let Some(request) = request_line.strip_suffix(" HTTP/1.1") else { return Read::Malformed("a request line") };
    if request.split(' ').count() != 2 || head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Read::Malformed("a request line, or line ends");
    }
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { return Read::Malformed("a header line") };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&byte)) {
            return Read::Malformed("a header name");
        }
        fields.push((name.to_lowercase(), value.to_owned()));
    }
    if fields.iter().any(|(_, value)| value.to_lowercase().contains("forged")) {
        return Read::Malformed("something forged");
    }
    let all = |name: &str| fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect::<Vec<_>>();
    let is_empty = |name: &str| all(name).is_empty();
    if all("host").len() != 1
        || all("x-request-id").len() != 1
        || !["te", "upgrade", "trailer"].into_iter().all(is_empty)
    {
        return Read::Malformed("Host, the request's id, or words for one hop");
    }
    let body = &bytes[end + 4..];
    let (content, length) = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => (Some(Vec::new()), 0),
        ([length], []) => {
            let Ok(length) = length.parse::<usize>() else { return Read::Malformed("a length") };
            (body.get(..length).map(<[u8]>::to_vec), length)
        }
        ([], ["chunked"]) => match unchunk(body) {
            Ok(Some((content, length))) => (Some(content), length),
            Ok(None) => (None, 0),
            Err(why) => return Read::Malformed(why),
        },
        _ => return Read::Malformed("more than one framing"),
    };
    match content {
        Some(content) => Read::Request(format!("{request} {}", String::from_utf8_lossy(&content)), end + 4 + length),
        None => Read::Missing,
    }
}

/// The content and how many bytes it took; none: it has not ended. Neither extensions nor trailers
/// are let through.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + end]).map_err(|_| "a chunk's size")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a chunk's size");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk's size")?;
        at += end + 2;
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if &data[size..] != b"\r\n" {
            return Err(if size == 0 { "trailers" } else { "a chunk's end" });
        }
        content.extend_from_slice(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((content, at)));
        }
    }
}
