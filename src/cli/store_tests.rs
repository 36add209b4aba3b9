//! Commands on a SQLite store of their own: what a shell session sees.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::tests::answer;
use super::*;
use crate::crypto::pepper::Pepper;
use crate::model::id::{ClientId, EventId};
use crate::model::secret::SecretBytes;
use crate::model::usage::{EventKind, Outcome, UsageEvent};

const PEPPER: &str = "0123456789abcdef0123456789abcdef";

/// A folder with an empty configuration; relative paths start there.
struct Session {
    folder: TempDir,
    pepper: &'static str,
}

impl Session {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("octroi.toml"), "").unwrap();
        Self { folder, pepper: PEPPER }
    }

    fn migrated() -> Self {
        let session = Self::new();
        session.done("migrate up");
        session
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, line: &str) -> (String, Option<Failure>) {
        answer(line, self.path(), &[("API_KEY_PEPPER", self.pepper)])
    }

    /// The answer of a command that must succeed.
    fn done(&self, line: &str) -> String {
        let (text, failure) = self.run(line);
        assert!(failure.is_none(), "{line}: {failure:?}");
        text
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --output json"))).unwrap()
    }

    fn failure(&self, line: &str) -> Failure {
        self.run(line).1.unwrap_or_else(|| panic!("{line} succeeded"))
    }

    fn store(&self) -> crate::store::Store {
        let environment = Environment::of(&[], self.path());
        let loaded = crate::config::load(None, &environment).unwrap();
        tokio_block(crate::store::open(&loaded.config.store)).unwrap()
    }
}

fn tokio_block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

#[test]
fn a_store_without_tables_asks_for_migrations() {
    let session = Session::new();
    for line in ["client list", "key list", "usage", "client create acme", "key create acme"] {
        let failure = session.failure(line);
        assert_eq!((failure.exit(), failure.code()), (Exit::Configuration, "migrations_pending"), "{line}");
        assert!(failure.detail().contains("octroi migrate up"), "{line}");
    }
    let pending = session.json("migrate status");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let count = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(pending["items"].as_array().unwrap().len(), count);
    assert_eq!(pending["items"][0], serde_json::json!({"version": 1, "name": "create_clients", "applied_at": null}));

    let announced = session.json("migrate up --dry-run");
    assert_eq!(announced["items"].as_array().unwrap().len(), count);
    assert!(session.json("migrate status")["items"][count - 1]["applied_at"].is_null());

    assert_eq!(session.json("migrate up")["items"].as_array().unwrap().len(), count);
    assert_eq!(session.json("migrate up")["items"], serde_json::json!([]));
    assert!(session.json("migrate status")["items"][count - 1]["applied_at"].is_string());
    assert_eq!(session.json("migrate verify"), serde_json::json!({"items": [], "next": null}));
    assert!(session.failure("client show acme").detail().contains("there is no client `acme`"));
}

#[test]
fn a_client_lives_from_creation_to_suspension() {
    let session = Session::migrated();
    let made = session.json("client create acme --rate 10/s");
    let columns = [
        "id",
        "name",
        "status",
        "rate",
        "burst",
        "plan_id",
        "metadata",
        "created_at",
        "updated_at",
        "quota",
        "concurrency",
    ];
    assert_eq!(names(&made), BTreeSet::from(columns));
    assert_eq!((text(&made, "name"), text(&made, "status"), text(&made, "rate")), ("acme", "active", "10/s"));
    assert!(made["burst"].is_null());
    let id = text(&made, "id");
    assert_eq!(session.json("client show acme"), made);
    assert_eq!(session.json(&format!("client show {id}")), made);

    for (line, rate, burst) in [
        ("--burst 50", Value::from("10/s"), Value::from(50)),
        ("--rate 5/m", Value::from("5/m"), Value::from(50)),
        ("--burst default", Value::from("5/m"), Value::Null),
        ("--rate 7/s --burst 9", Value::from("7/s"), Value::from(9)),
        ("--rate default", Value::Null, Value::Null),
    ] {
        let changed = session.json(&format!("client update acme {line}"));
        assert_eq!((&changed["rate"], &changed["burst"]), (&rate, &burst), "{line}");
    }
    for line in ["client update acme --burst 5", "client create other --rate 1/d --burst 1000000"] {
        assert_eq!(session.failure(line).exit(), Exit::Usage, "{line}");
    }
    assert_eq!(session.json("client suspend acme")["status"], "suspended");
    assert_eq!(session.json("client resume acme")["status"], "active");
    assert_eq!(session.json("client update acme --name umbrella")["name"], "umbrella");
    assert_eq!(session.failure("client show acme").code(), "not_found");
}

#[test]
fn a_name_that_two_bear_is_refused_and_their_ids_listed() {
    let session = Session::migrated();
    let ids: Vec<Value> = (0..2).map(|_| session.json("client create acme")["id"].clone()).collect();
    for line in ["client show acme", "client suspend acme", "key create acme", "key list acme", "usage --client acme"] {
        let failure = session.failure(line);
        assert_eq!((failure.exit(), failure.code()), (Exit::Failed, "ambiguous"), "{line}");
        assert!(ids.iter().all(|id| failure.detail().contains(id.as_str().unwrap())), "{}", failure.detail());
    }
    assert_eq!(session.json(&format!("client show {}", ids[0].as_str().unwrap()))["id"], ids[0]);
}

#[test]
fn lists_are_whole_and_page_on_request() {
    let session = Session::migrated();
    for index in 0..5 {
        session.done(&format!("client create client-{index}"));
    }
    let all = session.json("client list");
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next"]), (5, &Value::Null));
    let first = session.json("client list --limit 2");
    assert_eq!(first["next"], first["items"][1]["id"]);
    let rest = session.json(&format!("client list --after {}", text(&first, "next")));
    assert_eq!(rest["items"].as_array().unwrap()[..], all["items"].as_array().unwrap()[2..]);
    assert_eq!(session.failure(&format!("client list --after {}", ClientId::NIL)).code(), "not_found");

    let csv = session.done("client list --output csv");
    assert_eq!(csv.lines().count(), 6);
    assert!(
        csv.starts_with("id,name,status,rate,burst,plan_id,metadata,created_at,updated_at,quota,concurrency\n"),
        "{csv}"
    );
    assert_eq!(session.done("client list").lines().count(), 6);
}

#[test]
fn a_key_is_shown_once_and_its_hash_never() {
    let session = Session::migrated();
    let client = session.json("client create acme");
    let made = session.json("key create acme --name ci --expires 90d --env test --scope orders:read --scope a");
    let raw = text(&made, "key");
    assert!(raw.starts_with("octroi_test_") && raw.starts_with(text(&made, "key_id")), "{raw}");
    assert_eq!(made["scopes"], serde_json::json!(["orders:read", "a"]));
    assert_eq!((text(&made, "name"), &made["client_id"]), ("ci", &client["id"]));
    assert_eq!(text(&made, "expires_at"), "2027-02-20T20:00:00Z");
    assert_eq!(made["pepper_version"], 1);

    let hash = Pepper::new(&SecretBytes::new(PEPPER.into())).hash(raw.as_bytes());
    let found = tokio_block(session.store().keys.find_by_hash(&[hash])).unwrap().unwrap();
    assert_eq!(found.key.unwrap().id.to_string(), text(&made, "id"));

    let mut expected = made.clone();
    expected.as_object_mut().unwrap().remove("key");
    let shown = session.json(&format!("key show {}", text(&made, "key_id")));
    assert_eq!(shown, expected);
    assert_eq!(session.json(&format!("key show {}", text(&made, "id"))), expected);
    for line in ["key list", "key list acme", "key list --output csv", "key list --output json"] {
        let text = session.done(line);
        assert!(!text.contains(raw) && !text.contains(&hash.to_hex()), "{line}: {text}");
        assert_eq!(text.matches(shown["id"].as_str().unwrap()).count(), 1, "{line}");
    }

    let revoked = session.json(&format!("key revoke {}", text(&made, "key_id")));
    assert_eq!(text(&revoked, "revoked_at"), "2026-11-22T20:00:00Z");
    assert_eq!(session.json(&format!("key revoke {}", text(&made, "id"))), revoked);

    let other = session.json("key create acme");
    assert!(text(&other, "key").starts_with("octroi_live_") && other["expires_at"].is_null());
}

#[test]
fn a_key_has_limits_and_addresses_of_its_own() {
    let session = Session::migrated();
    session.done("client create acme");
    let made = session.json("key create acme --rate 5/s --burst 9 --allow 192.0.2.77/24 --allow 2001:db8::1");
    assert_eq!((text(&made, "rate"), &made["burst"]), ("5/s", &Value::from(9)));
    let ranges = serde_json::json!(["192.0.2.0/24", "2001:db8::1/128"]);
    assert_eq!(made["allowed_addresses"], ranges);
    assert_eq!(session.json(&format!("key show {}", text(&made, "id")))["allowed_addresses"], ranges);
    assert_eq!(session.json("key list acme")["items"][0]["allowed_addresses"], ranges);
    for line in ["key create acme --allow everywhere", "key create acme --rate 1/d --burst 1000000"] {
        assert_eq!(session.failure(line).exit(), Exit::Usage, "{line}");
    }
}

#[test]
fn a_rotation_hands_over_and_ends_the_old_key() {
    let session = Session::migrated();
    session.done("client create acme");
    let line = "key create acme --name ci --env test --scope a --rate 5/s --allow 192.0.2.0/24 --expires 90d";
    let old = session.json(line);
    let new = session.json(&format!("key rotate {} --grace 2h", text(&old, "key_id")));
    assert_ne!(new["key"], old["key"]);
    assert!(text(&new, "key").starts_with("octroi_test_") && text(&new, "key").starts_with(text(&new, "key_id")));
    for column in ["client_id", "name", "scopes", "rate", "burst", "allowed_addresses", "expires_at"] {
        assert_eq!(new[column], old[column], "{column}");
    }
    assert_eq!(names(&new), names(&old));
    let shown = session.json(&format!("key show {}", text(&old, "id")));
    assert_eq!(shown["replaced_by"], new["id"]);
    assert_eq!(text(&shown, "expires_at"), "2026-11-22T22:00:00Z");
    assert!(shown["revoked_at"].is_null());

    let again = session.failure(&format!("key rotate {}", text(&old, "id")));
    assert_eq!((again.exit(), again.code()), (Exit::Failed, "not_rotated"));
    assert!(again.detail().contains(text(&new, "id")), "{}", again.detail());
    let third = session.json(&format!("key rotate {} --grace 0s --expires 1d", text(&new, "id")));
    assert_eq!(text(&third, "expires_at"), "2026-11-23T20:00:00Z");
    let ended = session.json(&format!("key show {}", text(&new, "id")));
    assert_eq!(text(&ended, "revoked_at"), "2026-11-22T20:00:00Z");
    session.json(&format!("key revoke {}", text(&third, "id")));
    let revoked = session.failure(&format!("key rotate {}", text(&third, "id")));
    assert!(revoked.code() == "not_rotated" && revoked.detail().contains("is revoked"), "{}", revoked.detail());
    assert_eq!(session.failure("key rotate octroi_live_000000000000").code(), "not_found");
}

#[test]
fn a_raw_key_given_for_an_id_is_not_repeated() {
    let session = Session::migrated();
    session.done("client create acme");
    let made = session.json("key create acme");
    let failure = session.failure(&format!("key show {}", text(&made, "key")));
    assert_eq!(failure.code(), "not_found");
    assert!(!failure.detail().contains(text(&made, "key")), "{}", failure.detail());
}

#[test]
fn another_pepper_than_the_stores_makes_no_key() {
    let mut session = Session::migrated();
    session.done("client create acme");
    session.done("key create acme");
    session.pepper = "another pepper, long enough to pass";
    let failure = session.failure("key create acme");
    assert_eq!((failure.exit(), failure.code()), (Exit::Configuration, "wrong_pepper"));
    assert_eq!(session.json("key list")["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_store_that_is_down_is_69() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d"), ("HOME", "/home/op")];
    for line in ["client list", "migrate status", "migrate up", "usage"] {
        let failure = answer(line, folder.path(), &variables).1.unwrap();
        assert_eq!((failure.exit(), failure.code()), (Exit::Unavailable, "store_unavailable"), "{line}");
        assert!(!failure.detail().contains("hunter2"), "{}", failure.detail());
    }
}

fn event(client: ClientId, number: u8, at: &str, status: u16) -> UsageEvent {
    let mut ids = crate::model::event_id::EventIdGenerator::new();
    let occurred_at = at.parse().unwrap();
    let id: EventId = ids.next(occurred_at);
    UsageEvent {
        id,
        request_id: id.to_string(),
        client_id: client,
        api_key_id: None,
        token_id: None,
        occurred_at,
        route: "orders".into(),
        method: "GET",
        status: Some(status),
        outcome: Outcome::Complete,
        reason: None,
        duration_us: 10,
        bytes_in: u64::from(number),
        bytes_out: 100,
        units: 1,
        node: "n".into(),
        kind: EventKind::Request,
    }
}

#[test]
fn usage_sums_what_was_recorded() {
    let session = Session::migrated();
    let acme: ClientId = text(&session.json("client create acme"), "id").parse().unwrap();
    let other: ClientId = text(&session.json("client create other"), "id").parse().unwrap();
    let events = [
        event(acme, 1, "2026-11-22T19:10:00Z", 200),
        event(acme, 2, "2026-11-22T20:10:00Z", 200),
        event(acme, 3, "2026-11-22T20:20:00Z", 502),
        event(other, 4, "2026-11-01T00:00:00Z", 200),
        event(other, 5, "2026-10-31T23:59:59Z", 200),
    ];
    tokio_block(session.store().usage.record(&events)).unwrap();

    let month = session.json("usage");
    assert_eq!((text(&month, "from"), text(&month, "to")), ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"));
    assert_eq!((&month["total"]["requests"], &month["total"]["bytes_in"]), (&Value::from(4), &Value::from(10)));

    let by = session.json("usage --by client,status --client acme");
    assert_eq!(by["by"], serde_json::json!(["client", "status"]));
    let rows: Vec<(&str, u64, u64)> = by["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (text(item, "client"), item["status"].as_u64().unwrap(), item["requests"].as_u64().unwrap()))
        .collect();
    let id = acme.to_string();
    assert_eq!(rows, [(id.as_str(), 200, 2), (id.as_str(), 502, 1)]);

    let day = session.json("usage --from -1h --to 2026-11-22T20:05:00Z --by hour");
    assert_eq!(day["total"]["requests"], 3);
    assert_eq!(text(&day["items"][1], "hour"), "2026-11-22T20:00:00Z");

    let table = session.done("usage --by client --from 2026-10-01");
    assert!(table.contains("acme") && table.contains("total"), "{table}");
    assert_eq!(session.done("usage --by month --from 2026-10-01 --output csv").lines().count(), 3);
    assert_eq!(session.failure("usage --client nobody").code(), "not_found");
}
