//! One rate limit: what may be spent, given back and changed.
//!
//! The arithmetic is GCRA, in `bucket`; a bucket's limit never changes. A changed limit is a new
//! bucket that takes over the used share of the old one, or every change would hand out a fresh
//! burst.
//!
//! Refuses to know who is charged: that is `limit`. Time is a parameter of every call.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::bucket::{Bucket, Sealed};
use crate::model::clock::Monotonic;
use crate::model::rate::RateLimit;

/// Where a limit comes from: the name of its policy in headers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyName {
    /// `[limits.default]`
    Default,
    /// The client's own.
    Client,
    /// The key's own; narrows its client's.
    Key,
    /// The plan's: callers see the policy's own name.
    Plan,
}

impl PolicyName {
    /// As callers and metrics see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Client => "client",
            Self::Key => "key",
            Self::Plan => "plan",
        }
    }
}

/// A limit under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it comes from.
    pub name: PolicyName,
    /// What it allows.
    pub limit: RateLimit,
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which limit.
    pub policy: Policy,
    /// The limit's window in whole seconds, computed once for each limit.
    pub window_seconds: u64,
    /// Units that could be spent now.
    pub remaining: u32,
    /// Until there is one more; zero when nothing is missing.
    pub reset: Duration,
}

/// What was spent, for [`Limiter::give_back`].
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// How the limit stood after it.
    pub snapshot: Snapshot,
    pub(super) cost: u32,
    pub(super) at: Monotonic,
}

impl Spent {
    /// A part of it: `cost` of its units, or all if it has fewer.
    #[must_use]
    pub fn part(self, cost: u32) -> Self {
        Self { cost: cost.min(self.cost), ..self }
    }
}

/// Why nothing was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How the limit stands.
    pub snapshot: Snapshot,
    /// Until the same cost fits. A cost above the burst never fits; it is told to wait until
    /// the limit is full, when it may try less.
    pub wait: Duration,
}

/// A limit and what is left of it. Shared by everyone who spends from it.
#[derive(Debug)]
pub struct Limiter {
    bucket: ArcSwap<Bucket>,
}

impl Limiter {
    /// A full one.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { bucket: ArcSwap::from_pointee(Bucket::full(policy)) }
    }

    /// The limit as it is now.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.bucket.load().policy
    }

    /// Spends `cost` units, or nothing. Waits for nobody and allocates nothing.
    ///
    /// # Errors
    /// The cost does not fit. Refusals cost nothing.
    pub fn check(&self, cost: u32, now: Monotonic) -> Result<Spent, Refusal> {
        loop {
            match self.bucket.load().check(cost, now) {
                Ok(outcome) => return outcome,
                Err(Sealed) => std::thread::yield_now(),
            }
        }
    }

    /// Takes a charge back, as far as time has not brought it back already: giving back a whole
    /// charge whose units have returned since would let two bursts pass at once.
    pub fn give_back(&self, spent: &Spent, now: Monotonic) {
        loop {
            match self.bucket.load().give_back(spent, now) {
                Ok(()) => return,
                Err(Sealed) => std::thread::yield_now(),
            }
        }
    }

    /// Spends what was already used: the cost was known only afterwards. Goes below nothing, by at
    /// most one whole burst more, so that whoever spent too much waits and is not locked out.
    pub fn debit(&self, cost: u32, now: Monotonic) {
        while self.bucket.load().debit(cost, now).is_err() {
            std::thread::yield_now();
        }
    }

    /// Changes the limit; the used share of the old one is used of the new one. The same policy
    /// again changes nothing.
    pub fn change(&self, policy: Policy, now: Monotonic) {
        loop {
            let old = self.bucket.load_full();
            if old.policy == policy {
                return;
            }
            let Ok(used) = old.seal(now) else {
                std::thread::yield_now();
                continue;
            };
            self.bucket.store(Arc::new(Bucket::with_share(policy, used, now)));
            return;
        }
    }

    /// Whether nothing is missing: such a limiter can be forgotten and made again.
    #[must_use]
    pub fn is_full(&self, now: Monotonic) -> bool {
        self.bucket.load().is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::model::clock::{Clock as _, ManualClock};
    use crate::model::rate::Rate;

    const START: Monotonic = Monotonic(3_600_000_000_000);

    fn policy(rate: &str, burst: u32) -> Policy {
        let rate: Rate = rate.parse().unwrap();
        Policy { name: PolicyName::Default, limit: RateLimit::new(rate, NonZeroU32::new(burst)) }
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_burst_is_spent_and_comes_back_at_the_rate() {
        let limiter = Limiter::new(policy("100/s", 3));
        for remaining in [2, 1, 0] {
            let spent = limiter.check(1, START).unwrap();
            assert_eq!(spent.snapshot.remaining, remaining);
            assert_eq!(spent.snapshot.reset, millis(10));
        }
        let refusal = limiter.check(1, START).unwrap_err();
        assert_eq!((refusal.wait, refusal.snapshot.remaining), (millis(10), 0));
        assert_eq!(limiter.check(1, START).unwrap_err(), refusal, "a refusal costs nothing");
        assert!(limiter.check(1, START.after(millis(9))).is_err());
        assert!(limiter.check(1, START.after(millis(10))).is_ok());
        assert!(!limiter.is_full(START.after(millis(39))));
        assert!(limiter.is_full(START.after(millis(40))));
    }

    #[test]
    fn costs_of_many_are_taken_whole_or_not() {
        let limiter = Limiter::new(policy("100/s", 10));
        assert_eq!(limiter.check(7, START).unwrap().snapshot.remaining, 3);
        let refusal = limiter.check(4, START).unwrap_err();
        assert_eq!((refusal.wait, refusal.snapshot.remaining), (millis(10), 3));
        assert_eq!(limiter.check(3, START).unwrap().snapshot.remaining, 0);
        assert_eq!(limiter.check(0, START).unwrap().snapshot.remaining, 0, "no cost looks and takes nothing");
        let never = Limiter::new(policy("100/s", 10)).check(11, START).unwrap_err();
        assert_eq!((never.wait, never.snapshot.remaining), (millis(100), 10), "a cost above the burst never fits");
    }

    #[test]
    fn a_charge_given_back_at_once_was_never_taken() {
        let limiter = Limiter::new(policy("10/s", 5));
        let first = limiter.check(2, START).unwrap();
        let second = limiter.check(3, START).unwrap();
        limiter.give_back(&first, START);
        assert_eq!(limiter.check(0, START).unwrap().snapshot.remaining, 2);
        limiter.give_back(&second, START);
        assert!(limiter.is_full(START));
    }

    #[test]
    fn a_charge_given_back_late_does_not_double_a_burst() {
        let limiter = Limiter::new(policy("10/s", 5));
        let old = limiter.check(5, START).unwrap();
        let later = START.after(Duration::from_secs(1));
        assert!(limiter.check(5, later).is_ok(), "time brought the first five back");
        limiter.give_back(&old, later);
        assert!(limiter.check(1, later).is_err());
    }

    #[test]
    fn a_changed_limit_keeps_the_used_share() {
        for (from, to, spend, remaining) in [
            (("100/s", 100), ("10/s", 10), 50, 5),
            (("10/s", 10), ("1000/s", 1000), 5, 500),
            (("100/s", 100), ("100/s", 10), 100, 0),
            (("100/s", 10), ("1/m", 10), 3, 7),
            (("100/s", 10), ("100/s", 20), 0, 20),
            (("1/d", 4_000_000_000), ("100/s", 100), 3_000_000_000, 25),
        ] {
            let limiter = Limiter::new(policy(from.0, from.1));
            limiter.check(spend, START).unwrap();
            limiter.change(policy(to.0, to.1), START);
            assert_eq!(limiter.check(0, START).unwrap().snapshot.remaining, remaining, "{from:?} to {to:?}");
            assert_eq!(limiter.policy(), policy(to.0, to.1));
        }
    }

    #[test]
    fn a_charge_made_under_an_older_limit_is_given_back_as_its_share() {
        let limiter = Limiter::new(policy("100/s", 100));
        let spent = limiter.check(50, START).unwrap();
        limiter.change(policy("10/s", 10), START);
        limiter.give_back(&spent, START);
        assert!(limiter.is_full(START));
    }

    #[test]
    fn extreme_limits_neither_wrap_nor_panic() {
        for (rate, burst) in [
            ("1/d", u32::MAX),
            ("1000000000/s", u32::MAX),
            ("1000000000/s", 1),
            ("1000000000/d", 1),
            ("1/d", 1),
            ("7/h", 1_000_000_000),
        ] {
            for now in [Monotonic(0), Monotonic(1), START, Monotonic(u64::MAX)] {
                let limiter = Limiter::new(policy(rate, burst));
                assert_eq!(limiter.check(burst, now).unwrap().snapshot.remaining, 0, "{rate} burst {burst}");
                assert!(limiter.check(1, now).unwrap_err().wait > Duration::ZERO);
                if burst < u32::MAX {
                    assert!(limiter.check(u32::MAX, now).is_err());
                }
            }
        }
    }

    /// What threads do: every charge that was kept, with its time.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Charge(u32),
        ChargeAndGiveBack(u32),
        GiveBackOldest,
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_u32..4).prop_map(Step::Charge),
            2 => (1_u32..6).prop_map(Step::ChargeAndGiveBack),
            2 => Just(Step::GiveBackOldest),
            3 => (0_u64..30_000_000).prop_map(Step::Advance),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        /// In every window of time, what was admitted and kept is within burst + rate × time.
        #[test]
        fn no_window_holds_more_than_the_limit_allows(steps in steps(), burst in 1_u32..12) {
            let limiter = Limiter::new(policy("100/s", burst));
            let mut now = START;
            let mut kept: Vec<(Spent, Monotonic)> = Vec::new();
            for step in steps {
                match step {
                    Step::Charge(cost) => kept.extend(limiter.check(cost, now).ok().map(|spent| (spent, now))),
                    Step::ChargeAndGiveBack(cost) => {
                        if let Ok(spent) = limiter.check(cost, now) {
                            limiter.give_back(&spent, now);
                        }
                    }
                    Step::GiveBackOldest if kept.is_empty() => {}
                    Step::GiveBackOldest => limiter.give_back(&kept.remove(0).0, now),
                    Step::Advance(nanos) => now = now.after(Duration::from_nanos(nanos)),
                }
            }
            for (first, (_, from)) in kept.iter().enumerate() {
                let mut admitted = 0;
                for (spent, to) in &kept[first..] {
                    admitted += u64::from(spent.cost);
                    let allowed = u64::from(burst) + to.0.saturating_sub(from.0) / 10_000_000;
                    prop_assert!(admitted <= allowed, "{admitted} within {:?}, {allowed} allowed", to.since(*from));
                }
            }
        }
    }

    #[test]
    fn threads_together_get_no_more_than_the_limit_allows() {
        let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
        let limiter = Limiter::new(policy("1000/s", 50));
        let admitted = AtomicU64::new(0);
        let moments = 200_u32;
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (clock, limiter, admitted, barrier) = (&clock, &limiter, &admitted, &barrier);
                scope.spawn(move || {
                    for _ in 0..moments {
                        if barrier.wait().is_leader() {
                            clock.advance(millis(1));
                        }
                        barrier.wait();
                        for attempt in 0..40 {
                            let now = clock.monotonic();
                            match limiter.check(1, now) {
                                // Some of what is taken is given back, as when a later policy refuses.
                                Ok(spent) if (attempt + thread) % 3 == 0 => limiter.give_back(&spent, now),
                                Ok(_) => _ = admitted.fetch_add(1, Ordering::Relaxed),
                                Err(_) => {}
                            }
                        }
                    }
                });
            }
        });
        // One unit came back in each moment after the first burst. What a thread gave back as its
        // very last act, nobody was left to take.
        let (admitted, allowed) = (admitted.into_inner(), u64::from(50 + moments - 1));
        assert!((allowed - 4..=allowed).contains(&admitted), "{admitted} of {allowed} admitted");
    }

    #[test]
    fn charges_that_race_with_a_change_are_not_lost() {
        let limiter = Limiter::new(policy("1/d", 1_000_000));
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        limiter.check(1, START).unwrap();
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..500 {
                    let name = if round % 2 == 0 { PolicyName::Client } else { PolicyName::Default };
                    limiter.change(Policy { name, ..policy("1/d", 1_000_000) }, START);
                }
            });
        });
        let left = limiter.check(0, START).unwrap().snapshot.remaining;
        assert_eq!(u64::from(left), 1_000_000 - admitted.into_inner());
    }
}
