//! Changes: what was revoked is not served, what is only old is, and nothing is missed.

use std::sync::Arc;

use crate::auth::testing::Bench;
use crate::model::client::ClientStatus;
use crate::store::changes::Change;

use super::{GOOD, SECOND, scopes};

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
    for _ in 0..99 {
        assert_eq!(bench.outcome(GOOD).await, "revoked");
    }
    assert_eq!(bench.outcome(GOOD).await, "too_many_failures", "charged like a stranger's");
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
async fn change_rows_are_kept_for_a_day() {
    let bench = Bench::followed().await;
    bench.authenticator.upkeep().prune_changes().await;
    assert_eq!(*bench.store.pruned.lock().unwrap(), ["2026-11-21T12:00:00Z".parse().unwrap()]);
}
