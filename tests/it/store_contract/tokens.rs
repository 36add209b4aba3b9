//! Issued tokens and families of refresh tokens, on every store.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

use super::{client, hash, new_key};
use crate::stores::{Place, on_both};
use octroi::model::access::Scopes;
use octroi::model::client::Client;
use octroi::model::id::TokenId;
use octroi::model::issued::{Grant, NewRefreshToken, NewToken, TokenOrigin};
use octroi::model::key::ApiKey;
use octroi::store::Store;
use octroi::store::changes::Change;

on_both!(
    a_token_is_found_with_its_client_and_key,
    a_token_of_a_legacy_hash_knows_whether_that_is_still_there,
    a_refresh_token_is_exchanged_once_however_many_try,
    a_revoked_family_ends_whole_also_while_it_is_being_rotated,
    one_more_token_of_a_family_needs_the_family,
    ending_a_token_early_is_a_change_and_pruning_is_none,
);

struct Bench {
    store: Store,
    client: Client,
    key: ApiKey,
}

impl Bench {
    async fn new(place: &Place) -> Self {
        let store = place.migrated().await;
        let client = client(&store, "acme").await;
        let key = store.keys.create(new_key(client.id, hash(1))).await.unwrap();
        Self { store, client, key }
    }

    fn grant(&self) -> Grant {
        Grant {
            client_id: self.client.id,
            api_key_id: Some(self.key.id),
            scopes: Scopes::new(["orders:read".to_owned(), "a".to_owned()]).unwrap(),
            audience: Some("one two".to_owned()),
        }
    }

    fn token(&self, family_id: Option<Uuid>, expires_at: Timestamp) -> NewToken {
        NewToken {
            id: TokenId(Uuid::new_v4()),
            grant: self.grant(),
            family_id,
            subject: "subject".to_owned(),
            issued_at: at(0),
            expires_at,
        }
    }

    fn refresh(&self, number: u8, family_id: Uuid, parent_id: Option<Uuid>) -> NewRefreshToken {
        NewRefreshToken {
            id: Uuid::new_v4(),
            family_id,
            parent_id,
            hash: hash(number),
            nonce: [number; 16],
            grant: self.grant(),
            issued_at: at(0),
            expires_at: at(3_600),
        }
    }

    /// A family of one; its refresh token's row and its verification token's id.
    async fn family(&self, number: u8) -> (NewRefreshToken, TokenId) {
        let refresh = self.refresh(number, Uuid::new_v4(), None);
        let token = self.token(Some(refresh.family_id), at(300));
        let id = token.id;
        self.store.tokens.issue(token, Some(refresh.clone())).await.unwrap();
        (refresh, id)
    }
}

/// A time that every store keeps as it is.
fn at(seconds: i64) -> Timestamp {
    let now = Timestamp::from_second(4_000_000_000).unwrap();
    now + seconds.seconds()
}

async fn a_token_is_found_with_its_client_and_key(place: &Place) {
    let bench = Bench::new(place).await;
    let token = bench.token(None, at(300));
    bench.store.tokens.issue(token.clone(), None).await.unwrap();
    let found = bench.store.tokens.find(token.id).await.unwrap().unwrap();
    assert_eq!((found.id, &found.subject, &found.scopes), (token.id, &token.subject, &token.grant.scopes));
    assert_eq!((found.audience.as_deref(), found.issued_at, found.expires_at), (Some("one two"), at(0), at(300)));
    assert_eq!((&found.client, found.origin.key()), (&bench.client, Some(&bench.key)));
    assert_eq!(found.revoked_at, None);
    assert!(bench.store.tokens.find(TokenId(Uuid::new_v4())).await.unwrap().is_none());

    assert!(bench.store.tokens.revoke(token.id, at(10)).await.unwrap());
    assert!(!bench.store.tokens.revoke(token.id, at(20)).await.unwrap(), "once");
    assert_eq!(bench.store.tokens.find(token.id).await.unwrap().unwrap().revoked_at, Some(at(10)));

    let other = client(&bench.store, "other").await;
    place.must(&format!("UPDATE api_keys SET client_id = '{}'", other.id)).await;
    assert!(bench.store.tokens.find(token.id).await.unwrap().is_none(), "its key is another client's now");
}

async fn a_token_of_a_legacy_hash_knows_whether_that_is_still_there(place: &Place) {
    let bench = Bench::new(place).await;
    let token = bench.token(None, at(300));
    let grant = Grant { api_key_id: None, ..token.grant.clone() };
    bench.store.tokens.issue(NewToken { grant, ..token.clone() }, None).await.unwrap();
    let present = async || match bench.store.tokens.find(token.id).await.unwrap().unwrap().origin {
        TokenOrigin::LegacyHash { present } => present,
        TokenOrigin::Key(_) => panic!("it came from no key"),
    };
    assert!(!present().await);
    place.must(&format!("UPDATE clients SET api_key_hash = '{}'", hash(9).to_hex())).await;
    assert!(present().await);
}

async fn a_refresh_token_is_exchanged_once_however_many_try(place: &Place) {
    let bench = Bench::new(place).await;
    let (first, _) = bench.family(10).await;
    let found = bench.store.tokens.find_refresh(first.hash).await.unwrap().unwrap();
    assert_eq!((found.id, found.family_id, found.nonce), (first.id, first.family_id, first.nonce));
    assert_eq!((found.used_for, found.revoked_at, found.expires_at), (None, None, at(3_600)));
    assert_eq!((found.grant(), &found.client, &found.key), (bench.grant(), &bench.client, &bench.key));

    let attempt = async |number| {
        // Each is another process that computed the same successor.
        let store = place.open().await;
        let successor = bench.refresh(11, first.family_id, Some(first.id));
        let successor = NewRefreshToken { nonce: [number; 16], ..successor };
        store.tokens.rotate(first.id, successor, bench.token(Some(first.family_id), at(300))).await.unwrap()
    };
    let won = tokio::join!(attempt(1), attempt(2), attempt(3), attempt(4));
    assert_eq!([won.0, won.1, won.2, won.3].iter().filter(|won| **won).count(), 1);
    let used = bench.store.tokens.find_refresh(first.hash).await.unwrap().unwrap();
    assert!(used.used_for.is_some_and(|age| age < Duration::from_mins(1)), "by the store's clock: {:?}", used.used_for);
    let successor = bench.store.tokens.find_refresh(hash(11)).await.unwrap().unwrap();
    assert_eq!((successor.family_id, successor.used_for), (first.family_id, None));
    assert_eq!(place.must("SELECT count(*) FROM refresh_tokens").await, ["2"]);
    assert_eq!(place.must("SELECT count(*) FROM verification_tokens").await, ["2"]);
    let linked =
        "SELECT count(*) FROM refresh_tokens a JOIN refresh_tokens b ON a.successor_id = b.id AND b.parent_id = a.id";
    assert_eq!(place.must(linked).await, ["1"]);
}

async fn a_revoked_family_ends_whole_also_while_it_is_being_rotated(place: &Place) {
    let bench = Bench::new(place).await;
    let (bystander, _) = bench.family(200).await;
    for round in 0..20_u8 {
        let (first, token) = bench.family(2 * round).await;
        let rotate = async {
            let successor = bench.refresh(2 * round + 1, first.family_id, Some(first.id));
            let store = place.open().await;
            store.tokens.rotate(first.id, successor, bench.token(Some(first.family_id), at(300))).await.unwrap()
        };
        let revoke = bench.store.tokens.revoke_family(first.family_id, at(1));
        let (rotated, revoked) = tokio::join!(rotate, revoke);
        assert!(revoked.unwrap() >= 1, "rotated: {rotated}");
        let open = format!(
            "SELECT count(*) FROM refresh_tokens WHERE revoked_at IS NULL AND family_id = '{}'",
            first.family_id
        );
        assert_eq!(place.must(&open).await, ["0"], "rotated: {rotated}");
        let open = open.replace("refresh_tokens", "verification_tokens");
        assert_eq!(place.must(&open).await, ["0"], "rotated: {rotated}");
        assert!(bench.store.tokens.find(token).await.unwrap().unwrap().revoked_at.is_some());
        let next = bench.refresh(100 + round, first.family_id, Some(first.id));
        let again = bench.store.tokens.rotate(first.id, next, bench.token(Some(first.family_id), at(300))).await;
        assert!(!again.unwrap(), "a revoked one is not exchanged");
    }
    assert_eq!(bench.store.tokens.find_refresh(bystander.hash).await.unwrap().unwrap().revoked_at, None);
}

async fn one_more_token_of_a_family_needs_the_family(place: &Place) {
    let bench = Bench::new(place).await;
    let (first, _) = bench.family(10).await;
    let beside = async || {
        let token = bench.token(Some(first.family_id), at(300));
        let id = token.id;
        (bench.store.tokens.issue_beside(first.id, token).await.unwrap(), id)
    };
    let (stored, id) = beside().await;
    assert!(stored);
    assert_eq!(bench.store.tokens.revoke_family(first.family_id, at(1)).await.unwrap(), 1);
    assert!(bench.store.tokens.find(id).await.unwrap().unwrap().revoked_at.is_some());
    let (stored, id) = beside().await;
    assert!(!stored);
    assert!(bench.store.tokens.find(id).await.unwrap().is_none());
}

async fn ending_a_token_early_is_a_change_and_pruning_is_none(place: &Place) {
    let bench = Bench::new(place).await;
    let (_, token) = bench.family(10).await;
    let old = Timestamp::from_second(1_000_000_000).unwrap();
    bench.store.tokens.issue(bench.token(None, old), None).await.unwrap();
    let mut reader = bench.store.changes.follow().await.unwrap();
    reader.poll().await.unwrap();
    let mut told = async || reader.poll().await.unwrap().contains(&Change::Client(bench.client.id));
    assert!(bench.store.tokens.revoke(token, at(1)).await.unwrap());
    assert!(told().await);
    // What a reader was told once it may be told again, so that silence needs a fresh one.
    let mut reader = bench.store.changes.follow().await.unwrap();
    let before = reader.poll().await.unwrap().len();
    assert_eq!(bench.store.tokens.prune(at(-1), 10).await.unwrap(), 1, "the old one");
    assert!(reader.poll().await.unwrap().len() <= before);
    let later = bench.token(None, at(300));
    bench.store.tokens.issue(later.clone(), None).await.unwrap();
    place.must(&format!("DELETE FROM verification_tokens WHERE jti = '{}'", later.id)).await;
    assert!(reader.poll().await.unwrap().contains(&Change::Client(bench.client.id)), "plain SQL counts");
    assert_eq!(bench.store.tokens.prune(at(7_200), 10).await.unwrap(), 2, "a token and a refresh token");
}
