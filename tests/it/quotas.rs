//! Plans and quotas: exactly what was bought, across restarts and kills, with what is said about it.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::callers::{Answer, Crowd, connect, fetch, read_head};
use crate::database::TestDatabase;
use crate::harness::{Key, Setup, eventually};
use crate::upstream::Upstream;

fn ask(setup: &Setup, key: &Key, path: &str) -> Answer {
    fetch(setup.data, path, &[&format!("X-API-Key: {}", key.raw)])
}

/// A client that may go as fast as it can.
fn client(setup: &Setup, more: &[&str]) -> Key {
    let mut arguments = vec!["acme", "--rate", "1000000/s", "--burst", "1000000"];
    arguments.extend(more);
    let client = setup.client(&arguments);
    setup.key(&client, &[])
}

fn units(setup: &Setup) -> u64 {
    setup.usage("outcome")["total"]["units"].as_u64().unwrap()
}

const QUOTA: usize = 3_000;

/// 64 connections that do not wait for each other get exactly the quota.
fn a_quota_is_exact(setup: &Setup, upstream: &Upstream) {
    let key = client(setup, &["--quota", &format!("{QUOTA}/month")]);
    let gateway = setup.start();
    let crowd = Crowd::start(setup.data, 64, "/", &key.raw, Duration::ZERO);
    eventually("the quota is used up", || crowd.tally().other_than(200) > 200);
    let tally = crowd.stop();
    let answered = tally.answered.lock().unwrap();
    let served = answered.iter().filter(|(_, status)| *status == 200).count();
    assert!(answered.iter().all(|(_, status)| [200, 429].contains(status)));
    assert_eq!((served, upstream.request_ids().len()), (QUOTA, QUOTA));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(units(setup), QUOTA as u64);
    let again = setup.start();
    let refused = ask(setup, &key, "/");
    assert_eq!((refused.status, refused.problem().as_str()), (429, "quota_exhausted"), "a restart gives nothing back");
    assert_eq!(again.stop(), 0);
}

#[test]
fn a_quota_is_exact_on_sqlite() {
    let upstream = Upstream::start_counting();
    a_quota_is_exact(&Setup::sqlite(upstream.address), &upstream);
}

#[test]
fn a_quota_is_exact_on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    a_quota_is_exact(&Setup::new(upstream.address, &database.url(), ""), &upstream);
}

/// Killed again and again, with events that are admitted, settled, on their way, committed: what the
/// quota paid for is in the ledger, and never more than the quota.
fn kills_give_nothing_away(setup: &Setup, upstream: &Upstream) {
    let key = client(setup, &["--quota", &format!("{QUOTA}/month")]);
    let mut gateway = setup.start();
    let crowd = Crowd::start(setup.data, 16, "/", &key.raw, Duration::from_millis(1));
    for round in 0..8 {
        let before = crowd.tally().count();
        eventually("callers are served", || crowd.tally().count() > before + 150);
        std::thread::sleep(Duration::from_millis(110 * (round % 4)));
        gateway.kill();
        gateway = setup.start();
    }
    eventually("the quota is used up", || crowd.tally().other_than(200) > 50);
    drop(crowd.stop());
    let arrived = upstream.request_ids().len();
    assert_eq!(gateway.stop(), 0);
    assert!(arrived <= QUOTA, "{arrived} reached the upstream");
    assert_eq!(units(setup), QUOTA as u64, "all of it was used, by what arrived and what was interrupted");
}

#[test]
fn kills_give_nothing_away_on_sqlite() {
    let upstream = Upstream::start_counting();
    kills_give_nothing_away(&Setup::sqlite(upstream.address), &upstream);
}

#[test]
fn kills_give_nothing_away_on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    kills_give_nothing_away(&Setup::new(upstream.address, &database.url(), ""), &upstream);
}

#[test]
fn a_plan_is_told_of_and_its_changes_reach_who_is_on_it() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let plan = setup.json(&["plan", "create", "gold", "--rate", "1/m", "--burst", "3", "--quota", "10/day"]);
    assert_eq!(plan["policies"][1]["name"], "gold.day");
    let id = setup.client(&["acme", "--plan", "gold"]);
    let key = setup.key(&id, &[]);
    let _gateway = setup.start();
    for left in [2, 1, 0] {
        let answer = ask(&setup, &key, "/");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""gold";q=3;w=180, "gold.day";q=10;w=86400"#));
        let level = answer.header("ratelimit").unwrap();
        let expected = (format!(r#""gold";r={left};t="#), format!(r#""gold.day";r={};t="#, left + 7));
        assert!(level.starts_with(&expected.0) && level.contains(&expected.1), "{level}");
    }
    let refused = ask(&setup, &key, "/");
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));

    let change = |arguments: &[&str]| {
        setup.json(arguments);
        std::thread::sleep(Duration::from_secs(1));
    };
    change(&["plan", "update", "gold", "--quota", "5/day"]);
    assert_eq!([(); 3].map(|()| ask(&setup, &key, "/").status), [200, 200, 429], "three of five were used");
    let refused = ask(&setup, &key, "/");
    assert_eq!(refused.problem(), "quota_exhausted");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait));
    let level = refused.header("ratelimit").unwrap();
    assert!(level.contains(&format!(r#""gold.day";r=0;t={wait}"#)), "{level} {wait}");
    change(&["client", "update", "acme", "--quota", "6/day", "--plan", "none"]);
    assert_eq!([(); 2].map(|()| ask(&setup, &key, "/").status), [200, 429], "what is used is used");
    change(&["client", "update", "acme", "--quota", "none"]);
    assert_eq!(ask(&setup, &key, "/").status, 200);

    eventually("marks are written", || setup.json(&["plan", "marks"])["items"].as_array().unwrap().len() >= 3);
    let marks = setup.json(&["plan", "marks", "--client", "acme"]);
    let mut listed: Vec<_> = marks["items"].as_array().unwrap().iter().collect();
    listed.reverse();
    let told: Vec<_> =
        listed.iter().map(|mark| (mark["policy"].as_str().unwrap(), mark["percent"].as_u64().unwrap())).collect();
    assert!(
        told.starts_with(&[("gold.day", 80), ("gold.day", 100)]) && told.contains(&("client.day", 100)),
        "{told:?}"
    );
}

/// What a quota begins with is what the ledger has: also the request that finds the change is told.
#[test]
fn a_quota_that_is_used_up_already_refuses_from_the_first_request() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let id = setup.client(&["acme"]);
    let key = setup.key(&id, &[]);
    let _gateway = setup.start();
    assert!((0..5).all(|_| ask(&setup, &key, "/").status == 200));
    eventually("they are in the store", || units(&setup) == 5);
    for quota in ["3/day", "4/month", "5/day"] {
        setup.json(&["client", "update", "acme", "--quota", quota]);
        std::thread::sleep(Duration::from_secs(1));
        let told = setup.json(&["explain", "GET", "/", "--key-id", &key.public_id]);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&setup, &key, "/").status)).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        });
        assert_eq!(statuses, [429; 8], "{quota}");
        assert_eq!(told["code"], "quota_exhausted", "{told}");
        assert!(told["verdict"].as_str().unwrap().contains("octroi client update"), "{told}");
        setup.json(&["client", "update", "acme", "--quota", "none"]);
        std::thread::sleep(Duration::from_secs(1));
        let told = setup.json(&["explain", "GET", "/", "--key-id", &key.public_id]);
        assert_eq!(told["code"], serde_json::Value::Null, "{told}");
    }
}

#[test]
fn a_shadow_never_refuses_and_is_told_of() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.json(&["plan", "create", "trial", "--quota", "2/month", "--mode", "shadow"]);
    let key = client(&setup, &["--plan", "trial"]);
    let _gateway = setup.start();
    for _ in 0..5 {
        let answer = ask(&setup, &key, "/");
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, Some(r#""client";q=1000000;w=1"#)));
    }
    let metrics = String::from_utf8(fetch(setup.admin, "/metrics", &[]).body).unwrap();
    assert!(metrics.contains(r#"octroi_limit_total{policy="quota",result="would_refuse"} 3"#), "{metrics}");
    eventually("the mark is written", || {
        let marks = setup.json(&["plan", "marks"]);
        let items = marks["items"].as_array().unwrap();
        items.iter().any(|mark| mark["percent"] == 100 && mark["mode"] == "shadow")
    });
}

#[test]
fn places_of_open_requests_come_back_however_they_end() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup, &["--concurrency", "3"]);
    let _gateway = setup.start();
    assert_eq!(ask(&setup, &key, "/").status, 200);
    for round in 0..20 {
        let mut held: Vec<_> = (0..3)
            .map(|_| {
                use std::io::Write as _;
                let mut stream = connect(setup.data);
                write!(stream, "GET /stream HTTP/1.1\r\nHost: h\r\nX-API-Key: {}\r\n\r\n", key.raw).unwrap();
                read_head(&mut stream);
                stream
            })
            .collect();
        let refused = ask(&setup, &key, "/");
        assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"), "round {round}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        // Callers that vanish, and one that hangs up in order.
        held.pop().unwrap().shutdown(Shutdown::Both).unwrap();
        drop(held);
        let began = Instant::now();
        eventually("all places are free", || ask(&setup, &key, "/").status == 200);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn unknown_plans_and_bad_policies_are_refused() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.json(&["plan", "create", "gold", "--rate", "1/s"]);
    for (arguments, exit) in [
        (vec!["plan", "create", "gold", "--rate", "2/s"], 1),
        (vec!["plan", "create", "default", "--rate", "2/s"], 2),
        (vec!["plan", "create", "two words"], 2),
        (vec!["plan", "create", "x", "--quota", "5/fortnight"], 2),
        (vec!["plan", "create", "x", "--quota", "5/day", "--quota", "6/day"], 2),
        (vec!["plan", "create", "x", "--policy", r#"{"name":"x"}"#], 2),
        (vec!["plan", "show", "silver"], 1),
        (vec!["plan", "update", "gold"], 2),
        (vec!["client", "create", "acme", "--plan", "silver"], 1),
        (vec!["client", "create", "acme", "--quota", "0/day"], 2),
    ] {
        assert_eq!(setup.octroi(&arguments).status.code(), Some(exit), "{arguments:?}");
    }
    assert_eq!(setup.json(&["plan", "list"])["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_client_sees_its_own_limits_and_what_is_left() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.json(&["plan", "create", "gold", "--quota", "10/day", "--concurrency", "5"]);
    setup.json(&[
        "plan",
        "update",
        "gold",
        "--quota",
        "10/day",
        "--policy",
        r#"{"name":"s","quota":"1/day","mode":"shadow"}"#,
    ]);
    let id = setup.client(&["acme", "--plan", "gold", "--rate", "1/h", "--burst", "4"]);
    let key = setup.key(&id, &[]);
    let gateway = setup.start();
    let look = || ask(&setup, &key, "/.octroi/usage");
    for used in 0..=3 {
        let answer = look();
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
        let told = answer.json();
        assert_eq!(told["client_id"], id);
        let (rate, quota, at_once) = (&told["limits"][0], &told["limits"][1], &told["limits"][2]);
        assert_eq!((&rate["kind"], &rate["policy"], &rate["rate"]), (&"rate".into(), &"client".into(), &"1/h".into()));
        assert_eq!((&rate["burst"], &rate["remaining"]), (&4.into(), &(4 - used).into()));
        assert_eq!(
            (&quota["kind"], &quota["policy"], &quota["quota"]),
            (&"quota".into(), &"gold.day".into(), &10.into())
        );
        assert_eq!((&quota["used"], &quota["remaining"]), (&used.into(), &(10 - used).into()));
        assert_eq!((&at_once["kind"], &at_once["most"]), (&"concurrency".into(), &5.into()));
        assert_eq!(told["limits"].as_array().unwrap().len(), 3, "shadows are nobody's business");
        assert_eq!(ask(&setup, &key, "/").status, 200);
    }
    let refused = (0..40).map(|_| look()).find(|answer| answer.status != 200).expect("it is limited");
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(fetch(setup.data, "/.octroi/usage", &[]).problem(), "missing_credentials");
    let wrong = format!("X-API-Key: {}", key.raw.replace("live", "test"));
    assert_eq!(fetch(setup.data, "/.octroi/usage", &[&wrong]).status, 401);
    let bearer = format!("Authorization: Bearer {}", key.raw);
    let posted = crate::callers::send(setup.data, "POST", "/.octroi/usage", &[&bearer], b"");
    assert_eq!(posted.status, 405);
    assert_eq!(upstream.seen().len(), 4);
    assert_eq!(gateway.stop(), 0);
    let total = &setup.usage("outcome")["total"];
    assert_eq!((&total["requests"], &total["units"]), (&4.into(), &4.into()), "looking costs nothing");
}

/// Recorded requests, asked again under a plan that nobody is on.
#[test]
fn a_plan_is_replayed_over_what_was_recorded() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup, &["--quota", "12/day"]);
    setup.json(&["plan", "create", "small", "--quota", "5/day"]);
    setup.json(&["plan", "create", "slow", "--rate", "1/h", "--burst", "3"]);
    setup.json(&["plan", "create", "large", "--quota", "1000/day"]);
    let gateway = setup.start();
    for _ in 0..12 {
        assert_eq!(ask(&setup, &key, "/").status, 200);
    }
    assert_eq!(gateway.stop(), 0);
    for (plan, refused, policy, kind) in
        [("small", 7, Some("small.day"), "quota"), ("slow", 9, Some("slow"), "rate"), ("large", 0, None, "")]
    {
        let report = setup.json(&["plan", "replay", plan, "--client", "acme"]);
        assert_eq!((&report["events"], &report["refused"]), (&12.into(), &refused.into()), "{report}");
        assert_eq!((&report["exact"], &report["caveat"]), (&true.into(), &serde_json::Value::Null));
        let by = &report["by_policy"][0];
        assert_eq!(by["policy"].as_str(), policy, "{report}");
        assert!(policy.is_none() || by["kind"] == kind && by["refused"] == refused, "{report}");
        let listed = report["first"].as_array().unwrap();
        assert_eq!(listed.len(), usize::try_from(refused).unwrap());
    }
    // Refusals have no times: what a looser plan would have done with them cannot be said.
    let gateway = setup.start();
    assert_eq!(ask(&setup, &key, "/").problem(), "quota_exhausted");
    assert_eq!(gateway.stop(), 0);
    let report = setup.json(&["plan", "replay", "large", "--client", "acme"]);
    assert_eq!((&report["exact"], &report["refused_then"]), (&false.into(), &1.into()), "{report}");
    assert!(report["caveat"].as_str().unwrap().contains("looser"));
}
