//! What smuggles: for every input either we refuse it, close, and the upstream saw nothing of it, or
//! the upstream saw exactly the requests that we answered, each framed in one way.
//!
//! The upstream here ([`strict`]) notes whatever it could not read as one request, and answers each
//! with what it read, so that an answer proves which request it belongs to.

mod http2;
mod shapes;
mod strict;
mod table;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use self::strict::Strict;
use self::table::{Row, Then, table};
use crate::callers::connect;
use crate::harness::{Gateway, Setup};

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
