//! Interim records: a transfer that goes on is in the books as it goes, each byte once, the request
//! once, its cost once; through `kill -9`, on both stores.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::books::Books;
use crate::callers::{connect, fetch, parse, read_head};
use crate::database::TestDatabase;
use crate::harness::{Key, Setup, eventually};
use crate::upstream::Upstream;

/// Records each second, and committed usage in files as well.
const OFTEN: &str = "[metering]\nstream_interval = \"1s\"\n[[metering.sinks]]\nname = \"files\"\ntype = \"ndjson\"\n\
                     path = \"usage-files\"\n[server.drain]\ntimeout = \"1s\"\n";

/// A row of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: String,
    request_id: String,
    kind: String,
    parent: String,
    outcome: String,
    status: String,
    bytes_in: u64,
    bytes_out: u64,
    units: u64,
    duration: Duration,
}

/// All rows of a request, parts before the request's own.
fn rows(books: &Books, request_id: &str) -> Vec<Row> {
    let text = |column: &str| format!("COALESCE(CAST({column} AS text), '-')");
    let columns =
        ["id", "request_id", "kind", "parent_id", "outcome", "status", "bytes_in", "bytes_out", "units", "duration_us"];
    let line = columns.map(text).join(" || ' ' || ");
    let lines = books.text(&format!("SELECT {line} FROM usage_events WHERE request_id = '{request_id}'"));
    let mut rows: Vec<Row> = lines
        .iter()
        .map(|line| {
            let [id, request_id, kind, parent, outcome, status, bytes_in, bytes_out, units, duration] =
                line.split(' ').collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            let own = |word: &str| word.to_owned();
            let number = |word: &str| word.parse().unwrap();
            Row {
                id: own(id),
                request_id: own(request_id),
                kind: own(kind),
                parent: own(parent),
                outcome: own(outcome),
                status: own(status),
                bytes_in: number(bytes_in),
                bytes_out: number(bytes_out),
                units: number(units),
                duration: Duration::from_micros(number(duration)),
            }
        })
        .collect();
    rows.sort_by_key(|row| (row.kind == "request", row.id.clone()));
    rows
}

/// What a request's rows say together, after what must hold of any was checked: how many parts
/// there are, the request's own row, and all bytes up and down.
fn summed(rows: &[Row]) -> (usize, Row, u64, u64) {
    let (parts, requests) = rows.split_at(rows.len() - 1);
    let request = requests[0].clone();
    assert_eq!((request.kind.as_str(), request.parent.as_str()), ("request", "-"), "{rows:?}");
    for part in parts {
        assert_eq!((part.kind.as_str(), &part.parent), ("stream", &request.id), "{rows:?}");
        assert_eq!((part.units, part.duration, part.outcome.as_str()), (0, Duration::ZERO, "complete"), "{rows:?}");
        assert!(part.bytes_in + part.bytes_out > 0, "a record of nothing: {rows:?}");
    }
    let sum = |bytes: fn(&Row) -> u64| rows.iter().map(bytes).sum();
    (parts.len(), request, sum(|row| row.bytes_in), sum(|row| row.bytes_out))
}

/// A caller that reads to the end, and how many bytes of a body it got.
struct Caller {
    request_id: String,
    thread: JoinHandle<u64>,
}

impl Caller {
    /// `target`: a path, or a whole URL, which another engine answers.
    fn get(address: SocketAddr, target: &str, key: &Key) -> Self {
        let mut stream = connect(address);
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            key.raw
        )
        .unwrap();
        let mut head = read_head(&mut stream);
        let text = String::from_utf8(head.clone()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let id = text.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").to_owned();
        let thread = thread::spawn(move || {
            let _ = stream.read_to_end(&mut head);
            let ticks = head.windows(5).filter(|window| *window == b"tick\n").count();
            ticks as u64 * 5
        });
        Self { request_id: id, thread }
    }

    fn is_reading(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// Sends so many pieces of five bytes, one each 50 ms, and returns the request's id.
fn send_slowly(address: SocketAddr, key: &Key, pieces: usize) -> String {
    let mut stream = connect(address);
    let line = format!("X-API-Key: {}\r\nConnection: close", key.raw);
    write!(stream, "POST /up HTTP/1.1\r\nHost: x\r\n{line}\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..pieces {
        stream.write_all(b"5\r\ntock\n\r\n").unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = parse(&answer, false).expect("an answer");
    assert_eq!(answer.status, 200);
    answer.header("x-request-id").expect("an id").to_owned()
}

/// Transfers that end by themselves: what the books say of each while it runs and afterwards.
fn each_byte_is_told_once_and_while_it_passes(setup: &Setup, books: &Books, key: &Key) {
    let data = setup.data;
    // The two engines that answer callers.
    for target in ["/ticks/70/0".to_owned(), format!("http://{data}/ticks/70/0")] {
        let down = Caller::get(data, &target, key);
        eventually("its first part is in the books", || !rows(books, &down.request_id).is_empty());
        assert!(down.is_reading(), "{target}: told only at its end");
        let (id, received) = (down.request_id, down.thread.join().unwrap());
        eventually("it is in the books", || rows(books, &id).iter().any(|row| row.kind == "request"));
        let all = rows(books, &id);
        let (parts, request, _, bytes_out) = summed(&all);
        assert_eq!((received, bytes_out), (350, 350), "{target}: {all:?}");
        assert!((2..=3).contains(&parts), "{target}: {all:?}");
        assert_eq!((request.outcome.as_str(), request.status.as_str(), request.units), ("complete", "200", 1));
        assert!(request.duration >= Duration::from_millis(3_500), "the time is told once, whole: {all:?}");
    }

    // Before there is an answer.
    let id = send_slowly(data, key, 50);
    eventually("it is in the books", || rows(books, &id).iter().any(|row| row.kind == "request"));
    let all = rows(books, &id);
    let (parts, request, bytes_in, bytes_out) = summed(&all);
    assert_eq!((bytes_in, bytes_out, request.units), (250, 2, 1), "{all:?}");
    assert!((1..=3).contains(&parts) && all[0].status == "-", "{all:?}");

    // One that stands still is told of as well, once.
    let still = Caller::get(data, "/ticks/5/4000", key);
    eventually("what passed is in the books", || !rows(books, &still.request_id).is_empty());
    assert!(still.is_reading());
    let id = still.request_id;
    assert_eq!(still.thread.join().unwrap(), 25);
    eventually("it is in the books", || rows(books, &id).iter().any(|row| row.kind == "request"));
    let all = rows(books, &id);
    assert_eq!((all.len(), all[0].bytes_out, all[1].bytes_out), (2, 25, 0), "{all:?}");

    // And what is short costs one row.
    let short = fetch(data, "/", &[&format!("X-API-Key: {}", key.raw)]);
    let id = short.header("x-request-id").expect("an id").to_owned();
    eventually("it is in the books", || !rows(books, &id).is_empty());
    assert_eq!(rows(books, &id).len(), 1);
}

fn streams_are_billed_as_they_go(setup: &Setup, books: &Books) {
    let client = setup.client(&["acme", "--quota", "100/day"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    each_byte_is_told_once_and_while_it_passes(setup, books, &key);

    let killed = Caller::get(setup.data, "/stream", &key);
    eventually("two parts are in the books", || rows(books, &killed.request_id).len() >= 2);
    let before = rows(books, &killed.request_id);
    gateway.kill();
    let (id, received) = (killed.request_id, killed.thread.join().unwrap());
    let gateway = setup.start();
    eventually("its request is in the books", || rows(books, &id).iter().any(|row| row.kind == "request"));
    let all = rows(books, &id);
    let (parts, request, _, billed) = summed(&all);
    assert!(parts >= 2 && before.iter().all(|part| all.contains(part)), "{before:?} {all:?}");
    assert_eq!((request.outcome.as_str(), request.units, request.bytes_out), ("interrupted", 1, 0), "{all:?}");
    // Each 50 ms five bytes: what is lost is an interval's at most, with some time for the sweep.
    assert!(billed <= received && received - billed <= 150, "{billed} of {received}");

    // Requests and units are counted once by all who count.
    let count = 6;
    let line = format!("X-API-Key: {}", key.raw);
    let used = |limits: &Value| {
        let policies = limits["policies"].as_array().or_else(|| limits["limits"].as_array()).expect("policies");
        policies.iter().find(|policy| policy["kind"] == "quota").expect("a quota")["used"].clone()
    };
    let limits = fetch(setup.data, "/.octroi/usage", &[&line]).json();
    assert_eq!(used(&limits), count, "{limits}");
    assert_eq!(gateway.stop(), 0);
    let total = setup.usage("client")["total"].clone();
    let sum = |column: &str| books.text(&format!("SELECT CAST(SUM({column}) AS text) FROM usage_events")).remove(0);
    assert_eq!((&total["requests"], &total["units"]), (&count.into(), &count.into()), "{total}");
    for column in ["bytes_in", "bytes_out"] {
        assert_eq!(total[column].to_string(), sum(column), "{total}");
    }
    setup.json(&["plan", "create", "free", "--rate", "1000/s"]);
    let replayed = setup.json(&["plan", "replay", "free", "--client", "acme", "--from", "-1h"]);
    assert_eq!((&replayed["events"], &replayed["refused"]), (&count.into(), &0.into()), "{replayed}");
    reconciled(setup, books, count);
    told_to_sinks(setup, books);
}

/// The books are equal, and sums that were spoilt are made anew as they were.
fn reconciled(setup: &Setup, books: &Books, count: u64) {
    let compared = setup.json(&["usage", "reconcile", "--from", "-2h"]);
    assert_eq!((&compared["equal"], &compared["events"]["requests"]), (&true.into(), &count.into()), "{compared}");
    let sums = || setup.usage("outcome");
    let before = sums();
    books.execute("UPDATE usage_hourly SET requests = requests + 1, bytes_out = 0");
    assert_ne!(sums(), before);
    let rebuilt = setup.json(&["usage", "reconcile", "--from", "-2h", "--rebuild"]);
    assert_eq!(rebuilt["equal"], true, "{rebuilt}");
    assert_eq!(sums(), before);
}

/// Files have the same rows as the table.
fn told_to_sinks(setup: &Setup, books: &Books) {
    let mut told: Vec<String> = Vec::new();
    for file in std::fs::read_dir(setup.path("usage-files")).unwrap() {
        let lines = std::fs::read_to_string(file.unwrap().path()).unwrap();
        told.extend(lines.lines().map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", text("id"), text("kind"), text("parent_id"), record["bytes_out"])
        }));
    }
    told.sort();
    // The one that a kill caught may come twice, with its id.
    told.dedup();
    let mut rows = books.text(
        "SELECT CAST(id AS text) || ' ' || kind || ' ' || COALESCE(CAST(parent_id AS text), '-') || ' ' ||
         CAST(bytes_out AS text) FROM usage_events",
    );
    rows.sort();
    assert_eq!(told, rows);
}

#[test]
fn streams_are_billed_as_they_go_on_sqlite() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, OFTEN);
    streams_are_billed_as_they_go(&setup, &Books::sqlite(&setup.path("octroi.db")));
}

#[test]
fn streams_are_billed_as_they_go_on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), OFTEN);
    streams_are_billed_as_they_go(&setup, &Books::postgres(&database));
}

#[test]
fn without_an_interval_a_transfer_is_told_of_at_its_end() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[metering]\nstream_interval = \"0\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let gateway = setup.start();
    let down = Caller::get(setup.data, "/ticks/50/0", &key);
    let id = down.request_id;
    assert_eq!(down.thread.join().unwrap(), 250);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(rows(&books, &id).iter().map(|row| row.bytes_out).collect::<Vec<_>>(), [250]);
}

/// The folder of a process of the version before interim records, killed and found by this one.
#[test]
fn a_journal_of_the_version_before_is_brought_home() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let folder = setup.path("journal").join("node-a-b7269381-63b6-460a-bdd5-9036ea3c4358");
    std::fs::create_dir_all(folder.join("committed")).unwrap();
    std::fs::write(folder.join("lock"), []).unwrap();
    let segment = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journal_format_1/00000001.segment");
    std::fs::copy(segment, folder.join("00000001.segment")).unwrap();
    let gateway = setup.start();
    let books = Books::sqlite(&setup.path("octroi.db"));
    eventually("its events are in the books", || books.events().len() == 8);
    let count = |outcome: &str| books.events().iter().filter(|event| event.outcome == outcome).count();
    assert_eq!(["complete", "interrupted", "not_sent"].map(count), [4, 2, 2]);
    assert_eq!(books.rollup_requests(), 8);
    eventually("its folder is gone", || !folder.exists());
    assert_eq!(gateway.stop(), 0);
}
