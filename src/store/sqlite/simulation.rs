//! The store's half of the promise, simulated: batches are recorded in a real file, the process is
//! killed at any instant, the disk is full, and batches come again, in another order, overlapping
//! others. Rollups equal events all the while, and in the end no event is missing.
//!
//! A kill is a log that is cut off: what SQLite had written to it by then is there for whoever
//! comes next, and a kill between two writes leaves a shorter one. Cut off further back, it is a
//! loss of power, and commits are gone. What the journal does about such a store is simulated in
//! `metering::simulation`, on one that is a model of this.
//!
//! `OCTROI_SEEDS` and `OCTROI_SEED` as there; each seed makes and opens files, so it runs a
//! twentieth of the seeds.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

use super::lane::{Access, connect};
use super::usage::record;
use crate::config::test_setting;
use crate::model::chance::Chance;
use crate::model::id::{ApiKeyId, ClientId, EventId};
use crate::model::usage::{CutReason, EventKind, Outcome, UsageEvent};
use crate::store::migrate::SQLITE;

/// How many seeds the ordinary test suite runs.
const SHORT: u64 = 200;
/// Of `OCTROI_SEEDS`, one in so many.
const SHARE: u64 = 20;
/// A month that is closed: what belongs to it is booked as adjustments.
const CLOSED: &str = "INSERT INTO closed_months (month, starts, ends)
    VALUES ('2026-10', '2026-10-01T00:00:00.000000Z', '2026-11-01T00:00:00.000000Z')";
/// What the events say, and what the sums say, each in one text.
const BOOKS: [&str; 2] = [
    "SELECT coalesce(group_concat(line, char(10)), '') FROM (
         SELECT concat_ws('|', substr(occurred_at, 1, 13), client_id, coalesce(api_key_id, ''), route,
             coalesce(status, 0), outcome, coalesce(reason, ''), count(*), sum(units), sum(bytes_in), sum(bytes_out),
             sum(duration_us)) AS line
         FROM usage_events
         GROUP BY substr(occurred_at, 1, 13), client_id, coalesce(api_key_id, ''), route, coalesce(status, 0), outcome,
             coalesce(reason, '')
         ORDER BY 1)",
    "SELECT coalesce(group_concat(line, char(10)), '') FROM (
         SELECT concat_ws('|', substr(hour, 1, 13), client_id,
             CASE api_key_id WHEN '00000000-0000-0000-0000-000000000000' THEN '' ELSE api_key_id END, route, status,
             outcome, reason, sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(duration_us)) AS line
         FROM (
             SELECT hour, client_id, api_key_id, route, status, outcome, reason, requests, units, bytes_in, bytes_out,
                 duration_us
             FROM usage_hourly
             UNION ALL
             SELECT hour, client_id, api_key_id, route, status, outcome, reason, requests, units, bytes_in, bytes_out,
                 duration_us
             FROM usage_adjustments)
         GROUP BY hour, client_id, api_key_id, route, status, outcome, reason
         ORDER BY 1)",
];

#[test]
fn rollups_equal_events_whatever_is_cut_off() {
    let seeds = test_setting("OCTROI_SEEDS").map_or(SHORT, |text| text.parse::<u64>().unwrap().div_ceil(SHARE));
    let (first, count) = test_setting("OCTROI_SEED").map_or((0, seeds), |text| (text.parse().unwrap(), 1));
    let place = Path::new("/dev/shm");
    let dir = if place.is_dir() { TempDir::new_in(place) } else { TempDir::new() }.unwrap();
    let empty = empty_database(&dir.path().join("empty.db"));
    let (mut kills, mut refusals) = (0, 0);
    for seed in first..first + count {
        let lived = std::panic::catch_unwind(|| Life::new(dir.path(), &empty, seed).live());
        match lived {
            Ok(life) => (kills, refusals) = (kills + life.kills, refusals + life.refusals),
            Err(panic) => {
                eprintln!("store seed {seed} failed; to see it again: OCTROI_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{count} store seeds: {kills} kills, {refusals} times no room");
    if count >= SHORT {
        // A simulation in which nothing happens shows nothing.
        assert!(kills > count / 4 && refusals > count / 20, "{kills} kills, {refusals} times no room");
    }
}

/// The bytes of a database with all tables and nothing in them.
fn empty_database(path: &Path) -> Vec<u8> {
    let connection = connect(path, Access::Write).unwrap();
    for migration in SQLITE {
        connection.execute_batch(migration.text).unwrap();
    }
    connection.execute_batch(CLOSED).unwrap();
    drop(connection);
    fs::read(path).unwrap()
}

/// What a seed decides.
struct Life {
    chance: Chance,
    path: PathBuf,
    connection: Connection,
    batches: Vec<Vec<UsageEvent>>,
    kills: u64,
    refusals: u64,
}

impl Life {
    fn new(dir: &Path, empty: &[u8], seed: u64) -> Self {
        let path = dir.join(format!("{seed}.db"));
        fs::write(&path, empty).unwrap();
        let connection = connect(&path, Access::Write).unwrap();
        let mut chance = Chance(seed);
        let batches = batches(&mut chance);
        Self { chance, path, connection, batches, kills: 0, refusals: 0 }
    }

    /// Panics where the promise is broken.
    fn live(mut self) -> Self {
        for _ in 0..2 + self.chance.below(8) {
            let batch = self.chance.index(self.batches.len());
            match self.chance.below(3) {
                0 => self.be_refused(batch),
                1 => self.be_killed(batch),
                _ => drop(record(&mut self.connection, &self.batches[batch]).unwrap()),
            }
            self.books_balance();
        }
        // All is well again: what was not answered comes once more.
        for batch in &self.batches {
            record(&mut self.connection, batch).unwrap();
        }
        self.books_balance();
        let mut ids: Vec<String> = self.batches.iter().flatten().map(|event| event.id.to_string()).collect();
        ids.sort();
        ids.dedup();
        let mut select = self.connection.prepare("SELECT id FROM usage_events ORDER BY id").unwrap();
        let found: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, ids, "each event once");
        drop(select);
        self
    }

    /// The disk has room for a few pages more, or for none.
    fn be_refused(&mut self, batch: usize) {
        let pages: u32 = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        let room = self.chance.below(3);
        self.limit_pages(u64::from(pages) + room);
        self.refusals += u64::from(record(&mut self.connection, &self.batches[batch]).is_err());
        self.limit_pages(1 << 30);
    }

    fn limit_pages(&self, pages: u64) {
        self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    /// The log ends somewhere behind where it ended before, and another process goes on; or somewhere
    /// before that.
    fn be_killed(&mut self, batch: usize) {
        let log = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
        let length = || usize::try_from(fs::metadata(log(&self.path)).map_or(0, |log| log.len())).unwrap();
        let before = if self.chance.one_in(4) { 0 } else { length() };
        record(&mut self.connection, &self.batches[batch]).unwrap();
        let end = before + self.chance.index(length() - before + 1);
        self.kills += 1;
        let next = self.path.with_extension(format!("{}.db", self.kills));
        fs::copy(&self.path, &next).unwrap();
        fs::write(log(&next), &fs::read(log(&self.path)).unwrap()[..end]).unwrap();
        self.connection = connect(&next, Access::Write).unwrap();
        fs::remove_file(std::mem::replace(&mut self.path, next)).unwrap();
    }

    fn books_balance(&self) {
        let [events, sums] =
            BOOKS.map(|text| self.connection.query_row(text, [], |row| row.get::<_, String>(0)).unwrap());
        assert_eq!(events, sums, "rollups equal events");
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Some batches; an event may be in several, as it is when a journal is adopted whose last batch
/// was committed.
fn batches(chance: &mut Chance) -> Vec<Vec<UsageEvent>> {
    let events: Vec<UsageEvent> = (0..=chance.below(60)).map(|number| event(chance, number)).collect();
    (0..=chance.below(4))
        .map(|_| {
            let from = chance.index(events.len());
            events[from..from + 1 + chance.index(events.len() - from)].to_vec()
        })
        .collect()
}

fn event(chance: &mut Chance, number: u64) -> UsageEvent {
    // Hours around the end of a month that is closed.
    let hours = i64::try_from(chance.below(4)).unwrap() - 2;
    let occurred_at = "2026-11-01T00:30:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours);
    let outcome = Outcome::ALL[chance.index(Outcome::ALL.len())];
    UsageEvent {
        kind: EventKind::Request,
        id: EventId(Uuid::from_u128(0x0199_f7a2_7d4c_7bce_9d6b_0000_0000_0000 + u128::from(number))),
        request_id: format!("request-{number}"),
        client_id: ClientId(Uuid::from_u128(1 + u128::from(chance.below(2)))),
        api_key_id: chance.one_in(2).then(|| ApiKeyId(Uuid::from_u128(3))),
        token_id: None,
        occurred_at,
        route: if chance.one_in(2) { "orders".to_owned() } else { String::new() },
        method: "GET",
        status: (outcome == Outcome::Complete).then_some(200),
        outcome,
        reason: (outcome == Outcome::Cut).then_some(CutReason::Deadline),
        duration_us: chance.below(1 << 20),
        bytes_in: chance.below(1 << 20),
        bytes_out: chance.below(1 << 30),
        units: if outcome == Outcome::NotSent { 0 } else { 3 },
        node: "node-a".to_owned(),
    }
}
