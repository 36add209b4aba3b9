//! The feed of changes: whatever is committed by anyone is reported, and what does not matter is
//! not.

use super::{client, hash, new_key};
use crate::stores::{Place, on_both};
use octroi::model::client::{ClientChange, ClientStatus};
use octroi::model::id::ApiKeyId;
use octroi::model::key::ApiKey;
use octroi::store::ChangeReader;
use octroi::store::changes::Change;

on_both!(
    changes_by_commands_and_by_plain_sql_are_reported,
    what_no_cache_remembers_is_not_reported,
    a_replaced_hash_is_a_change_whatever_its_version,
    a_legacy_hash_that_appears_voids_negative_answers,
    bulk_jobs_are_reported_as_all,
    a_reader_starts_now_and_outlives_pruning,
    rows_nobody_can_read_mean_all,
);

fn about(key: &ApiKey, added: bool) -> Change {
    Change::Key { client: key.client_id, key: key.id, added }
}

async fn polled(reader: &mut Box<dyn ChangeReader>) -> Vec<Change> {
    reader.poll().await.unwrap()
}

async fn changes_by_commands_and_by_plain_sql_are_reported(place: &Place) {
    let store = place.migrated().await;
    let mut reader = place.open().await.changes.follow().await.unwrap();
    assert_eq!(polled(&mut reader).await, []);
    let owner = client(&store, "acme").await;
    assert_eq!(polled(&mut reader).await, [], "nobody remembers a client that is new");
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    assert_eq!(polled(&mut reader).await, [about(&key, true)]);
    store.keys.revoke(key.id, "2026-11-22T20:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(polled(&mut reader).await, [about(&key, false)]);
    let suspend = ClientChange { status: Some(ClientStatus::Suspended), ..ClientChange::default() };
    store.clients.update(owner.id, suspend).await.unwrap();
    assert_eq!(polled(&mut reader).await, [Change::Client(owner.id)]);
    let (scopes, addresses) = match place.dialect() {
        "postgres" => ("'{a}'", "'{192.0.2.0/24}'"),
        _ => ("'[\"a\"]'", "'[\"192.0.2.0/24\"]'"),
    };
    place.must("INSERT INTO plans (id, name) SELECT id, name FROM clients").await;
    for (assignment, of_key) in [
        ("api_keys SET revoked_at = CURRENT_TIMESTAMP", true),
        ("api_keys SET revoked_at = NULL", true),
        ("api_keys SET expires_at = CURRENT_TIMESTAMP", true),
        (&format!("api_keys SET scopes = {scopes}"), true),
        (&format!("api_keys SET allowed_addresses = {addresses}"), true),
        ("api_keys SET rate = '1/s'", true),
        ("api_keys SET burst = 3", true),
        ("clients SET status = 'active'", false),
        ("clients SET rate = '1/s'", false),
        ("clients SET burst = 2", false),
        ("clients SET plan_id = id", false),
        ("clients SET quota = '5/day'", false),
        ("clients SET concurrency = 5", false),
    ] {
        place.must(&format!("UPDATE {assignment}")).await;
        let expected = if of_key { about(&key, false) } else { Change::Client(owner.id) };
        assert_eq!(polled(&mut reader).await, [expected], "{assignment}");
        place.must(&format!("UPDATE {} ", assignment.replace("CURRENT_TIMESTAMP", "revoked_at"))).await;
        polled(&mut reader).await;
    }
    place.must("DELETE FROM api_keys").await;
    assert_eq!(polled(&mut reader).await, [about(&key, false)]);
    place.must("DELETE FROM clients").await;
    assert_eq!(polled(&mut reader).await, [Change::Client(owner.id)]);
    assert_eq!(polled(&mut reader).await, [], "each once");
}

async fn what_no_cache_remembers_is_not_reported(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    store.keys.note_pepper_version(key.id, 1).await.unwrap();
    for statement in [
        "UPDATE api_keys SET last_used_at = CURRENT_TIMESTAMP",
        "UPDATE api_keys SET pepper_version = 2",
        "UPDATE api_keys SET name = 'other'",
        "UPDATE api_keys SET revoked_at = revoked_at, scopes = scopes",
        "UPDATE clients SET metadata = '{\"a\": 1}', updated_at = CURRENT_TIMESTAMP",
        "UPDATE clients SET status = status",
        "INSERT INTO clients (name) VALUES ('no hash')",
    ] {
        place.must(statement).await;
        assert_eq!(polled(&mut reader).await, [], "{statement}");
    }
}

async fn a_replaced_hash_is_a_change_whatever_its_version(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    let hex = |number| hash(number).to_hex();
    for (assignment, expected) in [
        (format!("api_key_hash = '{}', pepper_version = 1", hex(2)), vec![about(&key, true)]),
        (format!("api_key_hash = '{}', pepper_version = 2", hex(3)), vec![about(&key, true)]),
        (format!("api_key_hash = '{}'", hex(4)), vec![about(&key, true)]),
        // Somebody who resets the version replaces the key: an old one must not live on in a cache.
        (format!("api_key_hash = '{}', pepper_version = NULL", hex(5)), vec![about(&key, true)]),
        ("hash_kind = 'sha256'".to_owned(), vec![about(&key, true)]),
        // Only whoever says so hashes the same key anew, and says it once for each time.
        (format!("api_key_hash = '{}', hash_kind = 'hmac', rehashes = rehashes + 1", hex(6)), vec![]),
        (format!("api_key_hash = '{}', rehashes = 1", hex(7)), vec![about(&key, true)]),
        (format!("api_key_hash = '{}', rehashes = 0", hex(8)), vec![about(&key, true)]),
        ("rehashes = rehashes + 1, scopes = scopes, rate = '9/s'".to_owned(), vec![about(&key, false)]),
    ] {
        place.must(&format!("UPDATE api_keys SET {assignment}")).await;
        assert_eq!(polled(&mut reader).await, expected, "{assignment}");
    }
}

async fn a_legacy_hash_that_appears_voids_negative_answers(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let mut reader = store.changes.follow().await.unwrap();
    let appeared = |client| vec![Change::Client(client), Change::Key { client, key: ApiKeyId::NIL, added: true }];
    let hex = |number| hash(number).to_hex();
    for (assignment, expected) in [
        (format!("api_key_hash = '{}'", hex(1)), appeared(owner.id)),
        (format!("api_key_hash = '{}', api_key_pepper_version = 1", hex(2)), appeared(owner.id)),
        (format!("api_key_hash = '{}'", hex(3)), appeared(owner.id)),
        ("api_key_hash = NULL".to_owned(), vec![Change::Client(owner.id)]),
        (format!("api_key_hash = '{}', api_key_pepper_version = 2", hex(4)), appeared(owner.id)),
    ] {
        place.must(&format!("UPDATE clients SET {assignment}")).await;
        assert_eq!(polled(&mut reader).await, expected, "{assignment}");
    }
    place.must(&format!("INSERT INTO clients (name, api_key_hash) VALUES ('second', '{}')", hex(5))).await;
    let second = store.clients.find_by_name("second").await.unwrap().remove(0);
    assert_eq!(polled(&mut reader).await, appeared(second.id));
}

async fn bulk_jobs_are_reported_as_all(place: &Place) {
    let store = place.migrated().await;
    place.must("INSERT INTO clients (name) VALUES ('acme')").await;
    let mut reader = store.changes.follow().await.unwrap();
    let insert = match place.dialect() {
        "postgres" => {
            "INSERT INTO api_keys (client_id, name, api_key_hash)
             SELECT c.id, 'k', encode(sha256(n::text::bytea), 'hex') FROM clients c, generate_series(1, 3000) n"
        }
        _ => {
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)
             INSERT INTO api_keys (client_id, name, api_key_hash)
             SELECT c.id, 'k', lower(hex(randomblob(32))) FROM clients c, n"
        }
    };
    for statement in [insert, "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP", "DELETE FROM api_keys"] {
        place.must(statement).await;
        assert_eq!(polled(&mut reader).await, [Change::All], "{statement}");
        assert_eq!(polled(&mut reader).await, [], "once");
    }
    if place.dialect() == "postgres" {
        place.must("TRUNCATE api_keys CASCADE").await;
        assert_eq!(polled(&mut reader).await.first(), Some(&Change::All));
    }
    // The reader goes on where the bulk job ended.
    let owner = store.clients.find_by_name("acme").await.unwrap().remove(0);
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    assert_eq!(polled(&mut reader).await, [about(&key, true)]);
}

async fn a_reader_starts_now_and_outlives_pruning(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    assert_eq!(polled(&mut reader).await, [], "what was before is not reported");
    assert_eq!(store.changes.prune("2000-01-01T00:00:00Z".parse().unwrap()).await.unwrap(), 0);
    assert_eq!(store.changes.prune("2100-01-01T00:00:00Z".parse().unwrap()).await.unwrap(), 1);
    assert_eq!(polled(&mut reader).await, []);
    let key = store.keys.create(new_key(owner.id, hash(2))).await.unwrap();
    assert_eq!(polled(&mut reader).await, [about(&key, true)]);
}

async fn rows_nobody_can_read_mean_all(place: &Place) {
    let store = place.migrated().await;
    let mut reader = store.changes.follow().await.unwrap();
    place.must("INSERT INTO changes (kind) VALUES ('client')").await;
    assert_eq!(polled(&mut reader).await, [Change::All]);
    assert_eq!(polled(&mut reader).await, [], "and the feed goes on");
}

/// One who makes changes by the thousand voids nobody else's cached identity.
#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_one_client_are_one_change() {
    let place = Place::sqlite();
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let mut reader = store.changes.follow().await.unwrap();
    place
        .must(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
             INSERT INTO changes (kind, client_id) SELECT 'client', '{}' FROM n",
            owner.id
        ))
        .await;
    assert_eq!(polled(&mut reader).await, [Change::Client(owner.id)]);
    assert_eq!(polled(&mut reader).await, []);
}

/// SQLite's REPLACE fires no delete trigger for the rows it removes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_replace_takes_away_are_reported() {
    let place = Place::sqlite();
    let store = place.migrated().await;
    let (owner, other) = (client(&store, "acme").await, client(&store, "other").await);
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    let of_key = about(&key, false);
    let hex = hash(1).to_hex();
    for (statement, expected) in [
        (
            format!("REPLACE INTO api_keys (client_id, name, api_key_hash) VALUES ('{}', 'k', '{hex}')", other.id),
            of_key,
        ),
        (
            format!("REPLACE INTO clients (id, name, status) VALUES ('{}', 'other', 'suspended')", other.id),
            Change::Client(other.id),
        ),
    ] {
        // Two connections of a shell: the second statement's foreign keys are off, as by default.
        place.must(&format!("PRAGMA foreign_keys = OFF; {statement}")).await;
        let changes = polled(&mut reader).await;
        assert!(changes.contains(&expected), "{statement}: {changes:?}");
    }
}

/// The case a reader by number alone gets wrong: the lower number commits last.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_missed() {
    let place = Place::postgres().await;
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let slow_key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();

    let slow = crate::postgres::connect(place.postgres_url().unwrap()).await;
    let revoke = format!("BEGIN; UPDATE api_keys SET revoked_at = now() WHERE id = '{}'", slow_key.id);
    slow.batch_execute(&revoke).await.unwrap();
    assert_eq!(polled(&mut reader).await, [], "not committed, not reported");
    let mut late_starter = store.changes.follow().await.unwrap();
    let fast_key = store.keys.create(new_key(owner.id, hash(2))).await.unwrap();
    for reader in [&mut reader, &mut late_starter] {
        assert_eq!(polled(reader).await, [about(&fast_key, true)]);
        assert_eq!(polled(reader).await, [], "reported once, though it is read again");
    }
    slow.batch_execute("COMMIT").await.unwrap();
    for reader in [&mut reader, &mut late_starter] {
        assert_eq!(polled(reader).await, [about(&slow_key, false)]);
        assert_eq!(polled(reader).await, []);
    }
    slow.batch_execute("BEGIN; UPDATE api_keys SET rate = '1/s'; ROLLBACK").await.unwrap();
    assert_eq!(polled(&mut reader).await, [], "rolled back, never reported");
    place.remove().await;
}

/// A history in which transaction numbers are lower (a restored dump) must not silence a reader.
#[tokio::test(flavor = "multi_thread")]
async fn rows_from_a_later_history_neither_repeat_nor_silence() {
    let place = Place::postgres().await;
    let store = place.migrated().await;
    place.must("INSERT INTO changes (xid, kind) VALUES ('999999999999', 'all')").await;
    let mut reader = store.changes.follow().await.unwrap();
    assert_eq!(polled(&mut reader).await, []);
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    assert_eq!(polled(&mut reader).await, [about(&key, true)]);
    assert_eq!(polled(&mut reader).await, []);
    place.remove().await;
}
