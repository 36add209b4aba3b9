//! What authentication promises, in order of its steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderMap;
use tokio::task::JoinSet;

use super::double::{Bench, outcome, route};
use crate::clients::CredentialKind;
use crate::config::route::RouteAuth;
use crate::crypto::key_text::{Environment, generate};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::ClientStatus;
use crate::model::clock::Clock as _;
use crate::model::id::ApiKeyId;
use crate::model::key::{CredentialRecord, HashKind};
use crate::store::changes::Change;
use crate::store::rotation::Moved;

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
    assert_eq!(text(&headers.scopes), "orders:read orders:write");
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
async fn a_thousand_who_wait_for_a_key_cost_one_look_up() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.store.hold(true);
    let mut callers = JoinSet::new();
    for _ in 0..1_000 {
        let bench = Arc::clone(&bench);
        callers.spawn(async move { bench.outcome(GOOD).await });
    }
    bench.store.looked_up(1).await;
    bench.store.hold(false);
    let outcomes = callers.join_all().await;
    assert!(outcomes.iter().all(|outcome| *outcome == "ok"), "more than the failure budget holds, and no failure");
    assert_eq!(bench.store.look_ups(), 1);
}

#[tokio::test]
async fn more_good_keys_than_the_budget_holds_arrive_at_once() {
    let bench = Bench::followed().await;
    let mut callers = JoinSet::new();
    for number in 0..400 {
        let raw = format!("good-key-{number}");
        bench.add(&raw);
        let bench = Arc::clone(&bench);
        callers.spawn(async move { bench.outcome(&raw).await });
    }
    let outcomes = callers.join_all().await;
    assert!(outcomes.iter().all(|outcome| *outcome == "ok"), "{outcomes:?}");
}

#[tokio::test]
async fn a_cancelled_first_caller_stalls_nobody() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.store.hold(true);
    {
        let first = bench.call(GOOD);
        tokio::pin!(first);
        tokio::select! {
            _ = &mut first => panic!("the store is held"),
            () = bench.store.looked_up(1) => {}
        }
    }
    let (second, ()) = tokio::join!(bench.outcome(GOOD), async { bench.store.hold(false) });
    assert_eq!(second, "ok");
    assert_eq!(bench.store.look_ups(), 1, "the first one's look-up went on without it");
}

#[tokio::test]
async fn a_stalled_look_up_ends_at_its_deadline_for_everyone() {
    let bench = Bench::new(Duration::from_millis(50));
    bench.step().await;
    bench.add(GOOD);
    bench.store.hold(true);
    let (first, second) = tokio::join!(bench.outcome(GOOD), bench.outcome(GOOD));
    assert_eq!((first, second), ("unavailable", "unavailable"));
    assert_eq!(bench.store.look_ups(), 1);
    bench.store.hold(false);
    assert_eq!(bench.outcome(GOOD).await, "ok", "nothing of the failure is remembered");
}

#[tokio::test]
async fn a_look_up_that_panics_is_unavailable_and_leaves_nothing_behind() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.store.panics.store(true, Ordering::SeqCst);
    assert_eq!(bench.outcome(GOOD).await, "unavailable");
    bench.store.panics.store(false, Ordering::SeqCst);
    assert_eq!(bench.outcome(GOOD).await, "ok");
}

#[tokio::test]
async fn a_key_revoked_while_it_is_looked_up_is_never_accepted_after() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.store.hold(true);
    let (during, ()) = tokio::join!(bench.outcome(GOOD), async {
        // The row was read as good, and is still on its way.
        bench.store.looked_up(1).await;
        bench.revoke(GOOD);
        bench.step().await;
        bench.store.hold(false);
    });
    assert_eq!(during, "revoked", "it was read again");
    assert_eq!(bench.store.look_ups(), 2);
    for _ in 0..100 {
        assert_eq!(bench.outcome(GOOD).await, "revoked");
    }
}

#[tokio::test]
async fn a_key_revoked_before_the_feed_says_so_is_refused_from_then_on() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.store.hold(true);
    let (during, ()) = tokio::join!(bench.outcome(GOOD), async {
        bench.store.looked_up(1).await;
        bench.revoke(GOOD);
        bench.store.hold(false);
    });
    assert_eq!(during, "ok", "nobody knew yet");
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "revoked");
}

#[tokio::test]
async fn changes_that_never_pause_do_not_keep_a_key_out_nor_let_it_into_the_cache() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    let clients = Arc::clone(&bench.clients);
    *bench.store.meanwhile.lock().unwrap() = Some(Box::new(move || clients.bump_all()));
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 3), "three reads, the last one counts");
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 6), "and is not cached");
    *bench.store.meanwhile.lock().unwrap() = None;
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 7));
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 7));
}

#[tokio::test]
async fn changes_are_noticed_at_the_next_poll() {
    let bench = Bench::followed().await;
    for raw in [GOOD, "another-key"] {
        bench.add(raw);
        assert_eq!(bench.outcome(raw).await, "ok");
    }
    let client = bench.call(GOOD).await.unwrap().client.id;
    bench.change(GOOD, |record| record.client.status = ClientStatus::Suspended);
    bench.store.tell(Change::Client(client));
    bench.step().await;
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("another-key").await), ("client_suspended", "ok"));
    bench.change(GOOD, |record| record.client.status = ClientStatus::Active);
    bench.store.tell(Change::All);
    bench.step().await;
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("another-key").await), ("ok", "ok"));
    bench.delete(GOOD);
    bench.step().await;
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("another-key").await), ("unknown", "ok"));
    assert_eq!(bench.store.look_ups(), 6, "each was read once, again after its change, and after the one for all");
}

#[tokio::test]
async fn with_the_store_gone_the_known_pass_until_max_stale_and_strangers_never_fail() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.add("not-yet-seen");
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.store.set_away(true);
    for _ in 0..5 {
        bench.pass(120 * SECOND).await;
        assert_eq!(bench.outcome(GOOD).await, "ok");
        for _ in 0..300 {
            assert_eq!(bench.outcome("not-yet-seen").await, "unavailable", "neither 401 nor 429");
        }
    }
    assert!(bench.counted("octroi_auth_stale_total 5"));
    bench.pass(SECOND).await;
    assert_eq!(bench.outcome(GOOD).await, "unavailable", "too old");
    bench.store.set_away(false);
    bench.step().await;
    assert_eq!((bench.outcome(GOOD).await, bench.outcome("not-yet-seen").await), ("ok", "ok"));
}

#[tokio::test]
async fn what_is_known_to_have_changed_does_not_serve_without_the_store() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.revoke(GOOD);
    bench.step().await;
    bench.store.set_away(true);
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "unavailable");
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_in_two_seconds_unless_keys_are_added() {
    let bench = Bench::followed().await;
    for _ in 0..10 {
        assert_eq!(bench.outcome(GOOD).await, "unknown");
    }
    assert_eq!(bench.store.look_ups(), 1);
    assert!(bench.counted(r#"octroi_auth_cache_total{result="negative"} 9"#));
    bench.clock.advance(2 * SECOND);
    assert_eq!(bench.outcome(GOOD).await, "unknown");
    assert_eq!(bench.store.look_ups(), 2);
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "unknown", "nobody said that it was added");
    bench.tell_of(GOOD, true);
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "ok");
}

#[tokio::test]
async fn a_key_added_while_it_is_looked_up_is_found() {
    let bench = Bench::followed().await;
    bench.store.hold(true);
    let (during, ()) = tokio::join!(bench.outcome(GOOD), async {
        // The answer "no such key" is on its way.
        bench.store.looked_up(1).await;
        bench.add(GOOD);
        bench.tell_of(GOOD, true);
        bench.step().await;
        bench.store.hold(false);
    });
    assert_eq!((during, bench.store.look_ups()), ("ok", 2), "it was asked for again");
}

#[tokio::test]
async fn guessing_is_refused_and_the_known_pass() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    bench.add("good-but-new");
    assert_eq!(bench.outcome(GOOD).await, "ok");
    let mut reasons = Vec::new();
    for guess in 0..150 {
        reasons.push(bench.outcome(&format!("guess-number-{guess}")).await);
    }
    assert!(reasons[..100].iter().all(|reason| *reason == "unknown"));
    assert!(reasons[100..].iter().all(|reason| *reason == "too_many_failures"));
    assert_eq!(bench.store.look_ups(), 101, "no guess past the budget reached the store");

    assert_eq!(bench.outcome(GOOD).await, "ok", "a cached key passes from an exhausted address");
    bench.store.tell(Change::All);
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "ok", "also when it must be read again");
    let new = bench.call("good-but-new").await;
    assert_eq!(new.unwrap_err(), super::AuthError::TooManyFailures { retry_after_seconds: 1 });
    assert_eq!(outcome(&bench.call_from("192.0.2.2", "good-but-new").await), "ok", "from another address");
    bench.clock.advance(SECOND);
    assert_eq!(bench.outcome("guess-again-and-again").await, "unknown", "ten a second come back");
}

#[tokio::test]
async fn while_the_feed_is_silent_identities_are_checked_again_before_use() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.clock.advance(SECOND);
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 1), "confirmed a second ago");
    bench.clock.advance(SECOND / 10);
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 2), "the store was asked");
    assert_eq!((bench.outcome(GOOD).await, bench.store.look_ups()), ("ok", 2), "and is believed for a second");
    bench.clock.advance(2 * SECOND);
    bench.change(GOOD, |record| record.client.status = ClientStatus::Suspended);
    assert_eq!(bench.outcome(GOOD).await, "client_suspended", "its answer counts");
    bench.clock.advance(2 * SECOND);
    bench.delete(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "unknown");
}

#[tokio::test]
async fn a_store_that_does_not_answer_a_check_in_time_is_not_waited_for() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.clock.advance(2 * SECOND);
    bench.store.hold(true);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    assert!(bench.counted("octroi_auth_stale_total 1"));
    assert_eq!(bench.store.look_ups(), 2, "it was asked");
    bench.store.hold(false);
    bench.store.set_away(true);
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "ok");
    assert_eq!(bench.store.look_ups(), 2, "known to be away, it is not even asked");
}

#[tokio::test]
async fn a_change_that_arrives_during_a_check_counts() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.clock.advance(2 * SECOND);
    bench.store.hold(true);
    let (during, ()) = tokio::join!(bench.outcome(GOOD), async {
        bench.store.looked_up(2).await;
        bench.revoke(GOOD);
        bench.step().await;
    });
    assert_eq!(during, "unavailable", "the store did not answer, and the identity is void by now");
}

#[tokio::test]
async fn what_a_broken_feed_may_have_missed_is_checked() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.store.set_away(true);
    bench.pass(2 * SECOND).await;
    bench.revoke(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok", "nobody can know");
    bench.store.set_away(false);
    bench.step().await;
    assert_eq!(bench.outcome(GOOD).await, "revoked", "the new reader starts after the change, and is not trusted");
}

#[tokio::test]
async fn an_identity_past_its_ttl_serves_and_is_refreshed_once() {
    let bench = Bench::followed().await;
    bench.add(GOOD);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    bench.change(GOOD, |record| record.key.as_mut().unwrap().scopes = scopes(&["new"]));
    bench.pass(31 * SECOND).await;
    bench.store.hold(true);
    for _ in 0..10 {
        assert!(bench.call(GOOD).await.unwrap().scopes.is_empty(), "nobody waits for the refresh");
    }
    bench.store.looked_up(2).await;
    bench.store.hold(false);
    while bench.call(GOOD).await.unwrap().scopes.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.store.look_ups(), 2);
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
    bench.clock.set_wall(start);
    assert_eq!(bench.outcome(GOOD).await, "ok");
    assert_eq!(bench.store.look_ups(), 1, "all from the cache");
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
    assert_eq!(bench.authenticator.upkeep().sweep(bench.clock.monotonic()), 0);
}

#[tokio::test]
async fn change_rows_are_kept_for_a_day() {
    let bench = Bench::followed().await;
    bench.authenticator.upkeep().prune_changes().await;
    assert_eq!(*bench.store.pruned.lock().unwrap(), ["2026-11-21T12:00:00Z".parse().unwrap()]);
}
