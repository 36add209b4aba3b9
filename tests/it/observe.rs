//! Routes that observe: nothing is refused, everything is counted, and the date ends it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::books::Books;
use crate::callers::{fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Gateway, NO_BUDGET, Setup, eventually, text};
use crate::postgres::PrivatePostgres;
use crate::upstream::Upstream;

/// So many seconds from now, as RFC 3339.
fn in_seconds(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    (now + jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// The route of every setup observes until then.
fn observe(setup: &Setup, until: &str, more: &str) {
    let config = setup
        .config()
        .replace("path = \"/\"\n", &format!("path = \"/\"\nmode = \"observe\"\nobserve_until = \"{until}\"\n{more}"));
    setup.write_config(&config);
}

/// What `octroi usage` says of outcomes and statuses: (requests, rejected, would_reject) of each.
fn counted(setup: &Setup, by: &str) -> Vec<(String, u64, u64, u64)> {
    let usage = setup.usage(by);
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    let row = |row: &Value| {
        let keys: Vec<String> = by.split(',').map(|name| row[name].to_string().replace('"', "")).collect();
        (keys.join(" "), number(row, "requests"), number(row, "rejected"), number(row, "would_reject"))
    };
    usage["items"].as_array().unwrap().iter().map(row).collect()
}

fn metric(setup: &Setup, line: &str) -> bool {
    text(&fetch(setup.admin, "/metrics", &[]).body).lines().any(|found| found == line)
}

fn stop(gateway: Gateway) {
    assert_eq!(gateway.stop(), 0);
}

fn nothing_is_refused_and_all_of_it_counted(setup: &Setup, books: &Books<'_>, upstream: &Upstream) {
    observe(setup, &in_seconds(3600), "scopes = [\"read\"]\n");
    let acme = setup.client(&["acme", "--rate", "1/h", "--burst", "2"]);
    let good = setup.key(&acme, &["--scope", "read"]);
    let narrow = setup.key(&acme, &[]);
    let spent = setup.key(&setup.client(&["spent", "--quota", "1/day"]), &["--scope", "read"]);
    let gateway = setup.start();
    let line = gateway.wait_for_log("route_observes");
    assert!(line.contains("\"all\"") && line.contains("refuses nothing"), "{line}");
    let ready = fetch(setup.data, "/.octroi/readyz", &[]);
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &serde_json::json!(["observing"])));
    eventually("the gauge is set", || metric(setup, "octroi_routes_observing 1"));

    let with = |key: &str| format!("X-API-Key: {key}");
    let stranger = "X-API-Key: what-the-service-knows";
    // (headers, what would have refused it, whom the upstream is told of)
    let narrow_key = with(&narrow.raw);
    let (good_key, spent_key) = (with(&good.raw), with(&spent.raw));
    let rows: Vec<(Vec<&str>, Option<&str>, Option<&str>)> = vec![
        (vec![], Some("missing_credentials"), None),
        (vec![stranger, "X-Octroi-Client-Id: forged"], Some("invalid_credentials"), None),
        (vec![stranger, "Authorization: Bearer another-credential"], Some("ambiguous_credentials"), None),
        (vec![&narrow_key], Some("insufficient_scope"), Some("acme")),
        (vec![&good_key], None, Some("acme")),
        (vec![&good_key], None, Some("acme")),
        (vec![&good_key], Some("rate_limited"), Some("acme")),
        (vec![&narrow_key], Some("insufficient_scope"), Some("acme")),
        (vec![&spent_key], None, Some("spent")),
        (vec![&spent_key], Some("quota_exhausted"), Some("spent")),
    ];
    for (headers, _, name) in &rows {
        let answer = fetch(setup.data, "/a", headers);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]), "{headers:?}");
        let seen = upstream.last();
        let told = |header: &str| seen.headers.get(header).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told("x-octroi-client-name").as_deref(), *name, "{headers:?}");
        assert_ne!(told("x-octroi-client-id").as_deref(), Some("forged"));
        // The service behind still asks for itself.
        let key = headers.iter().find_map(|line| line.strip_prefix("X-API-Key: "));
        assert_eq!(told("x-api-key").as_deref(), key, "{headers:?}");
    }
    // What breaks promises to others is refused as ever.
    assert_eq!(fetch(setup.data, "/a/../b", &[&good_key]).status, 400);
    assert_eq!(send(setup.data, "TRACE", "/", &[&good_key], b"").status, 405);

    let mut codes: Vec<&str> = rows.iter().filter_map(|(_, code, _)| *code).collect();
    codes.sort_unstable();
    for code in &codes {
        let count = codes.iter().filter(|other| *other == code).count();
        let line = format!("octroi_observed_total{{route=\"all\",reason=\"{code}\"}} {count}");
        assert!(metric(setup, &line), "{line}\n{}", text(&fetch(setup.admin, "/metrics", &[]).body));
    }
    stop(gateway);

    let total = &setup.usage("outcome")["total"];
    assert_eq!(
        (&total["requests"], &total["units"], &total["rejected"], &total["would_reject"]),
        (&10.into(), &10.into(), &2.into(), &7.into())
    );
    assert_eq!(
        counted(setup, "outcome"),
        [("complete".to_owned(), 10, 0, 0), ("observed".to_owned(), 0, 0, 7), ("rejected".to_owned(), 0, 2, 0)]
    );
    let would_be: Vec<_> =
        counted(setup, "status,outcome").into_iter().filter(|row| row.3 > 0).map(|row| (row.0, row.3)).collect();
    let expected = [("400 observed", 1), ("401 observed", 2), ("403 observed", 2), ("429 observed", 2)];
    assert_eq!(would_be, expected.map(|(name, count)| (name.to_owned(), count)));
    let reasons = books.text("SELECT reason || ' ' || CAST(requests AS text) FROM usage_observed ORDER BY reason");
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(reasons.contains(&"insufficient_scope 2".to_owned()), "{reasons:?}");
    // They are events like any other, and the books balance.
    assert_eq!(books.text("SELECT DISTINCT kind || outcome FROM usage_events"), ["requestcomplete"]);
    assert_eq!(books.rollup_requests(), 10);
    let reconciled = setup.octroi(&["usage", "reconcile"]);
    assert!(reconciled.status.success(), "{}", text(&reconciled.stderr));
}

#[test]
fn on_sqlite() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, NO_BUDGET);
    nothing_is_refused_and_all_of_it_counted(&setup, &Books::sqlite(&setup.path("octroi.db")), &upstream);
}

#[test]
fn on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), NO_BUDGET);
    nothing_is_refused_and_all_of_it_counted(&setup, &Books::postgres(&database), &upstream);
}

#[test]
fn when_the_time_has_come_it_enforces_without_a_restart() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    observe(&setup, &in_seconds(3), "");
    let gateway = setup.start();
    assert_eq!(fetch(setup.data, "/", &[]).status, 200);
    eventually("it refuses", || fetch(setup.data, "/", &[]).status == 401);
    assert_eq!(fetch(setup.data, "/", &[]).problem(), "missing_credentials");
    assert!(gateway.wait_for_log("observing_over").contains("from now on"));
    eventually("the gauge falls", || metric(&setup, "octroi_routes_observing 0"));
    assert_eq!(fetch(setup.data, "/.octroi/readyz", &[]).json()["degraded"], serde_json::json!([]));
    stop(gateway);
    // The same file means something else now, and says so.
    let gateway = setup.start();
    assert!(gateway.log().contains("its date has passed"), "{}", gateway.log());
    assert_eq!(fetch(setup.data, "/", &[]).status, 401);
    stop(gateway);
}

#[test]
fn a_key_that_the_gateway_takes_away_stays_from_the_day_it_enforces() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let header = format!("X-API-Key: {}", key.raw);
    for (until, passes_on) in [(in_seconds(3600), true), ("2020-01-01".to_owned(), false)] {
        let config = setup.config();
        observe(&setup, &until, "");
        let gateway = setup.start();
        assert_eq!(fetch(setup.data, "/", &[&header]).status, 200);
        assert_eq!(upstream.last().headers.contains_key("x-api-key"), passes_on, "{until}");
        stop(gateway);
        setup.write_config(&config);
    }
}

/// A store that is away is no reason to refuse either: nobody waits longer than a look-up may take.
#[test]
fn while_the_store_is_away_callers_go_on_as_nobody() {
    let upstream = Upstream::start();
    let server = PrivatePostgres::start();
    let database = TestDatabase::of(&server);
    let setup = Setup::new(upstream.address, &database.url(), NO_BUDGET);
    observe(&setup, &in_seconds(3600), "");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    server.stop();
    let asked = Instant::now();
    assert_eq!(fetch(setup.data, "/", &[&header]).status, 200);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert!(!upstream.last().headers.contains_key("x-octroi-client-id"));
    assert!(metric(&setup, "octroi_observed_total{route=\"all\",reason=\"auth_unavailable\"} 1"));
    server.restart();
    eventually("it is known again", || {
        assert_eq!(fetch(setup.data, "/", &[&header]).status, 200);
        upstream.last().headers.contains_key("x-octroi-client-id")
    });
    stop(gateway);
}
