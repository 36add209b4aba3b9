//! The promise under `kill -9`: every request id the upstream received has exactly one event.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::books::{Books, Event};
use crate::callers::Crowd;
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

const ROUNDS: usize = 20;
const CALLERS: usize = 64;

fn the_books_balance(setup: &Setup, upstream: &Upstream, books: &Books) {
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let key = setup.key(&client, &[]);
    let mut gateway = setup.start();
    let crowd = Crowd::start(setup.data, CALLERS, "/", &key.raw, Duration::ZERO);
    for round in 0..ROUNDS {
        let before = crowd.tally().count();
        eventually("callers are served", || crowd.tally().count() > before + 200);
        // Not always at the same point of a drain interval.
        std::thread::sleep(Duration::from_millis(40 * (round as u64 % 7)));
        gateway.kill();
        gateway = setup.start();
    }
    let before = crowd.tally().count();
    eventually("callers are served at the end", || crowd.tally().count() > before + 200);
    let tally = crowd.stop();
    assert_eq!(gateway.stop(), 0);
    // Folders of killed processes are adopted by their successors, which may still be at it.
    let gateway = setup.start();
    eventually("the journals of the killed are drained", || journals(setup) <= 1);
    assert_eq!(gateway.stop(), 0);

    let events = books.events();
    let by_request: HashMap<&str, &Event> = events.iter().map(|event| (event.request_id.as_str(), event)).collect();
    assert_eq!(by_request.len(), events.len(), "a request has two events");
    let arrived: HashSet<String> = upstream.request_ids().into_iter().collect();
    let missing: Vec<&String> = arrived.iter().filter(|id| !by_request.contains_key(id.as_str())).collect();
    assert!(missing.is_empty(), "{} of {} requests have no event: {:?}", missing.len(), arrived.len(), missing.first());
    for (id, status) in tally.answered.lock().unwrap().iter() {
        let event = by_request.get(id.as_str()).unwrap_or_else(|| panic!("answered {id} has no event"));
        assert_eq!(*status, 200);
        // Answered whole, then killed before the last byte was acknowledged to us: interrupted.
        let known_end = event.outcome == "complete" && event.status == Some(200);
        assert!(known_end || event.outcome == "interrupted", "{event:?}");
    }
    let surplus: Vec<&Event> = events.iter().filter(|event| !arrived.contains(&event.request_id)).collect();
    assert!(surplus.len() <= CALLERS * ROUNDS, "{} events more than in flight", surplus.len());
    for event in surplus {
        assert!(["interrupted", "not_sent"].contains(&event.outcome.as_str()), "{event:?}");
    }
    let interrupted = events.iter().filter(|event| event.outcome == "interrupted").count();
    assert!(interrupted <= CALLERS * ROUNDS, "{interrupted} interrupted");
    assert_eq!(books.rollup_requests(), events.len() as u64, "rollups are not the events");
    println!(
        "{} reached the upstream, {} events, {interrupted} interrupted, {} answered whole, {} cut",
        arrived.len(),
        events.len(),
        tally.count(),
        tally.broken.load(std::sync::atomic::Ordering::Relaxed)
    );
}

fn journals(setup: &Setup) -> usize {
    let is_folder =
        |entry: &std::io::Result<std::fs::DirEntry>| entry.as_ref().is_ok_and(|entry| entry.path().is_dir());
    std::fs::read_dir(setup.path("journal")).map_or(0, |entries| entries.filter(is_folder).count())
}

#[test]
fn on_sqlite() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let books = Books::sqlite(&setup.path("octroi.db"));
    the_books_balance(&setup, &upstream, &books);
}

#[test]
fn on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), "");
    the_books_balance(&setup, &upstream, &Books::postgres(&database));
}
