//! What authentication promises, in order of its steps.

mod changes;
mod hashes;
mod look_ups;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::auth::testing::{Bench, outcome, route};
use crate::clients::CredentialKind;
use crate::config::route::RouteAuth;
use crate::crypto::key_text::{Environment, generate};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::ClientStatus;
use crate::model::clock::Clock as _;
use crate::model::id::ApiKeyId;

const GOOD: &str = "a-good-legacy-key";

const SECOND: Duration = Duration::from_secs(1);

fn scopes(names: &[&str]) -> Scopes {
    Scopes::new(names.iter().map(ToString::to_string)).unwrap()
}

#[tokio::test]
async fn a_known_key_is_its_client() {
    let bench = Bench::followed().await;
    let made = generate("octroi", Environment::Live);
    let raw = made.text.expose();
    let record = bench.add(raw);
    bench.change(raw, |record| record.key.as_mut().unwrap().scopes = scopes(&["orders:read", "orders:write"]));
    let principal = bench.call(raw).await.unwrap();
    assert_eq!(principal.client.id, record.client.id);
    assert_eq!(principal.api_key_id, record.key.unwrap().id);
    assert_eq!(principal.kind, CredentialKind::Key);
    let headers = &principal.headers;
    let text = |value: &Option<http::HeaderValue>| value.as_ref().unwrap().to_str().unwrap().to_owned();
    assert_eq!(text(&headers.client_id), record.client.id.to_string());
    assert_eq!(text(&headers.client_name), "client%201");
    assert_eq!(text(&headers.key_id), "octroi_live_000000000001");
    assert_eq!(headers.scopes.as_deref().unwrap(), "orders:read orders:write");
    assert!(headers.subject.is_none());

    assert!(Arc::ptr_eq(&principal, &bench.call(raw).await.unwrap()), "the second time from the cache");
    assert_eq!(bench.store.look_ups(), 1);
    assert!(bench.counted(r#"octroi_auth_cache_total{result="hit"} 1"#));
    assert!(bench.counted(r#"octroi_auth_total{result="ok",reason=""} 2"#));
}

#[tokio::test]
async fn every_refusal_has_its_reason() {
    let bench = Bench::followed().await;
    for raw in ["revoked-key", "expired-key", "suspended-key", "revoked-of-suspended"] {
        bench.add(raw);
    }
    let now = bench.clock.wall();
    bench.change("revoked-key", |record| record.key.as_mut().unwrap().revoked_at = Some(now));
    bench.change("expired-key", |record| record.key.as_mut().unwrap().expires_at = Some(now));
    bench.change("suspended-key", |record| record.client.status = ClientStatus::Suspended);
    bench.change("revoked-of-suspended", |record| {
        record.client.status = ClientStatus::Suspended;
        record.key.as_mut().unwrap().revoked_at = Some(now);
    });
    let jwt_only = crate::config::route::RouteConfig { auth: RouteAuth::Jwt, ..route() };
    for (route, name, value, reason) in [
        (&bench.route, "x-other", "whatever-key", "missing"),
        (&bench.route, "authorization", "Basic dXNlcjpwYXNz", "missing"),
        (&bench.route, "x-api-key", "short", "malformed"),
        (&bench.route, "x-api-key", "octroi_live_not-one-of-ours", "malformed"),
        (&bench.route, "authorization", "Bearer", "malformed"),
        (&bench.route, "authorization", "Bearer e30.e30.e30", "wrong_kind"),
        (&bench.route, "x-api-key", "e30.e30.e30", "wrong_kind"),
        (&jwt_only, "x-api-key", "revoked-key", "wrong_kind"),
        (&bench.route, "x-api-key", "unknown-key", "unknown"),
        (&bench.route, "x-api-key", "revoked-key", "revoked"),
        (&bench.route, "x-api-key", "expired-key", "expired"),
        (&bench.route, "x-api-key", "suspended-key", "client_suspended"),
        (&bench.route, "x-api-key", "revoked-of-suspended", "revoked"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        // The second time from a cache: the same answer.
        for attempt in ["first", "second"] {
            let result = bench.send(route, &headers, "192.0.2.1").await;
            assert_eq!(outcome(&result), reason, "{name}: {value}, {attempt} time");
        }
        let line = format!(r#"octroi_auth_total{{result="refused",reason="{reason}"}} "#);
        assert!(bench.metrics.encode().unwrap().contains(&line), "{reason} is counted");
    }
}

#[tokio::test]
async fn an_open_route_asks_for_nothing() {
    let bench = Bench::followed().await;
    let open = crate::config::route::RouteConfig { auth: RouteAuth::None, ..route() };
    let mut headers = HeaderMap::new();
    headers.append("x-api-key", "one-key-here".parse().unwrap());
    headers.append("x-api-key", "another-key".parse().unwrap());
    let principal = bench.send(&open, &headers, "192.0.2.1").await.unwrap();
    assert!(principal.client.id.is_nil() && principal.api_key_id == ApiKeyId::NIL);
    assert_eq!(principal.kind, CredentialKind::None);
    assert_eq!(bench.store.look_ups(), 0);
}

#[tokio::test]
async fn scopes_are_judged_for_every_request() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.change(GOOD, |record| record.key.as_mut().unwrap().scopes = scopes(&["orders:*"]));
    let principal = bench.call(GOOD).await.unwrap();
    for (asked, reason) in [(&["orders:read"][..], "ok"), (&[], "ok"), (&["users:read"], "insufficient_scope")] {
        let route = crate::config::route::RouteConfig { scopes: scopes(asked), ..route() };
        let answer = bench.authenticator.authorize(&route, &principal, "192.0.2.1".parse().unwrap());
        assert_eq!(answer.map_or_else(|error| error.reason(), |()| "ok"), reason, "{asked:?}");
    }
}

#[tokio::test]
async fn addresses_are_judged_for_every_request_and_before_scopes() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    let ranges = AddressRanges::new(["192.0.2.0/24", "2001:db8::/32"]).unwrap();
    bench.change(GOOD, |record| record.key.as_mut().unwrap().allowed_addresses = ranges);
    let principal = bench.call(GOOD).await.unwrap();
    for (address, asked, reason) in [
        ("192.0.2.9", &[][..], "ok"),
        ("::ffff:192.0.2.9", &[], "ok"),
        ("2001:db8::9", &[], "ok"),
        ("198.51.100.9", &[], "address_denied"),
        ("192.0.2.9", &["users:read"], "insufficient_scope"),
        ("198.51.100.9", &["users:read"], "address_denied"),
    ] {
        let route = crate::config::route::RouteConfig { scopes: scopes(asked), ..route() };
        let answer = bench.authenticator.authorize(&route, &principal, address.parse().unwrap());
        assert_eq!(answer.map_or_else(|error| error.reason(), |()| "ok"), reason, "{address} {asked:?}");
    }
    assert!(bench.counted("octroi_auth_total{result=\"refused\",reason=\"address_denied\"} 2"));
}

#[tokio::test]
async fn expiry_is_judged_at_every_use_by_the_wall_clock() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    let start = bench.clock.wall();
    bench.change(GOOD, |record| record.key.as_mut().unwrap().expires_at = Some(start + 5 * SECOND));
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.outcome(GOOD).await, "expired");
    assert_eq!(bench.store.look_ups(), 2, "a key that is over is not known any more");
    bench.pass(2 * SECOND).await;
    bench.clock.set_wall(start);
    assert_eq!(bench.outcome(GOOD).await, "ok");
}

#[tokio::test]
async fn a_wall_clock_that_steps_back_does_not_undo_a_revocation() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.revoke(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "revoked");
    bench.clock.set_wall("2026-11-22T11:00:00Z".parse().unwrap());
    assert_eq!(bench.outcome(GOOD).await, "revoked");
}

#[tokio::test]
async fn limits_outlive_the_cached_identity() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.change(GOOD, |record| record.client.rate = Some("1/h".parse().unwrap()));
    let now = bench.clock.monotonic();
    bench.call(GOOD).await.unwrap().client.limiter().unwrap().check(1, now).unwrap();
    bench.pass(700 * SECOND).await;
    let now = bench.clock.monotonic();
    assert_eq!(
        bench.authenticator.upkeep().sweep(now),
        1,
        "the identity is gone, its client is not: something is spent"
    );
    let client = bench.call(GOOD).await.unwrap().client.clone();
    assert!(client.limiter().unwrap().check(1, now).is_err(), "and stays spent");
    drop(client);
    bench.pass(3_600 * SECOND).await;
    assert!(bench.sweeps_to(0).await);
}
