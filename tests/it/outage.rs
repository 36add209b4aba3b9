//! The store goes away and comes back: known keys pass, unknown ones wait, no event is lost.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::books::Books;
use crate::callers::{Crowd, fetch};
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually};
use crate::postgres::PrivatePostgres;
use crate::upstream::Upstream;

const AWAY: Duration = Duration::from_secs(20);

#[test]
fn postgres_away_for_twenty_seconds_under_load() {
    let upstream = Upstream::start_counting();
    let server = PrivatePostgres::start();
    let database = TestDatabase::of(&server);
    let setup = Setup::new(upstream.address, &database.url(), "");
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let (known, unknown) = (setup.key(&client, &[]), setup.key(&client, &[]));
    let gateway = setup.start();
    let crowd = Crowd::start(setup.data, 8, "/", &known.raw, Duration::from_millis(5));
    eventually("callers are served", || crowd.tally().count() > 100);

    server.stop();
    let stopped = Instant::now();
    while stopped.elapsed() < AWAY {
        let asked = Instant::now();
        let refused = fetch(setup.data, "/", &[&format!("X-API-Key: {}", unknown.raw)]);
        assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"));
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        assert!(asked.elapsed() < Duration::from_secs(3), "an unknown key waited {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    let ready = fetch(setup.admin, "/readyz", &[]);
    assert_eq!(ready.status, 200, "a store that is away takes nobody out of the pool");
    assert_eq!(ready.json()["degraded"][0], "store");
    server.restart();

    eventually("an unknown key is looked up again", || {
        fetch(setup.data, "/", &[&format!("X-API-Key: {}", unknown.raw)]).status == 200
    });
    let tally = crowd.stop();
    assert_eq!(tally.other_than(200), 0, "a known key was refused");
    assert_eq!(tally.broken.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(gateway.stop(), 0);

    let events: Vec<String> = Books::postgres(&database).events().into_iter().map(|event| event.request_id).collect();
    let unique: HashSet<&String> = events.iter().collect();
    assert_eq!(unique.len(), events.len());
    let arrived = upstream.request_ids();
    assert_eq!(arrived.len(), events.len());
    assert!(arrived.iter().all(|id| unique.contains(id)), "an event was lost");
}
