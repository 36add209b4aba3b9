//! A change of pepper: no key stops working, hashes move by being used, and the old pepper goes
//! only when nothing needs it.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::callers::{Crowd, fetch};
use crate::database::TestDatabase;
use crate::harness::{Gateway, Key, PEPPER, Setup, eventually, text};
use crate::stores::{Place, on_both};
use crate::upstream::Upstream;
use octroi::model::addresses::AddressRanges;
use octroi::model::client::NewClient;
use octroi::model::key::{HashKind, KeyHash, NewApiKey};
use octroi::store::Store;
use octroi::store::rotation::{HashCounts, HashMove, MoveTarget, Moved, NodeRecord};

on_both!(
    a_hash_moves_only_where_no_live_process_loses_it,
    moving_is_no_change_and_moves_keys_and_clients_once,
    credentials_are_counted_by_the_pepper_they_need,
    processes_that_lack_a_pepper_are_named,
    a_version_is_noted_once,
);

pub(crate) const NEXT: &str = "the pepper that comes next: 0123456789abcdef0123456789abcdef";

fn hash(number: u8) -> KeyHash {
    KeyHash([number; 32])
}

fn node(number: u128, pepper: &str, previous: Option<&str>) -> NodeRecord {
    NodeRecord {
        id: Uuid::from_u128(number),
        name: "test".into(),
        pepper: pepper.into(),
        pepper_previous: previous.map(Into::into),
    }
}

fn target(everywhere_current: bool) -> MoveTarget {
    MoveTarget { version: 2, fingerprint: "new".into(), everywhere_current }
}

async fn key(store: &Store, number: u8, pepper_version: Option<i32>) {
    let new = NewClient {
        name: "acme".into(),
        rate: None,
        burst: None,
        plan_id: None,
        quota: None,
        concurrency: None,
        metadata: serde_json::json!({}),
    };
    let owner = store.clients.create(new).await.unwrap();
    let new = NewApiKey {
        client_id: owner.id,
        name: "k".into(),
        key_id: None,
        hash: hash(number),
        pepper_version,
        scopes: octroi::model::access::Scopes::default(),
        rate: None,
        burst: None,
        allowed_addresses: AddressRanges::default(),
        expires_at: None,
    };
    store.keys.create(new).await.unwrap();
}

async fn a_hash_moves_only_where_no_live_process_loses_it(place: &Place) {
    let store = place.migrated().await;
    key(&store, 1, Some(1)).await;
    let there = [HashMove { kind: HashKind::Hmac, old: hash(1), new: hash(101) }];
    let back = [HashMove { kind: HashKind::Hmac, old: hash(101), new: hash(1) }];
    for (pepper, previous, forward, backward) in [
        ("new", Some("old"), true, true),
        ("new", None, true, true),
        ("old", Some("new"), true, false),
        ("old", None, false, false),
        ("old", Some("third"), false, false),
    ] {
        store.rotation.announce(&node(7, "new", Some("old"))).await.unwrap();
        store.rotation.announce(&node(8, pepper, previous)).await.unwrap();
        for (everywhere_current, moves) in [(false, forward), (true, backward)] {
            let expected = if moves { Moved::Rows(1) } else { Moved::Blocked };
            let what = format!("{pepper}, {previous:?}, everywhere_current: {everywhere_current}");
            assert_eq!(
                store.rotation.move_hashes(&there, &target(everywhere_current)).await.unwrap(),
                expected,
                "{what}"
            );
            assert_eq!(store.keys.find_by_hash(&[hash(101)]).await.unwrap().is_some(), moves, "{what}");
            if moves {
                let back = store.rotation.move_hashes(&back, &target(everywhere_current)).await.unwrap();
                assert_eq!(back, Moved::Rows(1));
            }
        }
        store.rotation.leave(Uuid::from_u128(8)).await.unwrap();
    }
    // One that did not say that it ends is waited for, and not for ever.
    store.rotation.announce(&node(9, "old", None)).await.unwrap();
    assert_eq!(store.rotation.move_hashes(&there, &target(false)).await.unwrap(), Moved::Blocked);
    let ago = |seconds| match place.dialect() {
        "postgres" => format!("now() - interval '{seconds} seconds'"),
        _ => format!("strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-{seconds} seconds')"),
    };
    place.must(&format!("UPDATE nodes SET seen_at = {} WHERE pepper = 'old'", ago(20))).await;
    assert_eq!(store.rotation.move_hashes(&there, &target(false)).await.unwrap(), Moved::Blocked);
    place.must(&format!("UPDATE nodes SET seen_at = {} WHERE pepper = 'old'", ago(31))).await;
    assert_eq!(store.rotation.move_hashes(&there, &target(false)).await.unwrap(), Moved::Rows(1));
    place.must(&format!("UPDATE nodes SET seen_at = {} WHERE pepper = 'old'", ago(4_000))).await;
    store.rotation.announce(&node(7, "new", Some("old"))).await.unwrap();
    assert_eq!(place.must("SELECT count(*) FROM nodes").await, ["1"], "what is long gone is forgotten");
}

async fn moving_is_no_change_and_moves_keys_and_clients_once(place: &Place) {
    let store = place.migrated().await;
    for (number, version) in [(1, Some(1)), (2, None), (3, Some(1)), (4, Some(2))] {
        key(&store, number, version).await;
    }
    // The same raw key in both tables, and a client that has only its own hash.
    place
        .must(&format!(
            "INSERT INTO clients (name, api_key_hash, api_key_pepper_version) VALUES ('both', '{}', 1)",
            hash(1).to_hex()
        ))
        .await;
    place.must(&format!("INSERT INTO clients (name, api_key_hash) VALUES ('own', '{}')", hash(5).to_hex())).await;
    let mut reader = store.changes.follow().await.unwrap();
    let to = |old: u8, new: u8| HashMove { kind: HashKind::Hmac, old: hash(old), new: hash(new) };
    // 3 would become what 4 is already: one raw key imported twice.
    let moves = [to(1, 101), to(2, 102), to(3, 4), to(5, 105), to(77, 177), to(1, 101)];
    assert_eq!(store.rotation.move_hashes(&moves, &target(false)).await.unwrap(), Moved::Rows(4));
    assert_eq!(store.rotation.move_hashes(&moves, &target(false)).await.unwrap(), Moved::Rows(0));
    assert_eq!(reader.poll().await.unwrap(), [], "a cached identity stays what it is");
    for (number, expected) in [(101, Some(2)), (102, Some(2)), (3, Some(1)), (4, Some(2)), (105, Some(2))] {
        let found = store.keys.find_by_hash(&[hash(number)]).await.unwrap().unwrap();
        assert_eq!(found.pepper_version, expected, "{number}");
    }
    assert!(store.keys.find_by_hash(&[hash(1), hash(2), hash(5)]).await.unwrap().is_none());
}

async fn credentials_are_counted_by_the_pepper_they_need(place: &Place) {
    let store = place.migrated().await;
    for (number, version) in [(1, Some(1)), (2, Some(1)), (3, Some(2)), (4, None), (5, Some(1)), (6, Some(1))] {
        key(&store, number, version).await;
    }
    let now = jiff::Timestamp::now();
    let gone = format!("api_key_hash = '{}'", hash(5).to_hex());
    place.must(&format!("UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP WHERE {gone}")).await;
    let over = format!("api_key_hash = '{}'", hash(6).to_hex());
    place.must(&format!("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00+00:00' WHERE {over}")).await;
    place.must(&format!("INSERT INTO clients (name, api_key_hash) VALUES ('own', '{}')", hash(7).to_hex())).await;
    let later = now + jiff::SignedDuration::from_mins(1);
    let counts = store.rotation.count_hashes(later).await.unwrap();
    assert_eq!(counts, HashCounts { by_version: vec![(1, 2), (2, 1)], unknown: 2 });
}

async fn processes_that_lack_a_pepper_are_named(place: &Place) {
    let store = place.migrated().await;
    for (number, pepper, previous) in [(1, "old", None), (2, "old", Some("new")), (3, "new", Some("old"))] {
        let named = NodeRecord { name: format!("node-{number}"), ..node(number, pepper, previous) };
        store.rotation.announce(&named).await.unwrap();
    }
    for (pepper, lacking) in [("old", vec![]), ("new", vec!["node-1"]), ("other", vec!["node-1", "node-2", "node-3"])] {
        assert_eq!(store.rotation.unaware(pepper).await.unwrap(), lacking, "{pepper}");
    }
}

async fn a_version_is_noted_once(place: &Place) {
    let store = place.migrated().await;
    place.must(&format!("INSERT INTO clients (name, api_key_hash) VALUES ('own', '{}')", hash(7).to_hex())).await;
    key(&store, 1, None).await;
    let found = async |number| store.keys.find_by_hash(&[hash(number)]).await.unwrap().unwrap();
    let (own, of_key) = (found(7).await.client.id, found(1).await.key.unwrap().id);
    for version in [3, 4] {
        // A move that came first has said what is true.
        store.rotation.note_client_pepper_version(own, version).await.unwrap();
        store.keys.note_pepper_version(of_key, version).await.unwrap();
        assert_eq!((found(7).await.pepper_version, found(1).await.pepper_version), (Some(3), Some(3)));
    }
}

fn ask(setup: &Setup, key: &Key) -> u16 {
    fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status
}

/// Keys under each pepper's version, and those whose pepper is not known.
pub(crate) fn counted(setup: &Setup) -> (Vec<(i64, i64, bool)>, i64) {
    let status = setup.json(&["pepper", "status"]);
    let number = |value: &Value| value.as_i64().unwrap();
    let of = |item: &Value| (number(&item["version"]), number(&item["keys"]), item["current"].as_bool().unwrap());
    (status["items"].as_array().unwrap().iter().map(of).collect(), number(&status["unknown"]))
}

pub(crate) fn set_peppers(setups: &mut [Setup; 2], current: &str, previous: &str) {
    for setup in setups {
        setup.set("API_KEY_PEPPER", current);
        setup.set("API_KEY_PEPPER_PREVIOUS", previous);
    }
}

/// One after the other, as a roll-out does; the callers of the other one go on.
pub(crate) fn restart(setups: &[Setup; 2], gateways: [Gateway; 2]) -> [Gateway; 2] {
    let [first, second] = gateways;
    assert_eq!(first.stop(), 0);
    let first = setups[0].start();
    assert_eq!(ask_any(&setups[0]), 401);
    assert_eq!(second.stop(), 0);
    [first, setups[1].start()]
}

fn ask_any(setup: &Setup) -> u16 {
    fetch(setup.data, "/", &["X-API-Key: nobody-has-this-one"]).status
}

/// Two processes on one store.
fn a_rotation_under_load(mut setups: [Setup; 2]) {
    let client = setups[0].client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let keys: Vec<Key> = (0..8).map(|_| setups[0].key(&client, &[])).collect();
    let (dormant, busy) = keys.split_last().unwrap();
    let mut gateways = [setups[0].start(), setups[1].start()];
    let crowds: Vec<Crowd> = setups
        .iter()
        .flat_map(|setup| busy.iter().map(|key| Crowd::start(setup.data, 1, "/", &key.raw, Duration::from_millis(5))))
        .collect();
    eventually("callers are served", || crowds.iter().all(|crowd| crowd.tally().count() > 10));

    // First everywhere both, the old one current; then swapped; nobody is refused meanwhile.
    set_peppers(&mut setups, PEPPER, NEXT);
    gateways = restart(&setups, gateways);
    assert_eq!(counted(&setups[0]), (vec![(1, 8, true)], 0));
    set_peppers(&mut setups, NEXT, PEPPER);
    gateways = restart(&setups, gateways);
    eventually("used keys are moved", || counted(&setups[0]) == (vec![(1, 1, false), (2, 7, true)], 0));

    // The last one was not used: the old pepper has to stay, and both say so.
    let left = setups[0].octroi(&["pepper", "rehash"]);
    assert_eq!(left.status.code(), Some(1));
    assert!(text(&left.stderr).contains("1 keys remain"), "{}", text(&left.stderr));
    set_peppers(&mut setups, NEXT, "");
    let refused = setups[0].octroi(&["serve"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("1 keys") && said.contains("API_KEY_PEPPER_PREVIOUS"), "{said}");
    assert_eq!(ask(&setups[1], dormant), 200);
    eventually("the last key is moved", || counted(&setups[0]) == (vec![(1, 0, false), (2, 8, true)], 0));
    assert_eq!(setups[0].json(&["pepper", "rehash"])["remaining"], 0);

    gateways = restart(&setups, gateways);
    for key in &keys {
        assert_eq!(ask(&setups[0], key), 200);
    }
    let answered: usize = crowds
        .into_iter()
        .map(|crowd| {
            let tally = crowd.stop();
            assert_eq!(tally.other_than(200), 0, "a known key was refused");
            tally.count()
        })
        .sum();
    assert!(answered > 500, "{answered}");
    for gateway in gateways {
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn under_load_on_sqlite() {
    let upstream = Upstream::start_counting();
    let first = Setup::sqlite(upstream.address);
    let shared = format!("sqlite:{}", first.path("octroi.db").display());
    let second = Setup::new(upstream.address, &shared, "");
    a_rotation_under_load([first, second]);
}

#[test]
fn under_load_on_postgres() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    a_rotation_under_load([(); 2].map(|()| Setup::new(upstream.address, &database.url(), "")));
}

#[test]
fn a_process_that_knows_only_the_old_pepper_holds_every_move_up() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let [old, mut new] = [(); 2].map(|()| Setup::new(upstream.address, &database.url(), ""));
    let key = old.key(&old.client(&["acme"]), &[]);
    let behind = old.start();
    new.set("API_KEY_PEPPER", NEXT);
    new.set("API_KEY_PEPPER_PREVIOUS", PEPPER);
    let _ahead = new.start();
    assert_eq!((ask(&new, &key), ask(&old, &key)), (200, 200));
    // Refreshes would be slow to show it: other keys ask in its place.
    for _ in 0..20 {
        let other = old.key("acme", &[]);
        assert_eq!((ask(&new, &other), ask(&old, &other)), (200, 200));
    }
    assert_eq!(counted(&new), (vec![(1, 21, false), (2, 0, true)], 0));
    assert_eq!(behind.stop(), 0);
    eventually("what is used moves when it is gone", || {
        let other = old.key("acme", &[]);
        assert_eq!(ask(&new, &other), 200);
        counted(&new).0[1].1 > 0
    });
}
