//! Hashes of every kind: under either pepper, imported, a client's own.

use std::sync::atomic::Ordering;

use crate::auth::testing::Bench;
use crate::model::id::ApiKeyId;
use crate::model::key::{CredentialRecord, HashKind};
use crate::store::rotation::Moved;

use super::GOOD;

#[tokio::test]
async fn keys_hashed_under_either_pepper_are_found_and_their_version_noted() {
    let bench = Bench::followed().await;
    let old = bench.add_under_previous(GOOD);
    bench.add("key-without-version");
    bench.change("key-without-version", |record| record.pepper_version = None);
    bench.add("hash-of-a-client");
    bench.change("hash-of-a-client", |record| (record.pepper_version, record.key) = (None, None));
    assert_eq!(bench.outcome("hash-of-a-client").await, "ok");
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("key-without-version").await), ("ok", "ok"));
    assert_eq!(bench.call(GOOD).await.unwrap().client.id, old.client.id);
    while bench.store.noted_versions.lock().unwrap().is_empty() || bench.store.noted_clients.lock().unwrap().is_empty()
    {
        tokio::task::yield_now().await;
    }
    let noted = bench.store.noted_versions.lock().unwrap().clone();
    assert_eq!(noted.iter().map(|(_, version)| *version).collect::<Vec<_>>(), [2], "only what was not known");
    assert_eq!(bench.store.noted_clients.lock().unwrap().iter().map(|(_, version)| *version).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_key_found_under_the_other_pepper_is_moved_once_every_process_knows_this_one() {
    let bench = Bench::followed().await;
    let old = bench.add_under_previous(GOOD);
    let _ = bench.add("a-key-under-this-pepper");
    bench.store.blocked.store(true, Ordering::SeqCst);
    let rehasher = bench.authenticator.rehasher();
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("a-key-under-this-pepper").await), ("ok", "ok"));
    assert_eq!(rehasher.step().await, Moved::Blocked);
    assert_eq!(bench.store.moved.lock().unwrap().len(), 0);

    bench.store.blocked.store(false, Ordering::SeqCst);
    assert_eq!(rehasher.step().await, Moved::Rows(1));
    assert_eq!(rehasher.step().await, Moved::Rows(0));
    let moved = bench.store.moved.lock().unwrap().clone();
    assert_eq!((moved.len(), moved[0].old), (1, old.matched), "that key only");
    assert_ne!(moved[0].new, moved[0].old);
}

#[tokio::test]
async fn an_imported_key_passes_at_once_and_is_hashed_again_off_the_path() {
    let bench = Bench::followed().await;
    let imported = bench.add_imported(GOOD);
    assert_eq!(bench.call(GOOD).await.unwrap().client.id, imported.client.id);
    assert_eq!(bench.authenticator.rehasher().step().await, Moved::Rows(1));
    let moved = bench.store.moved.lock().unwrap()[0];
    assert_eq!((moved.kind, moved.old), (HashKind::Sha256, imported.matched));
    assert_ne!(moved.new, moved.old);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    assert_eq!(bench.store.look_ups(), 1, "nobody's identity was voided by it");
}

#[tokio::test]
async fn a_plain_hash_counts_only_where_the_row_says_so() {
    let bench = Bench::followed().await;
    for (raw, spoil) in [
        (
            "plain-but-hmac",
            (|record: &mut CredentialRecord| record.key.as_mut().unwrap().hash_kind = HashKind::Hmac)
                as fn(&mut CredentialRecord),
        ),
        ("plain-of-client", |record: &mut CredentialRecord| record.key = None),
    ] {
        bench.add_imported(raw);
        bench.change_imported(raw, spoil);
        assert_eq!(bench.outcome(raw).await, "unknown", "{raw}");
    }
    bench.add(GOOD);
    bench.change(GOOD, |record| record.key.as_mut().unwrap().hash_kind = HashKind::Sha256);
    assert_eq!(bench.outcome(GOOD).await, "unknown", "a row that says SHA-256 is not matched by an HMAC");
    assert_eq!(bench.authenticator.rehasher().step().await, Moved::Rows(0));
}

#[tokio::test]
async fn a_client_s_legacy_hash_has_no_key() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.change(GOOD, |record| record.key = None);
    let principal = bench.call(GOOD).await.unwrap();
    assert_eq!(principal.api_key_id, ApiKeyId::NIL);
    assert!(principal.headers.key_id.is_none() && principal.headers.client_id.is_some());
}
