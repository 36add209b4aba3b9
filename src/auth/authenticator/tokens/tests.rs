//! A token goes the way of a key: cache, budget, look-up, judgement.

use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::task::JoinSet;

use super::*;
use crate::auth::jwt::Issuers;
use crate::auth::jwt::testing::{Signer, key_set};
use crate::auth::testing::{Bench, START, outcome};
use crate::clients::{CredentialKind, Principal};
use crate::config::token_issuer::{KeyLocation, TokenIssuerConfig, TokenTypes};
use crate::model::client::ClientStatus;
use crate::model::token::TokenAlgorithm;

/// The issuer's key, and one that is nobody's.
static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new("key", "EdDSA"));
static STRANGER: LazyLock<Signer> = LazyLock::new(|| Signer::new("key", "EdDSA"));

const KEY: &str = "a-good-legacy-key";

/// An authenticator that believes an issuer, and knows one client, `client 1`.
async fn bench() -> Arc<Bench> {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key_set(&[&SIGNER])).unwrap();
    let rules = TokenIssuerConfig {
        issuer: "issuer".into(),
        audiences: vec!["api".into()],
        algorithms: vec![TokenAlgorithm::EdDSA],
        keys: KeyLocation::File(file.path().to_owned()),
        client_claim: "client_id".into(),
        scopes_claim: "scope".into(),
        leeway: Duration::from_secs(30),
        max_lifetime: Duration::from_hours(24),
        types: TokenTypes { named: vec!["at+jwt".into()], absent: false },
    };
    let bench = Bench::with_issuers(Duration::from_secs(1), |clock| Issuers::new(&[rules], clock).unwrap());
    bench.authenticator.issuers.start(&bench.authenticator.tasks, &bench.metrics);
    bench.step().await;
    bench.add(KEY);
    // The first token waits for the keys; the file may go then. From elsewhere: it is charged.
    let malformed = headers(&token(&SIGNER, &json!({ "client_id": "" })));
    assert_eq!(outcome(&bench.send(&bench.route, &malformed, "203.0.113.1").await), "jwt_claim");
    bench
}

fn token(signer: &Signer, more: &Value) -> String {
    let start = START.parse::<jiff::Timestamp>().unwrap().as_second();
    let mut claims = json!({ "iss": "issuer", "aud": "api", "client_id": "client 1", "exp": start + 3_600 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signer.token(&claims)
}

fn good(number: u32) -> String {
    token(&SIGNER, &json!({ "jti": number.to_string(), "sub": "user", "scope": "a b" }))
}

async fn call(bench: &Bench, token: &str) -> Result<Arc<Principal>, AuthError> {
    bench.send(&bench.route, &headers(token), "192.0.2.1").await
}

fn headers(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

async fn ends(bench: &Bench, token: &str) -> &'static str {
    outcome(&call(bench, token).await)
}

#[tokio::test]
async fn a_token_s_identity_is_its_client_and_its_own_claims() {
    let bench = bench().await;
    let id = "0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d";
    let principal = call(&bench, &token(&SIGNER, &json!({ "jti": id, "sub": "user", "scope": "a b" }))).await.unwrap();
    assert_eq!(principal.kind, CredentialKind::Jwt);
    assert!(principal.token_id.is_nil(), "only tokens of our own have rows");
    assert!(principal.api_key_id.is_nil());
    assert_eq!(principal.scopes.to_string(), "a b");
    assert_eq!(principal.headers.subject.as_deref().unwrap(), "user");
    assert_eq!(principal.headers.client_name.as_ref().unwrap(), "client%201");
    let by_key = bench.call(KEY).await.unwrap();
    assert!(Arc::ptr_eq(&principal.client, &by_key.client), "one client, one limit");
}

#[tokio::test]
async fn many_tokens_of_one_client_read_it_once() {
    let bench = bench().await;
    bench.store.hold(true);
    let mut crowd = JoinSet::new();
    for number in 0..50 {
        let bench = Arc::clone(&bench);
        crowd.spawn(async move { ends(&bench, &good(number)).await });
    }
    bench.store.looked_up(1).await;
    bench.store.hold(false);
    assert!(crowd.join_all().await.into_iter().all(|outcome| outcome == "ok"));
    for number in 0..50 {
        assert_eq!(ends(&bench, &good(number)).await, "ok");
    }
    assert_eq!(bench.store.look_ups(), 1);
}

#[tokio::test]
async fn a_change_of_the_client_is_obeyed_and_read_once() {
    let bench = bench().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
    bench.change(KEY, |record| record.client.status = ClientStatus::Suspended);
    assert_eq!(ends(&bench, &good(1)).await, "ok", "nobody has told yet");
    bench.tell_of(KEY, false);
    bench.step().await;
    assert_eq!(ends(&bench, &good(1)).await, "client_suspended");
    assert_eq!(ends(&bench, &good(2)).await, "client_suspended");
    assert_eq!(bench.store.look_ups(), 2);
    bench.change(KEY, |record| record.client.name = "renamed".into());
    bench.tell_of(KEY, false);
    bench.step().await;
    assert_eq!(ends(&bench, &good(1)).await, "jwt_unknown_client");
}

#[tokio::test]
async fn a_row_that_changed_while_it_was_read_is_used_once() {
    let bench = bench().await;
    let clients = Arc::clone(&bench.clients);
    *bench.store.meanwhile.lock().unwrap() = Some(Box::new(move || clients.bump_all()));
    assert_eq!((ends(&bench, &good(1)).await, bench.store.look_ups()), ("ok", 3), "three reads, the last one counts");
    assert_eq!((ends(&bench, &good(1)).await, bench.store.look_ups()), ("ok", 6), "and is not cached");
    *bench.store.meanwhile.lock().unwrap() = None;
    assert_eq!((ends(&bench, &good(1)).await, bench.store.look_ups()), ("ok", 7));
    assert_eq!((ends(&bench, &good(1)).await, bench.store.look_ups()), ("ok", 7));
}

#[tokio::test]
async fn a_token_ends_at_its_expiry_though_it_is_cached() {
    let bench = bench().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
    bench.pass(Duration::from_secs(3_629)).await;
    assert_eq!(ends(&bench, &good(1)).await, "ok", "within the leeway");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(ends(&bench, &good(1)).await, "jwt_expired");
    assert_eq!(ends(&bench, &good(2)).await, "jwt_expired");
}

#[tokio::test]
async fn while_the_store_is_away_the_known_serve_and_the_unknown_wait() {
    let bench = bench().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
    bench.store.set_away(true);
    bench.step().await;
    assert_eq!(ends(&bench, &good(2)).await, "ok", "another token of a client that is known");
    bench.pass(Duration::from_mins(5)).await;
    assert_eq!(ends(&bench, &good(1)).await, "ok", "unconfirmed, and good for max_stale");
    assert_eq!(ends(&bench, &token(&SIGNER, &json!({ "client_id": "client 2" }))).await, "unavailable");
    assert_eq!(ends(&bench, &token(&STRANGER, &json!({}))).await, "jwt_signature", "no store is needed to see that");
    bench.pass(Duration::from_mins(6)).await;
    assert_eq!(ends(&bench, &good(1)).await, "unavailable");
    bench.store.set_away(false);
    bench.step().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
}

#[tokio::test]
async fn what_does_not_hold_is_charged_and_what_cannot_be_judged_is_not() {
    let bench = bench().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
    bench.store.set_away(true);
    for number in 0..200 {
        let nobody = json!({ "client_id": "client 2", "jti": number.to_string() });
        assert_eq!(ends(&bench, &token(&SIGNER, &nobody)).await, "unavailable");
    }
    bench.store.set_away(false);
    for _ in 0..100 {
        assert_eq!(ends(&bench, &token(&STRANGER, &json!({}))).await, "jwt_signature");
    }
    assert_eq!(ends(&bench, &token(&STRANGER, &json!({}))).await, "too_many_failures");
    assert_eq!(ends(&bench, &good(2)).await, "too_many_failures", "not known: it might be forged");
    assert_eq!(ends(&bench, &good(1)).await, "ok", "known");
    assert!(bench.counted(r#"octroi_auth_total{result="refused",reason="jwt_signature"} 100"#));
}

#[tokio::test]
async fn memory_is_given_back() {
    let bench = bench().await;
    assert_eq!(ends(&bench, &good(1)).await, "ok");
    bench.clock.advance(Duration::from_mins(11));
    assert!(bench.sweeps_to(0).await, "the token held its client");
}

#[tokio::test]
async fn tokens_that_name_nobody_have_the_store_asked_once_in_two_seconds() {
    let bench = bench().await;
    let naming = |name: &str, number: u32| token(&SIGNER, &json!({ "client_id": name, "jti": number.to_string() }));
    bench.add("one-of-two");
    bench.add("other-of-two");
    for raw in ["one-of-two", "other-of-two"] {
        bench.change(raw, |record| record.client.name = "twins".into());
    }
    for (name, refusal) in [("client 4", "jwt_unknown_client"), ("twins", "jwt_ambiguous_client")] {
        let before = bench.store.look_ups();
        for number in 0..20 {
            assert_eq!(ends(&bench, &naming(name, number)).await, refusal);
        }
        assert_eq!(bench.store.look_ups() - before, 1, "{name}");
        bench.pass(Duration::from_secs(2)).await;
        assert_eq!(ends(&bench, &naming(name, 0)).await, refusal);
        assert_eq!(bench.store.look_ups() - before, 2, "{name}");
    }
    // Its client is made: the change says so at once.
    assert_eq!(ends(&bench, &naming("client 4", 1)).await, "jwt_unknown_client");
    bench.add("key-of-client-4");
    bench.tell_of("key-of-client-4", true);
    bench.step().await;
    assert_eq!(ends(&bench, &naming("client 4", 1)).await, "ok");
    assert_eq!(ends(&bench, &good(1)).await, "ok", "others are not concerned");
}

#[tokio::test]
async fn a_thousand_first_uses_of_one_token_verify_it_no_oftener_than_the_budget_holds() {
    let bench = bench().await;
    let all_at_once = async |number| {
        let verified = || {
            let text = bench.metrics.encode().unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(r#"octroi_auth_cache_total{result="miss"} "#));
            line.map_or(0, |count| count.parse::<u32>().unwrap())
        };
        let (before, mut crowd) = (verified(), JoinSet::new());
        for _ in 0..1_000 {
            let bench = Arc::clone(&bench);
            crowd.spawn(async move { ends(&bench, &good(number)).await });
        }
        assert!(crowd.join_all().await.into_iter().all(|outcome| outcome == "ok"));
        verified() - before
    };
    let cold = all_at_once(1).await;
    assert!((1..=100).contains(&cold), "{cold} verifications while the client was looked up");
    assert_eq!(all_at_once(2).await, 1, "a client that is known is not waited for");
}
