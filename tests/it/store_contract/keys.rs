//! The life of a key in a store: limits and ranges of its own, and rotation.

use jiff::{SignedDuration, Timestamp};
use octroi::model::access::Scopes;
use octroi::model::addresses::AddressRanges;
use octroi::model::id::{ApiKeyId, ClientId};
use octroi::model::key::{ApiKey, HashKind, ImportedKey, KeyDefect, NewApiKey, NotRotated, Rotation};
use octroi::model::usage::{EventKind, Outcome, UsageEvent};
use octroi::store::rotation::{HashMove, MoveTarget, Moved};
use octroi::store::{Store, StoreError};
use uuid::Uuid;

use super::{client, event_id, hash, new_key, rate};
use crate::stores::{Place, on_both};

on_both!(
    a_key_keeps_its_own_limits_and_ranges,
    a_successor_has_everything_but_the_text,
    working_keys_are_told_newest_first,
    the_old_key_ends_with_the_grace_and_never_later_than_before,
    what_does_not_work_or_was_replaced_is_not_rotated,
    of_two_rotations_that_meet_one_wins,
    a_rotation_that_fails_leaves_the_old_key,
    a_rotation_is_a_change_of_both_keys,
    an_import_is_whole_or_nothing,
    known_hashes_are_told,
    a_key_is_hashed_again_once_and_no_cache_hears_of_it,
    last_use_follows_the_events_coarsely_and_silently,
);

const NOW: &str = "2026-11-22T20:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn rotation(number: u8, grace: SignedDuration) -> Rotation {
    Rotation {
        key_id: Some(format!("octroi_live_successor{number:03}")),
        hash: hash(number),
        pepper_version: Some(2),
        expires_at: None,
        at: at(NOW),
        old_until: at(NOW) + grace,
    }
}

async fn full_key(store: &Store, number: u8) -> ApiKey {
    let owner = client(store, "acme").await;
    let new = NewApiKey {
        name: "ci".to_owned(),
        key_id: Some(format!("octroi_live_predecessor{number}")),
        scopes: Scopes::new(["orders:*".to_owned()]).unwrap(),
        rate: Some(rate("10/m")),
        burst: std::num::NonZeroU32::new(7),
        allowed_addresses: AddressRanges::new(["192.0.2.0/24", "2001:db8::/32"]).unwrap(),
        expires_at: Some(at("2027-03-01T00:00:00Z")),
        ..new_key(owner.id, hash(number))
    };
    store.keys.create(new).await.unwrap()
}

async fn a_key_keeps_its_own_limits_and_ranges(place: &Place) {
    let store = place.migrated().await;
    let made = full_key(&store, 1).await;
    assert_eq!((made.rate, made.burst.map(std::num::NonZeroU32::get)), (Some(rate("10/m")), Some(7)));
    assert_eq!(made.allowed_addresses.to_string(), "192.0.2.0/24 2001:db8::/32");
    let found = store.keys.find_by_hash(&[hash(1)]).await.unwrap().unwrap();
    assert_eq!(found.key, Some(made.clone()));
    let (one, word) = match place.dialect() {
        "postgres" => ("'{203.0.113.7}'", "'{anywhere}'"),
        _ => ("'[\"203.0.113.7\"]'", "'[\"anywhere\"]'"),
    };
    place.must(&format!("UPDATE api_keys SET allowed_addresses = {one}")).await;
    let found = store.keys.find(made.id).await.unwrap().unwrap();
    assert_eq!(found.allowed_addresses.to_string(), "203.0.113.7/32", "an address by hand is a range of one");
    // A rule that cannot be read is no rule to be passed over.
    place.must(&format!("UPDATE api_keys SET allowed_addresses = {word}")).await;
    match store.keys.find_by_hash(&[hash(1)]).await {
        Err(StoreError::Corrupt { column: "allowed_addresses", .. }) => {}
        other => panic!("{other:?}"),
    }
}

async fn a_successor_has_everything_but_the_text(place: &Place) {
    let store = place.migrated().await;
    let old = full_key(&store, 1).await;
    let new = store.keys.rotate(old.id, rotation(2, SignedDuration::from_hours(24))).await.unwrap().unwrap();
    assert_ne!(new.id, old.id);
    let expected = ApiKey {
        id: new.id,
        key_id: Some("octroi_live_successor002".into()),
        pepper_version: Some(2),
        created_at: new.created_at,
        ..old.clone()
    };
    assert_eq!(new, expected);
    let found = store.keys.find_by_hash(&[hash(2)]).await.unwrap().unwrap();
    assert_eq!(found.key, Some(new.clone()));
    let replaced = store.keys.find(old.id).await.unwrap().unwrap();
    let ended = Some(at("2026-11-23T20:00:00Z"));
    assert_eq!(replaced, ApiKey { replaced_by: Some(new.id), expires_at: ended, ..old });
    // An expiry of its own is the successor's, and one more generation works the same.
    let longer =
        Rotation { expires_at: Some(at("2028-01-01T00:00:00Z")), ..rotation(3, SignedDuration::from_hours(1)) };
    let third = store.keys.rotate(new.id, longer).await.unwrap().unwrap();
    assert_eq!((third.expires_at, third.client_id), (Some(at("2028-01-01T00:00:00Z")), expected.client_id));
}

async fn working_keys_are_told_newest_first(place: &Place) {
    let store = place.migrated().await;
    let (owner, other) = (client(&store, "acme").await, client(&store, "globex").await);
    store.keys.create(new_key(other.id, hash(200))).await.unwrap();
    let mut made = Vec::new();
    for (number, (revoked_at, expires_at)) in (1..).zip([
        (None, None),
        (Some("2026-11-01T00:00:00Z"), None),
        // A time in the future does not undo a revocation.
        (Some("2027-11-01T00:00:00Z"), None),
        (None, Some("2026-11-22T20:00:00Z")),
        (None, Some("2026-11-22T20:00:00.000001Z")),
        (None, Some("2026-11-22 21:00:00+02:00")),
        (None, Some("2026-11-22 23:00:00+02:00")),
    ]) {
        let key = store.keys.create(new_key(owner.id, hash(number))).await.unwrap();
        let value = |time: Option<&str>| time.map_or_else(|| "NULL".to_owned(), |time| format!("'{time}'"));
        place
            .must(&format!(
                "UPDATE api_keys SET revoked_at = {}, expires_at = {}, created_at = '2026-01-0{number}T00:00:00.000000Z'
                 WHERE id = '{}'",
                value(revoked_at),
                value(expires_at),
                key.id
            ))
            .await;
        made.push(key.id);
    }
    let expected = [made[6], made[4], made[0]];
    for limit in [1, 2, 3, 10] {
        let page = store.keys.working(owner.id, at(NOW), limit).await.unwrap();
        let ids: Vec<_> = page.items.iter().map(|key| key.id).collect();
        assert_eq!(ids, expected[..expected.len().min(limit as usize)], "{limit}");
        assert_eq!(page.more, limit < 3, "{limit}");
    }
    assert!(store.keys.working(ClientId(Uuid::from_u128(1)), at(NOW), 9).await.unwrap().items.is_empty());
}

async fn the_old_key_ends_with_the_grace_and_never_later_than_before(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    for (number, expires_at, grace, expected_end, revoked) in [
        (1, None, 24 * 3600, "2026-11-23T20:00:00Z", false),
        (2, Some("2026-11-22T21:00:00Z"), 24 * 3600, "2026-11-22T21:00:00Z", false),
        (3, Some("2026-12-22T21:00:00Z"), 60, "2026-11-22T20:01:00Z", false),
        (4, None, 0, NOW, true),
        (5, Some("2026-12-22T21:00:00Z"), 0, NOW, true),
    ] {
        let new = NewApiKey { expires_at: expires_at.map(at), ..new_key(owner.id, hash(number)) };
        let old = store.keys.create(new).await.unwrap();
        let by = rotation(100 + number, SignedDuration::from_secs(grace));
        let successor = store.keys.rotate(old.id, by).await.unwrap().unwrap();
        assert_eq!(successor.expires_at, expires_at.map(at), "the successor ends when the old key would have");
        let old = store.keys.find(old.id).await.unwrap().unwrap();
        assert_eq!((old.expires_at, old.revoked_at), (Some(at(expected_end)), revoked.then(|| at(NOW))), "{number}");
        assert_eq!(old.defect(at(NOW)).is_some(), revoked, "within the grace the old key works");
        assert!(old.defect(at(expected_end)).is_some(), "and at its end no more");
        assert_eq!(successor.defect(at(NOW)), None);
    }
}

async fn what_does_not_work_or_was_replaced_is_not_rotated(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let hour = SignedDuration::from_hours(1);
    let revoked = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    store.keys.revoke(revoked.id, at(NOW)).await.unwrap();
    let expired = NewApiKey { expires_at: Some(at(NOW)), ..new_key(owner.id, hash(2)) };
    let expired = store.keys.create(expired).await.unwrap();
    let replaced = store.keys.create(new_key(owner.id, hash(3))).await.unwrap();
    let successor = store.keys.rotate(replaced.id, rotation(4, hour)).await.unwrap().unwrap();
    let before = store.keys.list(None, None, 10).await.unwrap().items;
    for (id, refusal) in [
        (revoked.id, NotRotated::Defect(KeyDefect::Revoked)),
        (expired.id, NotRotated::Defect(KeyDefect::Expired)),
        (replaced.id, NotRotated::Replaced(successor.id)),
        (ApiKeyId(Uuid::from_u128(1)), NotRotated::Unknown),
    ] {
        assert_eq!(store.keys.rotate(id, rotation(9, hour)).await.unwrap(), Err(refusal));
    }
    assert_eq!(store.keys.list(None, None, 10).await.unwrap().items, before, "nothing was written");
}

async fn of_two_rotations_that_meet_one_wins(place: &Place) {
    let store = place.migrated().await;
    let old = full_key(&store, 1).await;
    let others = [place.open().await, place.open().await, place.open().await];
    let hour = SignedDuration::from_hours(1);
    let (a, b, c) = tokio::join!(
        others[0].keys.rotate(old.id, rotation(2, hour)),
        others[1].keys.rotate(old.id, rotation(3, hour)),
        others[2].keys.rotate(old.id, rotation(4, hour)),
    );
    let answers = [a.unwrap(), b.unwrap(), c.unwrap()];
    let winners: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let beaten = answers.iter().filter(|answer| **answer == Err(NotRotated::Replaced(winners[0].id)));
    assert_eq!(beaten.count(), 2, "{answers:?}");
    assert_eq!(store.keys.list(None, None, 10).await.unwrap().items.len(), 2);
}

async fn a_rotation_that_fails_leaves_the_old_key(place: &Place) {
    let store = place.migrated().await;
    let old = full_key(&store, 1).await;
    match store.keys.rotate(old.id, rotation(1, SignedDuration::ZERO)).await {
        Err(StoreError::Conflict(message)) => assert!(!message.contains(&hash(1).to_hex()), "{message}"),
        other => panic!("the hash is there already: {other:?}"),
    }
    assert_eq!(store.keys.list(None, None, 10).await.unwrap().items, [old]);
}

async fn a_rotation_is_a_change_of_both_keys(place: &Place) {
    use octroi::store::changes::Change;
    let store = place.migrated().await;
    let old = full_key(&store, 1).await;
    let mut reader = store.changes.follow().await.unwrap();
    let new = store.keys.rotate(old.id, rotation(2, SignedDuration::from_hours(1))).await.unwrap().unwrap();
    let mut changes = reader.poll().await.unwrap();
    changes.sort_by_key(|change| matches!(change, Change::Key { added: true, .. }));
    assert_eq!(
        changes,
        [
            Change::Key { client: old.client_id, key: old.id, added: false },
            Change::Key { client: new.client_id, key: new.id, added: true },
        ]
    );
}

fn imported(client: ClientId, number: u8, kind: HashKind) -> ImportedKey {
    ImportedKey {
        client_id: client,
        name: format!("imported {number}"),
        key_id: None,
        hash: hash(number),
        hash_kind: kind,
        pepper_version: None,
        scopes: Scopes::new(["orders:read".to_owned(), "a,{}'".to_owned()]).unwrap(),
        expires_at: Some(at("2027-01-01T00:00:00Z")),
        created_at: Some(at("2019-05-01T12:00:00.5Z")),
    }
}

async fn an_import_is_whole_or_nothing(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let first = imported(owner.id, 1, HashKind::Hmac);
    let second = ImportedKey {
        scopes: Scopes::default(),
        created_at: None,
        expires_at: None,
        ..imported(owner.id, 2, HashKind::Sha256)
    };
    assert_eq!(store.keys.import(vec![first.clone(), second]).await.unwrap(), 2);
    let found = store.keys.find_by_hash(&[hash(1)]).await.unwrap().unwrap().key.unwrap();
    assert_eq!((&found.name, &found.scopes, found.hash_kind), (&first.name, &first.scopes, HashKind::Hmac));
    assert_eq!(
        (found.created_at, found.expires_at, found.pepper_version),
        (first.created_at.unwrap(), first.expires_at, None)
    );
    let found = store.keys.find_by_hash(&[hash(2)]).await.unwrap().unwrap().key.unwrap();
    assert_eq!((found.hash_kind, found.expires_at), (HashKind::Sha256, None));
    assert!(found.scopes.is_empty() && found.created_at >= owner.created_at);

    for (what, spoiler) in [
        ("a hash that is there", imported(owner.id, 1, HashKind::Hmac)),
        ("no such client", imported(ClientId(Uuid::from_u128(1)), 4, HashKind::Hmac)),
    ] {
        match store.keys.import(vec![imported(owner.id, 3, HashKind::Hmac), spoiler]).await {
            Err(StoreError::Conflict(message)) => assert!(!message.contains(&hash(1).to_hex()), "{message}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(store.keys.find_by_hash(&[hash(3)]).await.unwrap().is_none(), "{what}: nothing was written");
    }
    assert_eq!(store.keys.import(vec![]).await.unwrap(), 0);
}

async fn known_hashes_are_told(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store
        .keys
        .import(vec![imported(owner.id, 1, HashKind::Hmac), imported(owner.id, 2, HashKind::Sha256)])
        .await
        .unwrap();
    let mut known = store.keys.known_hashes(&[hash(1), hash(2), hash(3)]).await.unwrap();
    known.sort_by_key(|hash| hash.0);
    assert_eq!(known, [hash(1), hash(2)]);
    assert_eq!(store.keys.known_hashes(&[]).await.unwrap(), []);
}

async fn a_key_is_hashed_again_once_and_no_cache_hears_of_it(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store.keys.import(vec![imported(owner.id, 1, HashKind::Sha256)]).await.unwrap();
    let key = store.keys.find_by_hash(&[hash(1)]).await.unwrap().unwrap().key.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    let target = MoveTarget { version: 3, fingerprint: "f".to_owned(), everywhere_current: false };
    let to = |kind, new| [HashMove { kind, old: hash(1), new: hash(new) }];
    let moved = async |kind, new| store.rotation.move_hashes(&to(kind, new), &target).await.unwrap();
    assert_eq!(moved(HashKind::Hmac, 8).await, Moved::Rows(0), "it was not made so");
    assert_eq!(moved(HashKind::Sha256, 2).await, Moved::Rows(1));
    assert_eq!(reader.poll().await.unwrap(), [], "it is the same key");
    let found = store.keys.find_by_hash(&[hash(2)]).await.unwrap().unwrap();
    assert_eq!(found.key, Some(ApiKey { hash_kind: HashKind::Hmac, pepper_version: Some(3), ..key.clone() }));
    assert!(store.keys.find_by_hash(&[hash(1)]).await.unwrap().is_none());
    assert_eq!(moved(HashKind::Sha256, 9).await, Moved::Rows(0), "another gateway was first");
    assert!(store.keys.find_by_hash(&[hash(9)]).await.unwrap().is_none());
}

fn use_of(key: &ApiKey, moment: &str, number: u64) -> UsageEvent {
    UsageEvent {
        id: event_id(moment, number),
        request_id: format!("request-{number}"),
        client_id: key.client_id,
        api_key_id: Some(key.id),
        token_id: None,
        occurred_at: at(moment),
        route: "orders".to_owned(),
        method: "GET",
        status: Some(200),
        outcome: Outcome::Complete,
        reason: None,
        duration_us: 1,
        bytes_in: 0,
        bytes_out: 0,
        units: 1,
        node: "n".to_owned(),
        kind: EventKind::Request,
    }
}

async fn last_use_follows_the_events_coarsely_and_silently(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let busy = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let idle = store.keys.create(new_key(owner.id, hash(2))).await.unwrap();
    let last_use = async |key: &ApiKey| store.keys.find(key.id).await.unwrap().unwrap().last_used_at;
    let mut reader = store.changes.follow().await.unwrap();
    let batch = |moments: &[&str], number: u64| -> Vec<UsageEvent> {
        (number..).zip(moments).map(|(number, moment)| use_of(&busy, moment, number)).collect()
    };
    for (number, moments, expected, why) in [
        (
            10,
            &["2026-11-22T20:00:00Z", "2026-11-22T20:00:30Z", "2026-11-22T20:00:20Z"][..],
            "2026-11-22T20:00:30Z",
            "the latest",
        ),
        (20, &["2026-11-22T20:01:29Z"], "2026-11-22T20:00:30Z", "less than a minute is no write"),
        (30, &["2026-11-22T20:01:31Z"], "2026-11-22T20:01:31Z", "a minute is one"),
        (40, &["2026-11-22T19:00:00Z"], "2026-11-22T20:01:31Z", "never backward"),
        (30, &["2026-11-22T20:01:31Z"], "2026-11-22T20:01:31Z", "a repeated batch"),
    ] {
        store.usage.record(&batch(moments, number)).await.unwrap();
        assert_eq!(last_use(&busy).await, Some(at(expected)), "{why}");
    }
    // Events without a key, and of one that is gone, trouble nobody.
    let nobody = UsageEvent { api_key_id: None, ..use_of(&busy, "2026-11-22T20:05:00Z", 50) };
    let gone =
        UsageEvent { api_key_id: Some(ApiKeyId(Uuid::from_u128(9))), ..use_of(&busy, "2026-11-22T20:05:00Z", 51) };
    assert_eq!(store.usage.record(&[nobody, gone, use_of(&busy, "2026-11-22T20:06:00Z", 52)]).await.unwrap(), 3);
    assert_eq!(last_use(&busy).await, Some(at("2026-11-22T20:06:00Z")));
    assert_eq!(last_use(&idle).await, None);
    assert_eq!(reader.poll().await.unwrap(), [], "no cache hears of a use");
    // As an operator's SQL writes it.
    let zone = if place.dialect() == "postgres" { "+00" } else { "" };
    place.must(&format!("UPDATE api_keys SET last_used_at = '2026-11-22 21:00:00{zone}'")).await;
    store.usage.record(&batch(&["2026-11-22T21:00:30Z"], 60)).await.unwrap();
    assert_eq!(last_use(&busy).await, Some(at("2026-11-22T21:00:00Z")));
    store.usage.record(&batch(&["2026-11-22T21:02:00Z"], 61)).await.unwrap();
    assert_eq!(last_use(&busy).await, Some(at("2026-11-22T21:02:00Z")));
    assert_eq!(last_use(&idle).await, Some(at("2026-11-22T21:00:00Z")));
}

/// An operator who left a transaction open must not hold up what is billed.
#[tokio::test(flavor = "multi_thread")]
async fn events_do_not_wait_for_a_key_s_row() {
    let place = Place::postgres().await;
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let key = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let operator = crate::postgres::connect(place.postgres_url().unwrap()).await;
    operator.batch_execute("BEGIN; UPDATE api_keys SET name = 'held'").await.unwrap();
    let events = [use_of(&key, "2026-11-22T20:00:00Z", 1)];
    let recorded = tokio::time::timeout(std::time::Duration::from_secs(10), store.usage.record(&events)).await;
    assert_eq!(recorded.expect("it does not wait").unwrap(), 1);
    operator.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.keys.find(key.id).await.unwrap().unwrap().last_used_at, None, "the next batch will tell");
    store.usage.record(&[use_of(&key, "2026-11-22T20:00:01Z", 2)]).await.unwrap();
    assert_eq!(store.keys.find(key.id).await.unwrap().unwrap().last_used_at, Some(at("2026-11-22T20:00:01Z")));
    place.remove().await;
}
