//! The books, as an operator keeps them: compared, healed, closed and signed.

use serde_json::Value;

use crate::books::Books;
use crate::callers::fetch;
use crate::database::TestDatabase;
use crate::harness::{Key, Setup, eventually, text};
use crate::postgres::PrivatePostgres;
use crate::upstream::Upstream;
use octroi::model::month::Month;

fn ask(setup: &Setup, key: &Key, times: usize) {
    for _ in 0..times {
        assert_eq!(fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
    }
}

fn client(setup: &Setup) -> Key {
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    setup.key(&client, &[])
}

/// Runs a command; its exit code, and what it said as JSON.
fn run(setup: &Setup, arguments: &[&str]) -> (i32, Value, Value) {
    let mut with_output = vec!["--output", "json"];
    with_output.extend(arguments);
    let output = setup.octroi(&with_output);
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    (output.status.code().unwrap(), read(&output.stdout), read(&output.stderr))
}

fn kinds(report: &Value) -> Vec<&str> {
    let mut kinds: Vec<_> =
        report["differences"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

pub(crate) fn month_before_this() -> Month {
    let this = Month::of(jiff_now()).unwrap();
    Month::of(this.starts() - std::time::Duration::from_secs(1)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the program under test has the real clock")]
pub(crate) fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A standby that lags is promoted while the gateway serves: what it misses is sent again by itself.
#[test]
fn a_promoted_standby_that_missed_commits_is_made_whole() {
    let upstream = Upstream::start_counting();
    let server = PrivatePostgres::start();
    let setup = Setup::new(upstream.address, server.url(), "");
    let key = client(&setup);
    let database = TestDatabase::of(&server);
    let books = Books::postgres(&database);
    let gateway = setup.start();
    ask(&setup, &key, 30);
    eventually("they are committed", || books.events().len() == 30);
    server.make_standby();
    ask(&setup, &key, 45);
    eventually("the standby misses these", || books.events().len() == 75);
    // Three reports: one may have been under way.
    std::thread::sleep(std::time::Duration::from_secs(5));
    server.promote_standby();
    assert_eq!(books.events().len(), 30, "they are lost");
    gateway.wait_for_log("store_lost_commits");
    gateway.wait_for_log("redrained");
    assert_eq!((books.events().len(), books.rollup_requests()), (75, 75));
    ask(&setup, &key, 5);
    assert_eq!(gateway.stop(), 0);
    assert_eq!((books.events().len(), books.rollup_requests()), (80, 80));
    eventually("the last are old enough to be asked for", || {
        let (code, report, error) = run(&setup, &["usage", "reconcile"]);
        assert_eq!((code, &report["equal"]), (0, &Value::Bool(true)), "{report} {error}");
        report["journal"]["entries"] == 80
    });
}

/// The same while no gateway runs: the next one notices.
#[test]
fn a_standby_promoted_between_two_starts_is_made_whole() {
    let upstream = Upstream::start_counting();
    let server = PrivatePostgres::start();
    let setup = Setup::new(upstream.address, server.url(), "");
    let key = client(&setup);
    let database = TestDatabase::of(&server);
    let books = Books::postgres(&database);
    server.make_standby();
    let gateway = setup.start();
    ask(&setup, &key, 20);
    eventually("the timeline is known", || setup.path("journal/.timeline").exists());
    assert_eq!(gateway.stop(), 0);
    server.promote_standby();
    assert_eq!(books.events().len(), 0);
    let gateway = setup.start();
    gateway.wait_for_log("redrained");
    assert_eq!((books.events().len(), books.rollup_requests()), (20, 20));
    assert_eq!(gateway.stop(), 0);
}

/// What an operator's backup had.
struct Backup<'s>(&'s Setup);

impl<'s> Backup<'s> {
    fn of(setup: &'s Setup) -> Self {
        Books::sqlite(&setup.path("octroi.db"))
            .execute(&format!("VACUUM INTO '{}'", setup.path("backup.db").display()));
        Self(setup)
    }

    fn restore(&self) {
        for left in ["octroi.db-wal", "octroi.db-shm"] {
            let _ = std::fs::remove_file(self.0.path(left));
        }
        std::fs::copy(self.0.path("backup.db"), self.0.path("octroi.db")).unwrap();
    }
}

#[test]
fn a_restored_backup_is_told_by_reconcile_and_made_whole_by_redrain() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup);
    let serve = |times| {
        let gateway = setup.start();
        ask(&setup, &key, times);
        assert_eq!(gateway.stop(), 0);
    };
    serve(10);
    let backup = Backup::of(&setup);
    serve(15);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let before = setup.usage("client,outcome,status");
    let old_enough = || run(&setup, &["usage", "reconcile"]).1["journal"]["entries"] == 25;
    eventually("entries are old enough to be asked for", old_enough);
    assert_eq!(run(&setup, &["usage", "reconcile"]).0, 0);

    backup.restore();
    let (code, report, error) = run(&setup, &["usage", "reconcile"]);
    assert_eq!((code, &error["code"], kinds(&report)), (1, &Value::from("books_differ"), vec!["lost"]));
    assert_eq!((&report["found"], &report["events"]["requests"]), (&Value::from(15), &Value::from(10)));
    assert!(error["detail"].as_str().unwrap().contains("octroi usage redrain"), "{error}");

    // A copy in which these are past retention: never billed again.
    let tomorrow = "INSERT INTO usage_retention (one, before, first_id)
                    VALUES (1, '2999-01-01T00:00:00.000000Z', '1d8b8f1b-c000-0000-0000-000000000000')";
    books.execute(tomorrow);
    let past = setup.json(&["usage", "redrain"]);
    assert_eq!((&past["past_retention"], &past["restored"]), (&Value::from(25), &Value::from(0)));
    assert_eq!(books.rollup_requests(), 10);

    backup.restore();
    let healed = setup.json(&["usage", "redrain"]);
    assert_eq!((&healed["restored"], &healed["events"]), (&Value::from(15), &Value::from(25)));
    assert_eq!(setup.json(&["usage", "redrain"])["restored"], 0);
    let (code, report, _) = run(&setup, &["usage", "reconcile"]);
    assert_eq!((code, &report["found"]), (0, &Value::from(0)));
    assert_eq!(setup.usage("client,outcome,status")["items"], before["items"]);
    assert_eq!((books.events().len(), books.rollup_requests()), (25, 25));
}

#[test]
fn sums_that_somebody_changed_are_found_and_made_anew() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup);
    let gateway = setup.start();
    ask(&setup, &key, 7);
    assert_eq!(gateway.stop(), 0);
    let books = Books::sqlite(&setup.path("octroi.db"));
    books.execute("UPDATE usage_hourly SET units = units + 1");
    let (code, report, error) = run(&setup, &["usage", "reconcile"]);
    assert_eq!((code, kinds(&report)), (1, vec!["rollup"]), "{error}");
    let difference = &report["differences"][0];
    let (events, sums) = (&difference["events"]["units"], &difference["rollups"]["units"]);
    assert_eq!(sums.as_i64().unwrap(), events.as_i64().unwrap() + 1);
    let (code, report, _) = run(&setup, &["usage", "reconcile", "--rebuild"]);
    assert_eq!((code, &report["equal"], &report["rollups"]["units"]), (0, &Value::Bool(true), &Value::from(7)));
    assert_eq!(run(&setup, &["usage", "reconcile"]).0, 0);
}

/// Past the mark nothing is taken in, by whatever way it comes; it is set aside and counted.
#[test]
fn what_comes_from_before_the_mark_is_set_aside() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup);
    let books = Books::sqlite(&setup.path("octroi.db"));
    books.execute(
        "INSERT INTO usage_retention (one, before, first_id)
         VALUES (1, '2999-01-01T00:00:00.000000Z', '1d8b8f1b-c000-0000-0000-000000000000')",
    );
    let gateway = setup.start();
    // More than a batch of which every row is refused by a store that is at fault.
    ask(&setup, &key, 130);
    eventually("all are set aside", || {
        let metrics = text(&fetch(setup.admin, "/metrics", &[]).body);
        metrics.contains("set_aside\"} 130")
    });
    assert_eq!(gateway.stop(), 0);
    assert_eq!((books.events().len(), books.rollup_requests()), (0, 0));
}

fn a_month_is_closed_and_signed(setup: &Setup, books: &Books<'_>) {
    let key = client(setup);
    let month = month_before_this();
    let name = month.to_string();
    let first = month.starts().to_string();
    let id = |tail: u32| {
        let milliseconds = u128::try_from(month.starts().as_millisecond()).unwrap();
        uuid::Uuid::from_u128((milliseconds << 80) | (7 << 76) | (2 << 62) | u128::from(tail))
    };
    let acme = setup.json(&["client", "show", "acme"])["id"].as_str().unwrap().to_owned();
    // As the drain has written them, last month.
    let hourly = "hour, client_id, api_key_id, route, status, outcome, reason, requests, units, bytes_in, bytes_out, duration_us";
    let hour = month.starts().strftime("%Y-%m-%dT%H:%M:%S.000000Z");
    books.execute(&format!(
        "INSERT INTO usage_hourly ({hourly}) VALUES
            ('{hour}', '{acme}', '{acme}', 'all', 200, 'complete', '', 40, 44, 1, 2, 3),
            ('{hour}', '{acme}', '{acme}', 'all', 429, 'rejected', 'rate_limited', 5, 0, 0, 0, 0)"
    ));
    let gateway = setup.start();
    ask(setup, &key, 3);

    let now = Month::of(jiff_now()).unwrap().to_string();
    let (code, _, error) = run(setup, &["usage", "close", &now]);
    assert_eq!((code, error["code"].as_str()), (1, Some("month_not_over")), "{error}");
    let (code, _, error) = run(setup, &["usage", "statement", "acme", &name]);
    assert_eq!((code, error["code"].as_str()), (1, Some("month_not_closed")), "{error}");

    // A node that is gone, and what it held with it.
    books.execute(&format!(
        "INSERT INTO journals (id, node, clear_until, beat) VALUES ('{}', 'node-in-the-cellar', '{hour}', 1)",
        id(9)
    ));
    eventually("this node has reported", || {
        let (code, _, error) = run(setup, &["usage", "close", &name]);
        assert_eq!((code, error["code"].as_str()), (1, Some("entries_owed")), "{error}");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains("node-in-the-cellar"), "{detail}");
        detail.matches("node ").count() == 1
    });
    let closed = setup.json(&["usage", "close", &name, "--without", "node-in-the-cellar"]);
    assert_eq!((&closed["total"]["units"], &closed["total"]["rejected"]), (&Value::from(44), &Value::from(5)));
    assert_eq!(closed["without"], "node-in-the-cellar");
    let again = setup.json(&["usage", "close", &name]);
    assert_eq!(again, closed, "closed once");

    let said = setup.json(&["usage", "statement", "acme", &name]);
    assert_eq!(
        (&said["statement"]["total"]["requests"], &said["statement"]["from"]),
        (&Value::from(40), &Value::from(first))
    );
    let signed = said["jws"].as_str().unwrap();
    // As a client does it: with the key that the gateway publishes, and nothing else of ours.
    let keys: jsonwebtoken::jwk::JwkSet =
        serde_json::from_value(fetch(setup.data, "/.octroi/jwks.json", &[]).json()).unwrap();
    let header = jsonwebtoken::decode_header(signed).unwrap();
    assert_eq!(header.typ.as_deref(), Some("octroi-statement+jwt"));
    let key_of = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.set_required_spec_claims::<&str>(&[]);
    rules.validate_exp = false;
    rules.validate_aud = false;
    let claims = jsonwebtoken::decode::<Value>(signed, &key_of, &rules).unwrap().claims;
    assert_eq!(claims, said["statement"]);
    let changed = signed.replacen('.', ".A", 1);
    assert!(jsonwebtoken::decode::<Value>(&changed, &key_of, &rules).is_err());
    // No door opens to it.
    assert_eq!(fetch(setup.data, "/", &[&format!("Authorization: Bearer {signed}")]).status, 401);
    assert_eq!(gateway.stop(), 0);
    let left = books.text("SELECT node FROM journals");
    assert_eq!(left, ["node-in-the-cellar"], "who owes nothing says nothing");
}

const SIGNED: &str = "[issuer]\nsigning_key_file = \"key.pem\"\n";

pub(crate) fn with_key(setup: Setup) -> Setup {
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(setup.path("key.pem"))
        .status();
    assert!(made.unwrap().success());
    let config = setup.config();
    setup.write_config(&format!("{SIGNED}{config}"));
    setup
}

#[test]
fn a_month_is_closed_and_signed_on_sqlite() {
    let upstream = Upstream::start_counting();
    let setup = with_key(Setup::sqlite(upstream.address));
    a_month_is_closed_and_signed(&setup, &Books::sqlite(&setup.path("octroi.db")));
}

#[test]
fn a_month_is_closed_and_signed_on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    let setup = with_key(Setup::new(upstream.address, &database.url(), ""));
    a_month_is_closed_and_signed(&setup, &Books::postgres(&database));
}

#[test]
fn a_statement_is_not_signed_by_a_secret_that_its_reader_would_have() {
    let upstream = Upstream::start_counting();
    let mut setup = Setup::sqlite(upstream.address);
    setup.set("JWT_SECRET", "0123456789abcdef0123456789abcdef0123456789abcdef");
    setup.client(&["acme"]);
    let (code, _, error) = run(&setup, &["usage", "statement", "acme", "2026-01"]);
    assert_eq!((code, error["code"].as_str()), (78, Some("no_signing_key")));
    assert!(error["detail"].as_str().unwrap().contains("issuer.signing_key_file"));
}

/// The journal of a killed process owes until it is brought home.
#[test]
fn a_killed_process_owes_until_its_journal_is_adopted() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let key = client(&setup);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let journals = || books.text("SELECT id FROM journals");
    let gateway = setup.start();
    ask(&setup, &key, 5);
    eventually("it reports", || journals().len() == 1);
    let first = journals();
    gateway.kill();
    assert_eq!(journals(), first);
    let gateway = setup.start();
    eventually("the other is brought home", || journals().len() == 1 && journals() != first);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(journals(), Vec::<String>::new());
    assert_eq!(books.events().len(), 5);
}

/// Old events go while the gateway serves, and their sums stay.
fn old_events_are_deleted(setup: &Setup, books: &Books<'_>, make_room: &str) {
    let config = setup.config();
    for (retention, starts) in [("10d", false), ("35d", true)] {
        setup.write_config(&format!("[metering]\nretention = \"{retention}\"\n{config}"));
        assert_eq!(setup.octroi(&["config", "check"]).status.success(), starts, "{retention}");
    }
    books.execute(make_room);
    let nobody = "00000000-0000-0000-0000-000000000001";
    let row = |id: &str, at: &str| {
        format!(
            "INSERT INTO usage_events (id, request_id, client_id, occurred_at, route, method, outcome, duration_us,
                bytes_in, bytes_out, units, node)
             VALUES ('{id}', '{at}', '{nobody}', '{at}', 'all', 'GET', 'complete', 1, 1, 1, 1, 'n')"
        )
    };
    // 2024-01-15, as its id says.
    books.execute(&row("018d0a5e-4c00-7000-8000-000000000001", "2024-01-15T00:00:00.000000Z"));
    books.execute(&format!(
        "INSERT INTO usage_hourly VALUES ('2024-01-15T00:00:00.000000Z', '{nobody}', '{nobody}', 'all', 0, 'complete',
            '', 1, 1, 1, 1, 1)"
    ));
    let key = client(setup);
    let gateway = setup.start();
    ask(setup, &key, 3);
    eventually("the old one is gone and the new ones are there", || {
        let ids = books.text("SELECT request_id FROM usage_events");
        ids.len() == 3 && !ids.iter().any(|id| id.starts_with("2024"))
    });
    assert_eq!(books.rollup_requests(), 4);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn old_events_are_deleted_on_sqlite() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    old_events_are_deleted(&setup, &Books::sqlite(&setup.path("octroi.db")), "SELECT 1");
}

#[test]
fn old_events_are_deleted_on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), "");
    let month = "SELECT octroi_make_usage_partition('2024-01-01')";
    old_events_are_deleted(&setup, &Books::postgres(&database), month);
}
