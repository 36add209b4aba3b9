//! Clients that were erased: they stay suspended, and other processes can ask which they are.

use super::{client, hash, new_key};
use crate::stores::{Place, on_both};
use octroi::model::access::Scopes;
use octroi::model::admin::{NewAdminToken, Reach};
use octroi::model::client::{ClientChange, ClientStatus};
use octroi::model::key::{HashKind, ImportedKey};
use octroi::model::operator::Role;
use octroi::store::StoreError;

on_both!(an_erased_client_is_suspended_for_good, who_was_erased_lately_is_told,);

fn becomes(status: ClientStatus) -> ClientChange {
    ClientChange { status: Some(status), ..ClientChange::default() }
}

async fn an_erased_client_is_suspended_for_good(place: &Place) {
    let store = place.migrated().await;
    let (erased, other) = (client(&store, "acme").await, client(&store, "globex").await);
    store.keys.create(new_key(erased.id, hash(1))).await.unwrap();
    store.erasure.erase(erased.id, erased.created_at).await.unwrap().unwrap();
    let named = ClientChange { name: Some("Jane again".to_owned()), ..ClientChange::default() };
    for change in [becomes(ClientStatus::Active), named] {
        let changed = store.clients.update(erased.id, change).await;
        assert!(matches!(&changed, Err(StoreError::Conflict(said)) if said.contains("erased")), "{changed:?}");
    }
    assert!(store.clients.find(erased.id).await.unwrap().unwrap().is_suspended());
    // Nothing is made for it, either.
    let made = store.keys.create(new_key(erased.id, hash(2))).await;
    assert!(matches!(&made, Err(StoreError::Conflict(said)) if said.contains("erased")), "{made:?}");
    let imported = ImportedKey {
        client_id: erased.id,
        name: "legacy".to_owned(),
        key_id: None,
        hash: hash(4),
        hash_kind: HashKind::Hmac,
        pepper_version: None,
        scopes: Scopes::default(),
        expires_at: None,
        created_at: None,
    };
    let made =
        store.keys.import(vec![ImportedKey { client_id: other.id, hash: hash(5), ..imported.clone() }, imported]).await;
    assert!(matches!(&made, Err(StoreError::Conflict(said)) if said.contains("erased")), "{made:?}");
    assert!(store.keys.list(Some(other.id), None, 10).await.unwrap().items.is_empty(), "all of them or none");
    let token = NewAdminToken {
        name: "back".to_owned(),
        token_id: "octroi_admin_back".to_owned(),
        hash: hash(3),
        reach: Reach { role: Role::Support, clients: vec![other.id, erased.id] },
        expires_at: None,
    };
    let made = store.admin_tokens.create(token).await;
    assert!(matches!(&made, Err(StoreError::Conflict(said)) if said.contains("erased")), "{made:?}");
    // Others may be resumed.
    store.clients.update(other.id, becomes(ClientStatus::Suspended)).await.unwrap();
    let resumed = store.clients.update(other.id, becomes(ClientStatus::Active)).await.unwrap().unwrap();
    assert!(!resumed.is_suspended());
}

async fn who_was_erased_lately_is_told(place: &Place) {
    let (store, elsewhere) = (place.migrated().await, place.open().await);
    let (first, second) = (client(&store, "acme").await, client(&store, "globex").await);
    let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
    store.erasure.erase(first.id, at(1_000)).await.unwrap();
    store.erasure.erase(second.id, at(2_000)).await.unwrap();
    // Again changes nothing: it was erased then.
    store.erasure.erase(first.id, at(3_000)).await.unwrap();
    let mut all = elsewhere.erasure.erased_since(at(1_000)).await.unwrap();
    all.sort_unstable();
    let mut expected = vec![first.id, second.id];
    expected.sort_unstable();
    assert_eq!(all, expected);
    assert_eq!(elsewhere.erasure.erased_since(at(1_001)).await.unwrap(), [second.id]);
    assert!(elsewhere.erasure.erased_since(at(2_001)).await.unwrap().is_empty());
}
