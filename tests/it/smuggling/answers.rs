//! Answers that smuggle: what an upstream sends is one answer in one framing, or no answer at all;
//! and what it sends behind an answer belongs to nobody's next one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::callers::{Answer, fetch, parse, raw};
use crate::harness::Setup;

/// What the caller gets.
enum Then {
    /// This body, whole.
    Passes(&'static str),
    /// 502: it was no answer.
    Refused,
    /// A beginning that is seen to be one: the connection ends before the body does.
    Cut,
}

use Then::{Cut, Passes, Refused};

/// Behind an answer, in the hope that it is taken for the next one.
const SMUGGLED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";

/// What the upstream sends, whether it then closes, and what becomes of it.
fn rows() -> Vec<(&'static str, String, bool, Then)> {
    let head = |lines: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}");
    let whole = "Content-Length: 5\r\n";
    let coded = "Transfer-Encoding: chunked\r\n";
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let (stays, closes) = (false, true);
    vec![
        ("a length", head(whole, "hello"), stays, Passes("hello")),
        ("chunks", head(coded, chunks), stays, Passes("hello")),
        ("the connection's end", head("", "hello"), closes, Passes("hello")),
        (
            "interim answers first",
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{}", head(whole, "hello")),
            stays,
            Passes("hello"),
        ),
        ("two lengths alike", head("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), stays, Passes("hello")),
        ("a list of lengths alike", head("Content-Length: 5, 5\r\n", "hello"), stays, Passes("hello")),
        // The coding counts (RFC 9112 §6.3), and the connection serves nobody else.
        (
            "a length and chunks",
            head("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunks),
            stays,
            Passes("hello"),
        ),
        (
            "chunks and a length",
            head("Transfer-Encoding: chunked\r\nContent-Length: 999\r\n", chunks),
            stays,
            Passes("hello"),
        ),
        ("another answer behind a length", head(whole, &format!("hello{SMUGGLED}")), stays, Passes("hello")),
        ("another answer behind chunks", head(coded, &format!("{chunks}{SMUGGLED}")), stays, Passes("hello")),
        ("another answer behind no content", format!("HTTP/1.1 204 No Content\r\n\r\n{SMUGGLED}"), stays, Passes("")),
        ("a body to no content", format!("HTTP/1.1 204 No Content\r\n{whole}\r\nhello"), stays, Passes("")),
        ("a body to not modified", format!("HTTP/1.1 304 Not Modified\r\n{whole}\r\nhello"), stays, Passes("")),
        (
            "another answer in a body",
            head(&format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED),
            stays,
            Passes(SMUGGLED),
        ),
        ("garbage behind a length", head(whole, "hello\r\n\r\ngarbage"), stays, Passes("hello")),
        ("two lengths", head("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), stays, Refused),
        ("a list of lengths", head("Content-Length: 5, 6\r\n", "hello"), stays, Refused),
        ("a length with +", head("Content-Length: +5\r\n", "hello"), stays, Refused),
        ("a length in hexadecimal", head("Content-Length: 0x5\r\n", "hello"), stays, Refused),
        ("an empty length", head("Content-Length:\r\n", "hello"), stays, Refused),
        ("a length over 64 bits", head("Content-Length: 18446744073709551621\r\n", "hello"), stays, Refused),
        ("another coding", head("Transfer-Encoding: gzip, chunked\r\n", chunks), stays, Refused),
        ("identity", head("Transfer-Encoding: identity\r\n", "hello"), closes, Refused),
        ("a coding that is none", head("Transfer-Encoding: xchunked\r\n", chunks), stays, Refused),
        ("a coding in quotes", head("Transfer-Encoding: \"chunked\"\r\n", chunks), stays, Refused),
        ("two codings", head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks), stays, Refused),
        ("chunks in HTTP/1.0", format!("HTTP/1.0 200 OK\r\n{coded}\r\n{chunks}"), stays, Refused),
        ("a blank before the colon", head("Content-Length : 5\r\n", "hello"), stays, Refused),
        ("a fold", head("X: y\r\n z\r\nContent-Length: 5\r\n", "hello"), stays, Refused),
        ("NUL in a value", head("X: \0\r\nContent-Length: 5\r\n", "hello"), stays, Refused),
        ("a bare CR in a value", head("X: y\rz\r\nContent-Length: 5\r\n", "hello"), stays, Refused),
        ("no colon", head("nonsense\r\nContent-Length: 5\r\n", "hello"), stays, Refused),
        ("no name", head(": y\r\nContent-Length: 5\r\n", "hello"), stays, Refused),
        ("a status that is none", "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n".to_owned(), stays, Refused),
        ("a status of four digits", "HTTP/1.1 2000 High\r\nContent-Length: 0\r\n\r\n".to_owned(), stays, Refused),
        (
            "another protocol that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw".to_owned(),
            stays,
            Refused,
        ),
        ("HTTP/2 in words", format!("HTTP/2 200\r\n{whole}\r\nhello"), stays, Refused),
        ("HTTP/0.9", "hello".to_owned(), closes, Refused),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n".to_owned(), stays, Refused),
        ("nothing", String::new(), closes, Refused),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Le".to_owned(), closes, Refused),
        ("a head without end", head(&format!("X: {}\r\n", "y".repeat(70_000)), "hello"), stays, Refused),
        ("less than the length", head("Content-Length: 50\r\n", "hello"), closes, Cut),
        ("chunks without end", head(coded, "5\r\nhello\r\n"), closes, Cut),
        ("a chunk cut short", head(coded, "50\r\nhello"), closes, Cut),
        ("a chunk's size that is none", head(coded, "5\r\nhello\r\nxyz\r\n\r\n"), stays, Cut),
        ("a chunk's size with +", head(coded, "5\r\nhello\r\n+0\r\n\r\n"), stays, Cut),
        ("a size line with a bare LF", head(coded, "5\r\nhello\r\n0\n\r\n"), stays, Cut),
        ("a chunk that is too long", head(coded, "5\r\nhello!\r\n0\r\n\r\n"), stays, Cut),
        ("trailers that are none", head(coded, "5\r\nhello\r\n0\r\nnonsense\r\n\r\n"), stays, Cut),
    ]
}

#[test]
fn an_answer_is_one_answer_or_none() {
    let upstream = scripted();
    let setup = Setup::sqlite(upstream);
    setup.write_config(&(setup.config() + "auth = \"none\"\n"));
    let _gateway = setup.start();
    let mut wrong = Vec::new();
    for (number, (name, _, _, then)) in rows().iter().enumerate() {
        let request = format!("GET /row/{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let bytes = raw(setup.data, request.as_bytes());
        let answer = parse(&bytes, false);
        let fits = match then {
            Passes(body) => {
                answer.as_ref().is_some_and(|answer| is_whole(answer, &bytes) && answer.body == body.as_bytes())
            }
            Refused => {
                answer.as_ref().is_some_and(|answer| answer.status == 502 && answer.problem() == "upstream_unavailable")
            }
            Cut => bytes.starts_with(b"HTTP/1.1 200 ") && answer.is_none(),
        };
        if !fits {
            wrong.push(format!("{name}: {}", bytes.escape_ascii()));
        }
        // Whatever is left on that connection reaches nobody; each worker has its own.
        for _ in 0..4 {
            let next = fetch(setup.data, "/next", &[]);
            assert_eq!((next.status, &*next.body), (200, &b"next"[..]), "behind {name}");
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows().len(), wrong.join("\n"));
}

/// Of the upstream, in one framing.
fn is_whole(answer: &Answer, bytes: &[u8]) -> bool {
    let framings = ["content-length", "transfer-encoding"].map(|name| answer.header(name).is_some());
    matches!(answer.status, 200 | 204 | 304)
        && framings != [true, true]
        && bytes.windows(5).filter(|w| w == b"HTTP/").count() <= 2
}

/// An upstream that answers `/row/N` with the bytes of that row, and `/next` with `next`.
fn scripted() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let rows = rows();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
        let head = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
        let number = head.strip_prefix("GET /row/").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        let (answer, closes) = match number {
            Some(number) => (rows[number].1.as_bytes(), rows[number].2),
            None => (&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"[..], false),
        };
        if stream.write_all(answer).is_err() || closes {
            return;
        }
    }
}
