//! What every store promises, run on every store: the product is written against this and not
//! against a database.

use uuid::Uuid;

use crate::stores::{Place, on_both};
use octroi::model::access::Scopes;
use octroi::model::addresses::AddressRanges;
use octroi::model::client::{Client, ClientChange, ClientStatus, NewClient};
use octroi::model::id::{ApiKeyId, ClientId, EventId};
use octroi::model::key::{KeyHash, NewApiKey};
use octroi::model::rate::Rate;
use octroi::store::{Store, StoreError};

mod books;
mod erasure;
mod feed;
mod keys;
mod outage;
mod plans;
mod reports;
mod tls;
mod tokens;
mod updates;
mod usage;

on_both!(
    a_client_is_kept_as_given,
    clients_are_found_by_name_also_when_two_bear_it,
    many_clients_are_found_at_once,
    clients_and_keys_are_paged_oldest_first,
    a_client_is_changed_field_by_field,
    a_key_is_kept_and_found_by_id_and_public_id,
    a_hash_is_stored_once_and_only_for_a_client_that_exists,
    a_look_up_finds_the_key_with_its_client,
    a_legacy_hash_of_a_client_is_a_credential_and_yields_to_a_key,
    the_four_column_insert_works,
    times_as_sql_writes_them_are_read,
    a_revocation_keeps_its_first_time,
    noting_a_pepper_changes_nothing_else,
    rows_that_cannot_be_read_name_their_column,
    peppers_are_trusted_once,
    a_store_without_tables_says_so,
);

fn new_client(name: &str) -> NewClient {
    NewClient {
        name: name.to_owned(),
        rate: None,
        burst: None,
        plan_id: None,
        quota: None,
        concurrency: None,
        metadata: serde_json::json!({}),
    }
}

async fn client(store: &Store, name: &str) -> Client {
    store.clients.create(new_client(name)).await.unwrap()
}

fn hash(number: u8) -> KeyHash {
    KeyHash([number; 32])
}

fn new_key(client: ClientId, hash: KeyHash) -> NewApiKey {
    NewApiKey {
        client_id: client,
        name: "default".to_owned(),
        key_id: None,
        hash,
        pepper_version: None,
        scopes: Scopes::default(),
        rate: None,
        burst: None,
        allowed_addresses: AddressRanges::default(),
        expires_at: None,
    }
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

async fn a_client_is_kept_as_given(place: &Place) {
    let store = place.migrated().await;
    let new = NewClient {
        name: "Zoë & Søn".to_owned(),
        rate: Some(rate("300/m")),
        // The most a burst may be does not fit a signed 32-bit column.
        burst: std::num::NonZeroU32::new(u32::MAX),
        plan_id: None,
        quota: Some("1000000/month@15@Europe/Berlin".parse().unwrap()),
        concurrency: std::num::NonZeroU32::new(7),
        metadata: serde_json::json!({"tier": "gold", "tags": ["a", "b"], "quote": "it's"}),
    };
    let made = store.clients.create(new.clone()).await.unwrap();
    assert_eq!((&made.name, made.rate, made.burst, &made.metadata), (&new.name, new.rate, new.burst, &new.metadata));
    assert_eq!((made.status, made.plan_id), (ClientStatus::Active, None));
    assert_eq!(made.created_at, made.updated_at);
    assert_eq!(store.clients.find(made.id).await.unwrap(), Some(made.clone()));
    let other = place.open().await;
    assert_eq!(other.clients.find(made.id).await.unwrap(), Some(made), "another process reads the same");
    assert_eq!(store.clients.find(ClientId(Uuid::from_u128(1))).await.unwrap(), None);
    match store.clients.create(new_client("")).await {
        Err(StoreError::Refused { .. }) => {}
        other => panic!("a client without a name: {other:?}"),
    }
}

async fn clients_are_found_by_name_also_when_two_bear_it(place: &Place) {
    let store = place.migrated().await;
    let (first, second) = (client(&store, "acme").await, client(&store, "acme").await);
    client(&store, "Acme").await;
    let mut found: Vec<_> = store.clients.find_by_name("acme").await.unwrap().iter().map(|one| one.id).collect();
    let mut expected = vec![first.id, second.id];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.clients.find_by_name("a%me").await.unwrap(), [], "a name is no pattern");
}

async fn many_clients_are_found_at_once(place: &Place) {
    let store = place.migrated().await;
    let (first, second) = (client(&store, "acme").await, client(&store, "globex").await);
    client(&store, "initech").await;
    let nobody = ClientId(Uuid::from_u128(1));
    let mut found = store.clients.find_many(&[second.id, nobody, first.id, second.id]).await.unwrap();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(found, [first, second], "each once; who is not there is left out");
    assert_eq!(store.clients.find_many(&[]).await.unwrap(), []);
}

async fn clients_and_keys_are_paged_oldest_first(place: &Place) {
    let store = place.migrated().await;
    // Equal times, so that the id decides; times as CURRENT_TIMESTAMP writes them among others.
    for (number, time) in [
        (5, "2026-01-01 00:00:00"),
        (4, "2026-01-01T00:00:00.500000Z"),
        (3, "2026-01-01T00:00:01.000000Z"),
        (2, "2026-01-02 00:00:00"),
        (1, "2026-01-02 00:00:00"),
    ] {
        let id = Uuid::from_u128(number);
        let zone = if place.dialect() == "postgres" && !time.ends_with('Z') { "+00" } else { "" };
        place.must(&format!("INSERT INTO clients (id, name, created_at) VALUES ('{id}', 'n', '{time}{zone}')")).await;
        place
            .must(&format!(
                "INSERT INTO api_keys (id, client_id, name, api_key_hash, created_at)
                 VALUES ('{id}', '{id}', 'k', '{}', '{time}{zone}')",
                hash(u8::try_from(number).unwrap()).to_hex()
            ))
            .await;
    }
    let expected: Vec<_> = [5, 4, 3, 1, 2].map(Uuid::from_u128).into();
    for limit in [1, 2, 3, 5, 10] {
        let (mut clients, mut keys) = (Vec::new(), Vec::new());
        loop {
            let page = store.clients.list(clients.last().copied().map(ClientId), limit).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            clients.extend(page.items.iter().map(|one| one.id.0));
            if !page.more {
                break;
            }
        }
        loop {
            let page = store.keys.list(None, keys.last().copied().map(ApiKeyId), limit).await.unwrap();
            keys.extend(page.items.iter().map(|one| one.id.0));
            if !page.more {
                break;
            }
        }
        assert_eq!(clients, expected, "pages of {limit}");
        assert_eq!(keys, expected, "pages of {limit}");
    }
    let of_one = store.keys.list(Some(ClientId(Uuid::from_u128(3))), None, 10).await.unwrap();
    assert_eq!(of_one.items.iter().map(|one| one.id.0).collect::<Vec<_>>(), [Uuid::from_u128(3)]);
    assert!(!of_one.more);
    let after_nobody = store.clients.list(Some(ClientId(Uuid::from_u128(99))), 10).await.unwrap();
    assert!(after_nobody.items.is_empty() && !after_nobody.more, "an unknown cursor ends a list");
}

async fn a_client_is_changed_field_by_field(place: &Place) {
    let store = place.migrated().await;
    let made = client(&store, "before").await;
    let change = ClientChange {
        name: Some("after".to_owned()),
        status: Some(ClientStatus::Suspended),
        rate: Some(Some(rate("5/s"))),
        burst: Some(std::num::NonZeroU32::new(9)),
        metadata: Some(serde_json::json!({"k": 1})),
        plan_id: None,
        quota: Some(Some("5/day".parse().unwrap())),
        concurrency: Some(std::num::NonZeroU32::new(9)),
        only_if: None,
    };
    let changed = store.clients.update(made.id, change).await.unwrap().unwrap();
    assert_eq!(
        (changed.name.as_str(), changed.status, changed.rate, changed.burst.map(std::num::NonZeroU32::get)),
        ("after", ClientStatus::Suspended, Some(rate("5/s")), Some(9))
    );
    assert_eq!(changed.metadata, serde_json::json!({"k": 1}));
    assert_eq!(changed.created_at, made.created_at);
    assert!(changed.updated_at >= made.updated_at);

    let clear = ClientChange { rate: Some(None), burst: Some(None), ..ClientChange::default() };
    let cleared = store.clients.update(made.id, clear).await.unwrap().unwrap();
    assert_eq!((cleared.rate, cleared.burst), (None, None));
    assert_eq!((cleared.name.as_str(), cleared.status), ("after", ClientStatus::Suspended), "the rest stays");
    assert_eq!(store.clients.find(made.id).await.unwrap(), Some(cleared));
    let nobody = ClientId(Uuid::from_u128(1));
    assert_eq!(store.clients.update(nobody, ClientChange::default()).await.unwrap(), None);
}

async fn a_key_is_kept_and_found_by_id_and_public_id(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let scopes = Scopes::new(["orders:read".to_owned(), "a'b{,}\"".replace('"', "")]).unwrap();
    let new = NewApiKey {
        key_id: Some("octroi_live_AbCdEfGhIjKl".to_owned()),
        pepper_version: Some(2),
        scopes: scopes.clone(),
        expires_at: Some("2027-01-01T00:00:00.123456Z".parse().unwrap()),
        ..new_key(owner.id, hash(1))
    };
    let made = store.keys.create(new.clone()).await.unwrap();
    assert_eq!((made.client_id, &made.name, &made.key_id), (owner.id, &new.name, &new.key_id));
    assert_eq!((made.pepper_version, &made.scopes, made.expires_at), (Some(2), &scopes, new.expires_at));
    assert_eq!((made.revoked_at, made.last_used_at, made.replaced_by), (None, None, None));
    assert_eq!(store.keys.find(made.id).await.unwrap().as_ref(), Some(&made));
    let by_key_id = store.keys.find_by_key_id("octroi_live_AbCdEfGhIjKl").await.unwrap();
    assert_eq!(by_key_id.as_ref(), Some(&made));
    assert_eq!(store.keys.find_by_key_id("octroi_live_abcdefghijkl").await.unwrap(), None, "letters keep their case");
    assert_eq!(store.keys.find(ApiKeyId(Uuid::from_u128(1))).await.unwrap(), None);
}

async fn a_hash_is_stored_once_and_only_for_a_client_that_exists(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    for (what, new) in [
        ("the same hash", new_key(owner.id, hash(1))),
        ("no such client", new_key(ClientId(Uuid::from_u128(1)), hash(2))),
    ] {
        match store.keys.create(new).await {
            Err(StoreError::Conflict(message)) => assert!(!message.contains(&hash(1).to_hex()), "{message}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    for (what, text) in [("upper case", "AB".repeat(32)), ("too short", "ab".repeat(31)), ("no hex", "zz".repeat(32))] {
        let insert =
            format!("INSERT INTO api_keys (client_id, name, api_key_hash) VALUES ('{}', 'k', '{text}')", owner.id);
        assert!(place.sql(&insert).await.is_err(), "{what}: a hash no look-up could find is refused");
    }
}

async fn a_look_up_finds_the_key_with_its_client(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let made = store.keys.create(NewApiKey { pepper_version: Some(1), ..new_key(owner.id, hash(1)) }).await.unwrap();
    for asked in [vec![hash(1)], vec![hash(7), hash(1)], vec![hash(1), hash(7)]] {
        let found = store.keys.find_by_hash(&asked).await.unwrap().unwrap();
        assert_eq!(found.client, owner);
        assert_eq!(found.key.as_ref(), Some(&made));
        assert_eq!((found.matched, found.pepper_version), (hash(1), Some(1)));
    }
    let second = store.keys.create(new_key(owner.id, hash(2))).await.unwrap();
    let found = store.keys.find_by_hash(&[hash(2), hash(1)]).await.unwrap().unwrap();
    assert_eq!(found.key.map(|key| key.id), Some(second.id), "the first hash asked for comes first");
    assert!(store.keys.find_by_hash(&[hash(9)]).await.unwrap().is_none());
    assert!(store.keys.find_by_hash(&[]).await.unwrap().is_none());
}

async fn a_legacy_hash_of_a_client_is_a_credential_and_yields_to_a_key(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "legacy").await;
    place
        .must(&format!(
            "UPDATE clients SET api_key_hash = '{}', api_key_pepper_version = 3 WHERE id = '{}'",
            hash(1).to_hex(),
            owner.id
        ))
        .await;
    let found = store.keys.find_by_hash(&[hash(1)]).await.unwrap().unwrap();
    assert_eq!((found.client.id, found.matched, found.pepper_version), (owner.id, hash(1), Some(3)));
    assert!(found.key.is_none());

    // After the backfill both rows hold it, and only the key can be revoked.
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    store.keys.revoke(key.id, "2026-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    let found = store.keys.find_by_hash(&[hash(9), hash(1)]).await.unwrap().unwrap();
    assert!(found.key.is_some_and(|key| key.revoked_at.is_some()));
}

async fn the_four_column_insert_works(place: &Place) {
    let store = place.migrated().await;
    place.must("INSERT INTO clients (name) VALUES ('by hand')").await;
    let owner = store.clients.find_by_name("by hand").await.unwrap().remove(0);
    assert_eq!(owner.metadata, serde_json::json!({}));
    let now = if place.dialect() == "postgres" { &["NOW()", "CURRENT_TIMESTAMP"][..] } else { &["CURRENT_TIMESTAMP"] };
    for (number, now) in (1..).zip(now) {
        place
            .must(&format!(
                "INSERT INTO api_keys (client_id, name, api_key_hash, created_at)
                 VALUES ('{}', 'migrated-legacy', '{}', {now});",
                owner.id,
                hash(number).to_hex()
            ))
            .await;
        let found = store.keys.find_by_hash(&[hash(number)]).await.unwrap().unwrap();
        let key = found.key.unwrap();
        assert_eq!((key.name.as_str(), key.key_id, key.pepper_version), ("migrated-legacy", None, None), "{now}");
        assert!(key.scopes.is_empty());
        assert!(
            key.created_at >= owner.created_at.round(jiff::Unit::Second).unwrap() - jiff::SignedDuration::from_secs(1)
        );
        assert_eq!(key.id.0.get_version_num(), 4, "the default id is a UUID");
        assert_eq!(key.id.0.get_variant(), uuid::Variant::RFC4122);
    }
}

async fn times_as_sql_writes_them_are_read(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut forms = vec![
        ("'2026-11-22 20:00:00+00:00'", "2026-11-22T20:00:00Z"),
        ("'2026-11-22T22:00:00.25+02:00'", "2026-11-22T20:00:00.25Z"),
    ];
    if place.dialect() == "sqlite" {
        forms.push(("datetime('2026-11-22 20:00:00', '+90 days')", "2027-02-20T20:00:00Z"));
        forms.push(("date('2026-11-22')", "2026-11-22T00:00:00Z"));
    }
    for (written, read) in forms {
        place.must(&format!("UPDATE api_keys SET expires_at = {written} WHERE id = '{}'", key.id)).await;
        let found = store.keys.find(key.id).await.unwrap().unwrap();
        assert_eq!(found.expires_at, Some(read.parse().unwrap()), "{written}");
    }
}

async fn a_revocation_keeps_its_first_time(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let [early, middle, late] =
        ["2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z"].map(|text| text.parse().unwrap());
    for (at, expected, why) in [
        (middle, middle, "now"),
        (late, middle, "a second revocation changes nothing"),
        (early, early, "one meant for later is brought forward"),
    ] {
        let revoked = store.keys.revoke(key.id, at).await.unwrap().unwrap();
        assert_eq!(revoked.revoked_at, Some(expected), "{why}");
    }
    assert_eq!(store.keys.revoke(ApiKeyId(Uuid::from_u128(1)), early).await.unwrap(), None);
}

async fn noting_a_pepper_changes_nothing_else(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    store.keys.note_pepper_version(key.id, 4).await.unwrap();
    let noted = store.keys.find(key.id).await.unwrap().unwrap();
    assert_eq!(noted, octroi::model::key::ApiKey { pepper_version: Some(4), ..key });
}

async fn rows_that_cannot_be_read_name_their_column(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let bad_scopes = if place.dialect() == "postgres" { "'{\"two words\"}'" } else { "'[\"two words\"]'" };
    let mut cases = vec![
        (
            format!("clients SET rate = 'fast' WHERE id = '{}'", owner.id),
            "clients SET rate = NULL",
            ("clients", "rate"),
        ),
        (
            format!("clients SET burst = 4294967296 WHERE id = '{}'", owner.id),
            "clients SET burst = NULL",
            ("clients", "burst"),
        ),
        (
            format!("clients SET metadata = '[1]' WHERE id = '{}'", owner.id),
            "clients SET metadata = '{}'",
            ("clients", "metadata"),
        ),
        (
            format!("api_keys SET scopes = {bad_scopes} WHERE id = '{}'", key.id),
            if place.dialect() == "postgres" { "api_keys SET scopes = '{}'" } else { "api_keys SET scopes = '[]'" },
            ("api_keys", "scopes"),
        ),
        (
            format!("api_keys SET rate = '0/s' WHERE id = '{}'", key.id),
            "api_keys SET rate = NULL",
            ("api_keys", "rate"),
        ),
    ];
    if place.dialect() == "sqlite" {
        let update = format!("api_keys SET expires_at = 'soon' WHERE id = '{}'", key.id);
        cases.push((update, "api_keys SET expires_at = NULL", ("api_keys", "expires_at")));
    } else {
        let update = format!("api_keys SET expires_at = 'infinity' WHERE id = '{}'", key.id);
        cases.push((update, "api_keys SET expires_at = NULL", ("api_keys", "expires_at")));
    }
    for (spoil, mend, (bad_table, bad_column)) in cases {
        place.must(&format!("UPDATE {spoil}")).await;
        match store.keys.find_by_hash(&[hash(1)]).await {
            Err(StoreError::Corrupt { table, column, .. }) => {
                assert_eq!((table, column), (bad_table, bad_column), "{spoil}");
            }
            other => panic!("{spoil}: {other:?}"),
        }
        place.must(&format!("UPDATE {mend}")).await;
        assert!(store.keys.find_by_hash(&[hash(1)]).await.unwrap().is_some(), "{mend}");
    }
}

async fn peppers_are_trusted_once(place: &Place) {
    let store = place.migrated().await;
    assert_eq!(store.peppers.list().await.unwrap(), []);
    assert_eq!(store.peppers.trust("first").await.unwrap(), 1);
    let other = place.open().await;
    assert_eq!(other.peppers.trust("first").await.unwrap(), 1);
    assert_eq!(other.peppers.trust("second").await.unwrap(), 2);
    assert_eq!(store.peppers.trust("first").await.unwrap(), 1);
    let (a, b, c) = tokio::join!(store.peppers.trust("x"), other.peppers.trust("y"), other.peppers.trust("x"));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(a, c, "one fingerprint, one version, whoever comes first");
    assert_eq!(
        {
            let mut both = [a, b];
            both.sort_unstable();
            both
        },
        [3, 4]
    );
    place.must("UPDATE peppers SET retired_at = '2026-11-22T20:00:00Z' WHERE version = 1").await;
    let listed = store.peppers.list().await.unwrap();
    assert_eq!(listed.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(listed[0].fingerprint, "first");
    assert_eq!(listed[0].retired_at, Some("2026-11-22T20:00:00Z".parse().unwrap()));
    assert_eq!(listed[1].retired_at, None);
}

async fn a_store_without_tables_says_so(place: &Place) {
    let store = place.open().await;
    for failed in [
        store.keys.find_by_hash(&[hash(1)]).await.map(drop),
        store.clients.list(None, 1).await.map(drop),
        store.changes.follow().await.map(drop),
    ] {
        match failed {
            Err(StoreError::Refused { source, .. }) => assert!(!source.to_string().is_empty()),
            other => panic!("{other:?}"),
        }
    }
    assert!(store.migrations.status().await.unwrap().iter().all(|one| one.applied_at.is_none()));
}

/// An id as the gateway makes it, of a moment.
fn event_id(moment: &str, tail: u64) -> EventId {
    let milliseconds = u64::try_from(moment.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap();
    EventId(Uuid::from_u64_pair((milliseconds << 16) | 0x7000, 0x8000_0000_0000_0000 | tail))
}
