//! Heads as upstreams send them, whole and in every two pieces.

use super::*;

/// What a head comes to: status, framing, whether the connection lives, what is left.
type Outcome<'a> = Result<Option<(u16, Framing, bool, &'a str)>, &'static str>;

fn parse(bytes: &str, split: usize, to_head: bool) -> Result<Option<(AnswerHead, BytesMut)>, AnswerFault> {
    let mut parser = AnswerParser::default();
    let mut buffer = BytesMut::from(&bytes[..split]);
    let mut head = if split > 0 { parser.parse(&mut buffer, to_head)? } else { None };
    buffer.extend_from_slice(&bytes.as_bytes()[split..]);
    if head.is_none() {
        head = parser.parse(&mut buffer, to_head)?;
    }
    Ok(head.map(|head| (head, buffer)))
}

fn kind(fault: AnswerFault) -> &'static str {
    match fault {
        AnswerFault::Syntax(_) => "syntax",
        AnswerFault::TooLarge => "large",
        AnswerFault::Framing(_) => "framing",
    }
}

#[test]
fn heads_are_read_the_same_however_they_come() {
    use Framing::{Chunked, Empty, Length, UntilClose};
    let rows: &[(&str, bool, Outcome<'_>)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, Ok(Some((200, Length(2), true, "ok")))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true, Ok(Some((200, Empty, true, "")))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, Ok(Some((200, Empty, true, "")))),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, Ok(Some((200, Empty, true, "")))),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, Ok(Some((204, Empty, true, "")))),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, Ok(Some((304, Empty, true, "")))),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", false, Ok(Some((200, UntilClose, false, "to the end")))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", false, Ok(Some((200, Length(1), false, "a")))),
        (
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na",
            false,
            Ok(Some((200, Length(1), true, "a"))),
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 1\r\n\r\na",
            false,
            Ok(Some((200, Length(1), false, "a"))),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0", false, Ok(Some((200, Chunked, true, "0")))),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
            false,
            Ok(Some((200, Chunked, false, "0"))),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 Made\r\n\r\n",
            false,
            Ok(Some((201, UntilClose, false, ""))),
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw", false, Ok(Some((101, Empty, true, "raw")))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false, Ok(None)),
        ("HTTP/1.1 100 Continue\r\n\r\n", false, Ok(None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false, Err("framing")),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", false, Err("framing")),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", false, Err("framing")),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, Err("framing")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", false, Err("framing")),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", false, Err("framing")),
        ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", false, Err("framing")),
        ("HTTP/2.0 200 OK\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 099 Odd\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 20 OK\r\n\r\n", false, Err("syntax")),
        ("garbage\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 200 OK\r\n: a\r\n\r\n", false, Err("syntax")),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", false, Err("syntax")),
    ];
    for (bytes, to_head, expected) in rows {
        for split in 0..=bytes.len() {
            let parsed = parse(bytes, split, *to_head);
            let found = match &parsed {
                Ok(Some((head, rest))) => {
                    Ok(Some((head.status.as_u16(), head.framing, head.keeps_alive, std::str::from_utf8(rest).unwrap())))
                }
                Ok(None) => Ok(None),
                Err(fault) => Err(kind(*fault)),
            };
            assert_eq!(found, *expected, "{bytes:?} split at {split}");
        }
    }
}

#[test]
fn headers_and_an_unusual_reason_come_along() {
    let (head, _) = parse("HTTP/1.1 200 Fine\r\nA: 1\r\na:  2 \r\nB:\r\n\r\n", 0, false).unwrap().unwrap();
    assert_eq!(head.reason.as_deref(), Some(&b"Fine"[..]));
    assert_eq!(head.headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.headers["b"], "");
    let (head, _) = parse("HTTP/1.1 200 OK\r\n\r\n", 0, false).unwrap().unwrap();
    assert_eq!(head.reason, None);
}

#[test]
fn heads_are_bounded() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(LINES_MAX + 1));
    assert_eq!(parse(&many, 0, false).unwrap_err(), AnswerFault::Syntax(httparse::Error::TooManyHeaders));
    for large in [
        format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEAD_MAX)),
        format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(HEAD_MAX)),
    ] {
        assert_eq!(parse(&large, 0, false).unwrap_err(), AnswerFault::TooLarge);
        assert_eq!(parse(&large, 100, false).unwrap_err(), AnswerFault::TooLarge);
    }
}
