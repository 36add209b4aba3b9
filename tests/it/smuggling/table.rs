//! The table: what a row is, and the rows about where a body ends.

use super::shapes::{chunks, hops, lines, pipelines, targets};

/// What becomes of an input: the requests that pass, each as the upstream must see it, and whether
/// we refuse what follows them.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) wire: Vec<u8>,
    pub(super) passes: Vec<String>,
    pub(super) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Then {
    /// Nothing is wrong: a last request on the connection is answered.
    GoesOn,
    /// A 4xx, and the end.
    Refuses,
    /// A 4xx for what is asked, not for how it is framed: a last request is answered.
    Declines,
    /// The end, for that is what was asked for.
    Closes,
}

/// A POST with whichever lines a case is about.
pub(super) fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /p HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}").into_bytes()
}

pub(super) fn get(lines: &str) -> Vec<u8> {
    format!("GET /g HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

pub(super) fn refused(name: &'static str, wire: impl Into<Vec<u8>>) -> Row {
    Row { name, wire: wire.into(), passes: Vec::new(), then: Then::Refuses }
}

pub(super) fn declined(name: &'static str, wire: impl Into<Vec<u8>>) -> Row {
    Row { then: Then::Declines, ..refused(name, wire) }
}

pub(super) fn passes(name: &'static str, wire: impl Into<Vec<u8>>, seen: &[&str]) -> Row {
    Row { name, wire: wire.into(), passes: seen.iter().map(ToString::to_string).collect(), then: Then::GoesOn }
}

pub(super) fn passes_then(name: &'static str, wire: impl Into<Vec<u8>>, seen: &[&str], then: Then) -> Row {
    Row { then, ..passes(name, wire, seen) }
}

pub(super) const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
pub(super) const TE: &str = "Transfer-Encoding: chunked\r\n";
pub(super) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Two lengths of one body: who believes which.
pub(super) fn lengths_against_codings() -> Vec<Row> {
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
pub(super) fn codings() -> Vec<Row> {
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
pub(super) fn lengths() -> Vec<Row> {
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

/// All rows.
pub(super) fn table() -> Vec<Row> {
    [lengths_against_codings(), codings(), lengths(), lines(), chunks(), targets(), hops(), pipelines()]
        .into_iter()
        .flatten()
        .collect()
}
