//! Look-ups: one for all who wait, bounded, and nobody stalls another.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::auth::testing::{Bench, outcome};
use crate::store::changes::Change;

use super::{GOOD, SECOND};

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
    assert_eq!(new.unwrap_err(), crate::auth::AuthError::TooManyFailures { retry_after_seconds: 1 });
    assert_eq!(outcome(&bench.call_from("192.0.2.2", "good-but-new").await), "ok", "from another address");
    bench.clock.advance(SECOND);
    assert_eq!(bench.outcome("guess-again-and-again").await, "unknown", "ten a second come back");
}
