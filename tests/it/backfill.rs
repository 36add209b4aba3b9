//! Raw keys of an adopted database become hashes: nothing is lost, nothing is doubled, nothing raw
//! is told, and the gateway serves on.

use std::time::{Duration, Instant};

use crate::callers::{Crowd, fetch};
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually, text};
use crate::upstream::Upstream;

/// An older application's table with `count` clients, whose raw keys are `raw-key-of-<number>`.
pub(crate) fn older(database: &TestDatabase, count: u32) {
    database.execute(&format!(
        "CREATE TABLE clients (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL,
             api_key text NOT NULL, created_at timestamptz NOT NULL);
         INSERT INTO clients (name, api_key, created_at)
         SELECT 'client ' || n, 'raw-key-of-' || n, '2020-01-01T00:00:00Z'::timestamptz + n * interval '1 minute'
         FROM generate_series(1, {count}) n"
    ));
}

fn adopted(upstream: &Upstream, count: u32) -> (TestDatabase, Setup) {
    let database = TestDatabase::create();
    older(&database, count);
    let setup = Setup::new(upstream.address, &database.url(), "");
    (database, setup)
}

fn number(database: &TestDatabase, query: &str) -> i64 {
    database.query(query)[0].get(0)
}

fn status(setup: &Setup, raw: &str) -> u16 {
    fetch(setup.data, "/", &[&format!("X-API-Key: {raw}")]).status
}

/// Fails, as `--output json` tells it: the exit code and the word.
fn failure(setup: &Setup, arguments: &[&str]) -> (i32, String, String) {
    let output = setup.octroi(&[&["--output", "json"], arguments].concat());
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    (output.status.code().unwrap(), said["code"].as_str().unwrap().to_owned(), text(&output.stdout))
}

#[test]
fn twenty_thousand_keys_move_beside_a_running_gateway_and_go_on_working() {
    const CLIENTS: u32 = 20_000;
    let upstream = Upstream::start_counting();
    let (database, setup) = adopted(&upstream, CLIENTS);
    let busy = setup.client(&["busy", "--rate", "100000/s", "--burst", "100000"]);
    let busy_key = setup.key(&busy, &[]);
    let gateway = setup.start();
    let crowd = Crowd::start(setup.data, 4, "/", &busy_key.raw, Duration::from_millis(2));
    assert_eq!(status(&setup, "raw-key-of-7"), 401, "a raw key is no credential yet");

    let before = setup.json(&["backfill", "status"]);
    assert_eq!(
        (&before["clients"], &before["migrated"], &before["remaining"]),
        (&20_000.into(), &0.into(), &20_000.into())
    );
    let dry = setup.json(&["backfill", "run", "--dry-run"]);
    assert_eq!((&dry["new"], &dry["dry_run"]), (&20_000.into(), &true.into()));
    assert_eq!(number(&database, "SELECT count(*) FROM api_keys"), 1, "a dry run writes nothing");
    let changes = number(&database, "SELECT count(*) FROM changes");

    let begun = Instant::now();
    let run = setup.json(&["backfill", "run"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((&run["new"], &run["already"], &run["remaining"]), (&20_000.into(), &0.into(), &0.into()));
    assert_eq!(number(&database, "SELECT count(*) FROM changes") - changes, 4, "a batch is one change");
    let again = setup.json(&["backfill", "run", "--batch", "777"]);
    assert_eq!((&again["new"], &again["already"]), (&0.into(), &20_000.into()));
    let wrong = "SELECT count(*) FROM clients c WHERE api_key IS NOT NULL AND 1 <> (
        SELECT count(*) FROM api_keys k
        WHERE k.client_id = c.id AND k.name = 'migrated-legacy' AND k.created_at = c.created_at
          AND k.pepper_version = 1)";
    assert_eq!(number(&database, wrong), 0, "each client has one key, as old as itself");

    for raw in ["raw-key-of-7", "raw-key-of-1", "raw-key-of-20000"] {
        eventually("an old key works", || status(&setup, raw) == 200);
    }
    assert_eq!(setup.json(&["backfill", "verify"])["items"], serde_json::json!([]));
    let finished = setup.json(&["backfill", "finish"]);
    assert_eq!((&finished["forgotten"], &finished["remaining"]), (&20_000.into(), &0.into()));
    assert_eq!(number(&database, "SELECT count(*) FROM clients WHERE api_key IS NOT NULL"), 0);
    assert_eq!(setup.json(&["backfill", "finish"])["forgotten"], 0, "a second time is nothing");
    assert_eq!(status(&setup, "raw-key-of-7"), 200);

    let tally = crowd.stop();
    assert_eq!(tally.other_than(200), 0, "traffic of others was disturbed");
    assert!(!gateway.log().contains("raw-key-of"), "{}", gateway.log());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_run_that_was_killed_is_taken_up_again() {
    let upstream = Upstream::start();
    let (database, setup) = adopted(&upstream, 3_000);
    let running = setup.spawn(&["backfill", "run", "--batch", "1"]);
    let migrated = || number(&database, "SELECT count(*) FROM api_keys");
    eventually("some are migrated", || migrated() > 5);
    running.kill();
    let there = migrated();
    assert!(there < 3_000, "it was killed too late to show anything");
    let (code, word, listed) = failure(&setup, &["backfill", "finish"]);
    assert_eq!((code, word.as_str(), listed.as_str()), (1, "not_verified", ""));
    assert_eq!(number(&database, "SELECT count(*) FROM clients WHERE api_key IS NULL"), 0);
    // A statement of the killed process may still commit.
    let run = setup.json(&["backfill", "run"]);
    assert!(run["already"].as_i64().unwrap() >= there);
    assert_eq!(run["new"].as_i64().unwrap() + run["already"].as_i64().unwrap(), 3_000);
    assert_eq!(migrated(), 3_000);
    setup.json(&["backfill", "verify"]);
}

#[test]
fn keys_that_cannot_move_are_named_by_their_clients_and_nothing_raw_is_told() {
    let upstream = Upstream::start();
    let (database, mut setup) = adopted(&upstream, 3);
    // Check digits of ours that do not fit; too short; a blank; a second client with the same key.
    let bad = ["octroi_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgh0nXihX", "sh0rt", "with a blank"];
    for raw in bad.iter().chain(&["raw-key-of-2"]) {
        database.execute(&format!("INSERT INTO clients (name, api_key) VALUES ('bad', '{raw}')"));
    }
    database.execute(
        "INSERT INTO clients (name) VALUES ('none'); INSERT INTO clients (name, api_key) VALUES ('empty', '')",
    );
    setup.set("RUST_LOG", "trace");

    let run = setup.octroi(&["backfill", "run"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let said = text(&run.stdout) + &text(&run.stderr);
    let status = setup.json(&["backfill", "status"]);
    for (name, count) in
        [("clients", 7), ("migrated", 3), ("remaining", 0), ("belongs_to_another", 1), ("not_migratable", 3)]
    {
        assert_eq!(status[name], count, "{name} in {status}");
    }
    let output = setup.octroi(&["--output", "json", "backfill", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let differences = listed["items"].as_array().unwrap();
    assert_eq!(differences.len(), 4);
    for row in database.query("SELECT id::text, api_key FROM clients WHERE name = 'bad'") {
        let (id, raw): (String, String) = (row.get(0), row.get(1));
        let reason = if bad.contains(&raw.as_str()) { "not_migratable" } else { "belongs_to_another" };
        let found = differences.iter().find(|one| one["client_id"] == id.as_str());
        // Either of the two that share a key may be the one that has it.
        assert!(found.is_some_and(|one| one["reason"] == reason) || reason == "belongs_to_another", "{raw}: {listed}");
        assert!(found.is_none() || said.contains(&id), "{said}");
    }
    let (code, word, _) = failure(&setup, &["backfill", "finish"]);
    assert_eq!((code, word.as_str()), (1, "not_verified"));
    let said = said + &text(&output.stdout) + &text(&output.stderr) + &failure(&setup, &["backfill", "finish"]).2;
    for raw in bad.iter().chain(&["raw-key-of"]) {
        assert!(!said.contains(raw), "{raw} was told: {said}");
    }

    // Their owners got new keys: then the rest may go.
    let ids: Vec<&str> = differences.iter().map(|one| one["client_id"].as_str().unwrap()).collect();
    database.execute(&format!("UPDATE clients SET api_key = NULL WHERE id IN ('{}')", ids.join("', '")));
    assert_eq!(setup.json(&["backfill", "finish"])["forgotten"], 3);
    assert_eq!(number(&database, "SELECT count(*) FROM clients WHERE api_key IS NOT NULL"), 0);
}

#[test]
fn a_run_under_another_pepper_adds_no_second_key_and_a_stranger_is_refused() {
    let upstream = Upstream::start();
    let (database, mut setup) = adopted(&upstream, 50);
    setup.json(&["backfill", "run"]);
    setup.set("API_KEY_PEPPER_PREVIOUS", crate::harness::PEPPER);
    setup.set("API_KEY_PEPPER", "the next pepper, which is long enough as well");
    let run = setup.json(&["backfill", "run"]);
    assert_eq!((&run["new"], &run["already"]), (&0.into(), &50.into()));
    assert_eq!(number(&database, "SELECT count(*) FROM api_keys"), 50);
    setup.set("API_KEY_PEPPER_PREVIOUS", "");
    setup.set("API_KEY_PEPPER", "a pepper that this store has never heard of");
    assert_eq!(failure(&setup, &["backfill", "run"]).0, 78);
    setup.set("API_KEY_PEPPER", "");
    assert_eq!(failure(&setup, &["backfill", "run"]).0, 78);
}

#[test]
fn a_store_without_raw_keys_says_so() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        let status = setup.json(&["backfill", "status"]);
        assert_eq!((&status["clients"], &status["remaining"]), (&0.into(), &0.into()));
        setup.json(&["backfill", "verify"]);
        for command in ["run", "finish"] {
            let output = setup.octroi(&["backfill", command]);
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output.stderr).contains("\"api_key\""), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn a_hash_in_the_clients_row_is_a_credential() {
    let upstream = Upstream::start();
    let (database, setup) = adopted(&upstream, 2);
    let hash = {
        use octroi::crypto::pepper::Pepper;
        use octroi::model::secret::SecretBytes;
        Pepper::new(&SecretBytes::new(crate::harness::PEPPER.as_bytes().to_vec())).hash(b"an-older-hash").to_hex()
    };
    database.execute(&format!("UPDATE clients SET api_key_hash = '{hash}' WHERE name = 'client 1'"));
    let _gateway = setup.start();
    assert_eq!(status(&setup, "an-older-hash"), 200);
    database.execute("UPDATE clients SET status = 'suspended' WHERE name = 'client 1'");
    eventually("its client is suspended", || status(&setup, "an-older-hash") == 403);
}
