//! Refusals: alike for every key that opens nothing, and free of whatever need not be done.

use std::sync::Arc;

use http::HeaderMap;

use crate::auth::testing::Bench;
use crate::crypto::key_text::{Environment, check_digits, generate};
use crate::crypto::pepper::hashes_made;
use crate::model::clock::Clock as _;

use super::{GOOD, SECOND};

/// Ways to be a key that opens nothing, and the private reason.
const DEAD: [(&str, &str); 6] = [
    ("no-such-key-at-all", "unknown"),
    ("a-wrong-secret", "unknown"),
    ("revoked-before", "revoked"),
    ("revoked-while-known", "revoked"),
    ("expired-before", "expired"),
    ("expired-while-known", "expired"),
];

/// A key of ours with the public id of `key` and another secret.
fn with_another_secret(key: &str) -> String {
    let other = generate("octroi", Environment::Live);
    let id = &key[..key.len() - 38];
    let secret = &other.text.expose()[other.key_id.len()..other.key_id.len() + 32];
    let covered = format!("{id}{secret}");
    let check = String::from_utf8(check_digits(covered.as_bytes()).to_vec()).unwrap();
    covered + &check
}

/// A bench on which the key of each row of [`DEAD`] is dead, and the key.
async fn graveyard() -> Vec<(Arc<Bench>, String, &'static str)> {
    let mut graves = Vec::new();
    for (kind, reason) in DEAD {
        let bench = Bench::followed().await;
        let made = generate("octroi", Environment::Live);
        let good = made.text.expose();
        if kind != "no-such-key-at-all" {
            bench.add(good);
        }
        let soon = bench.clock.wall() + SECOND;
        match kind {
            "revoked-before" => bench.revoke(good),
            "expired-before" => bench.change(good, |record| record.key.as_mut().unwrap().expires_at = Some(soon)),
            "revoked-while-known" => {
                assert_eq!(bench.outcome(good).await, "ok");
                bench.revoke(good);
            }
            "expired-while-known" => {
                bench.change(good, |record| record.key.as_mut().unwrap().expires_at = Some(soon));
                assert_eq!(bench.outcome(good).await, "ok");
            }
            _ => {}
        }
        bench.pass(SECOND).await;
        let raw = if kind == "a-wrong-secret" { with_another_secret(good) } else { good.to_owned() };
        graves.push((bench, raw, reason));
    }
    graves
}

#[tokio::test]
async fn a_key_whose_time_is_over_costs_and_is_asked_for_like_one_that_never_was() {
    for (bench, raw, reason) in graveyard().await {
        let mut before = bench.store.look_ups();
        let mut asked = async |what: &str, expected: &str, look_ups: usize| {
            assert_eq!(bench.outcome(&raw).await, expected, "{what}");
            assert_eq!(bench.store.look_ups() - before, look_ups, "{what}: {reason}");
            before = bench.store.look_ups();
        };
        asked("first", reason, 1).await;
        asked("at once again", reason, 0).await;
        bench.pass(2 * SECOND).await;
        asked("after two seconds", reason, 1).await;
        for _ in 0..99 {
            asked("a loop", reason, 0).await;
        }
        asked("a loop, its budget spent", "too_many_failures", 0).await;
        assert!(bench.counted(r#"octroi_auth_cache_total{result="negative"} 100"#), "{reason}");
    }
}

#[tokio::test]
async fn a_key_whose_time_is_over_cannot_be_told_while_the_budget_is_spent_or_the_store_away() {
    for (bench, raw, reason) in graveyard().await {
        bench.store.set_away(true);
        bench.step().await;
        let without_store = bench.outcome(&raw).await;
        assert_eq!(without_store, "unavailable", "{reason}");
        bench.store.set_away(false);
        bench.step().await;
        for guess in 0..100 {
            bench.outcome(&format!("guess-number-{guess}")).await;
        }
        assert_eq!(bench.outcome(&raw).await, "too_many_failures", "{reason}");
    }
}

#[tokio::test]
async fn a_key_that_comes_back_to_life_works_after_two_seconds_at_the_latest() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    let now = bench.clock.wall();
    bench.change(GOOD, |record| record.key.as_mut().unwrap().expires_at = Some(now));
    assert_eq!(bench.outcome(GOOD).await, "expired");
    bench.change(GOOD, |record| record.key.as_mut().unwrap().expires_at = Some(now + 60 * SECOND));
    bench.tell_of(GOOD, false);
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.outcome(GOOD).await, "ok");
}

#[tokio::test]
async fn what_cannot_be_a_key_is_neither_hashed_nor_looked_up() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    let made = generate("octroi", Environment::Live);
    let ours = made.text.expose();
    let mistyped = ours.replace(&ours[20..40], &"0".repeat(20));
    let (cut, longer) = (&ours[..61], format!("{ours}0"));
    let (oversized, far_oversized) = ("x".repeat(257), "x".repeat(8_193));
    let jwt = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln";
    let jwt_only = {
        let mut route = crate::auth::testing::route();
        route.auth = crate::config::route::RouteAuth::Jwt;
        route
    };
    let begun = hashes_made();
    for (route, headers, reason) in [
        (&bench.route, &[][..], "missing"),
        (&bench.route, &[("x-api-key", GOOD), ("authorization", "Bearer another-key")], "ambiguous"),
        (&bench.route, &[("x-api-key", GOOD), ("x-api-key", GOOD)], "ambiguous"),
        (&bench.route, &[("x-api-key", GOOD), ("authorization", &format!("Bearer {jwt}"))], "ambiguous"),
        (&bench.route, &[("x-api-key", jwt)], "wrong_kind"),
        (&bench.route, &[("authorization", &format!("Bearer {jwt}"))], "wrong_kind"),
        (&jwt_only, &[("x-api-key", GOOD)], "wrong_kind"),
        (&jwt_only, &[("authorization", &format!("Bearer {GOOD}"))], "wrong_kind"),
        (&bench.route, &[("x-api-key", &mistyped)], "malformed"),
        (&bench.route, &[("authorization", &format!("Bearer {mistyped}"))], "malformed"),
        (&bench.route, &[("x-api-key", cut)], "malformed"),
        (&bench.route, &[("x-api-key", &longer)], "malformed"),
        (&bench.route, &[("x-api-key", &oversized)], "malformed"),
        (&bench.route, &[("authorization", &format!("Bearer {far_oversized}"))], "malformed"),
        (&bench.route, &[("x-api-key", "1234567")], "malformed"),
        (&bench.route, &[("x-api-key", "")], "malformed"),
        (&bench.route, &[("x-api-key", "not a key")], "malformed"),
        (&bench.route, &[("x-api-key", "käse-als-schlüssel")], "malformed"),
    ] {
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            sent.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        // Often: no budget is charged either.
        for _ in 0..150 {
            let refused = bench.send(route, &sent, "192.0.2.1").await.unwrap_err();
            assert_eq!(refused.reason(), reason, "{headers:?}");
        }
    }
    assert_eq!((hashes_made() - begun, bench.store.look_ups()), (0, 0));
    assert_eq!(bench.outcome(GOOD).await, "ok");
    assert!(hashes_made() > begun && bench.store.look_ups() == 1, "both counts count");
}
