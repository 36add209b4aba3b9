//! One rate limit: GCRA by the `governor` crate over a state of our own.
//!
//! The state is one atomic word, the theoretical arrival time (TAT) of the algorithm in
//! nanoseconds of monotonic time. It is ours because three things are asked of it that governor's
//! does not give: a charge can be taken back, a changed limit carries the used share over, and
//! the state outlives every cache entry.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::Quota;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, RateLimiter, StateStore};

use crate::model::clock::Monotonic;
use crate::model::rate::RateLimit;

thread_local! {
    /// The time of the check that runs on this thread: governor asks its clock for "now" without
    /// an argument, and a check must see the time its caller sees.
    static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The clock of a check: reads what the caller of the check said.
#[derive(Clone, Debug)]
struct CallersClock;

impl Clock for CallersClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(NOW.get())
    }
}

/// The theoretical arrival time. Zero: nothing was ever spent. Shared, so that a changed limit
/// can be laid over it.
#[derive(Clone, Debug, Default)]
struct ArrivalTime(Arc<AtomicU64>);

impl StateStore for ArrivalTime {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = self.0.load(Ordering::Acquire);
        loop {
            let (answer, after) = decide((before != 0).then(|| Nanos::from(before)))?;
            match self.0.compare_exchange_weak(before, after.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(answer),
                Err(now) => before = now,
            }
        }
    }
}

/// What a limit stands at after a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The limit it was charged to.
    pub limit: RateLimit,
    /// Units that could still be spent at once.
    pub remaining: u32,
    /// Time until the budget is full again.
    pub full_in: Duration,
}

/// Why a charge was refused. Nothing was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The limit as it stands.
    pub snapshot: Snapshot,
    /// Time until the same cost fits; none: it is larger than the burst and never will.
    pub wait: Option<Duration>,
}

/// A rate limit with its state.
pub struct Limiter {
    arrival: ArrivalTime,
    active: ArcSwap<Active>,
}

struct Active {
    limit: RateLimit,
    governor: RateLimiter<NotKeyed, ArrivalTime, CallersClock, NoOpMiddleware<Nanos>>,
}

/// No limit spans more nanoseconds than this (146 years): sums of two still fit a word.
const LONGEST_SPAN: u64 = u64::MAX / 4;

impl Active {
    fn new(limit: RateLimit, arrival: ArrivalTime) -> Self {
        let interval = limit.rate.interval();
        let most = LONGEST_SPAN / interval_nanos(limit);
        let burst = NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX).min(limit.burst.get()));
        let quota = Quota::with_period(interval).expect("an interval is never zero");
        let quota = quota.allow_burst(burst.unwrap_or(NonZeroU32::MIN));
        // Arrival times count from zero, not from when this limiter was made.
        NOW.set(0);
        Self { limit, governor: RateLimiter::new(quota, arrival, CallersClock) }
    }
}

fn interval_nanos(limit: RateLimit) -> u64 {
    u64::try_from(limit.rate.interval().as_nanos()).unwrap_or(LONGEST_SPAN)
}

/// The span of a full budget in nanoseconds.
fn span_nanos(limit: RateLimit) -> u64 {
    interval_nanos(limit).saturating_mul(u64::from(limit.burst.get())).clamp(1, LONGEST_SPAN)
}

impl Limiter {
    /// A full budget.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let arrival = ArrivalTime::default();
        Self { active: ArcSwap::from_pointee(Active::new(limit, arrival.clone())), arrival }
    }

    /// Spends `cost` or nothing.
    pub fn check(&self, cost: NonZeroU32, now: Monotonic) -> Result<Snapshot, Refused> {
        let active = self.active.load();
        NOW.set(now.0);
        let refused = |wait| Refused { snapshot: self.snapshot(&active, now), wait };
        let outcome = match cost.get() {
            1 => active.governor.check(),
            _ => match active.governor.check_n(cost) {
                Ok(outcome) => outcome,
                Err(_larger_than_burst) => return Err(refused(None)),
            },
        };
        match outcome {
            Ok(()) => Ok(self.snapshot(&active, now)),
            Err(until) => Err(refused(Some(until.wait_time_from(Nanos::from(now.0))))),
        }
    }

    /// Takes a charge back.
    pub fn give_back(&self, cost: NonZeroU32) {
        let nanos = interval_nanos(self.active.load().limit).saturating_mul(u64::from(cost.get()));
        let given = self.arrival.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            (before != 0).then(|| before.saturating_sub(nanos).max(1))
        });
        // An error means that nothing was ever spent, so there is nothing to give back.
        let _: Result<u64, u64> = given;
    }

    /// Whether nothing is owed: dropping this limiter would give nothing away.
    #[must_use]
    pub fn is_full(&self, now: Monotonic) -> bool {
        self.arrival.0.load(Ordering::Acquire) <= now.0
    }

    /// The limit as it stands, without spending.
    #[must_use]
    pub fn stand(&self, now: Monotonic) -> Snapshot {
        self.snapshot(&self.active.load(), now)
    }

    /// Lays another limit over the same state. The used share carries over: who had spent half
    /// of the old budget has spent half of the new one.
    pub fn change(&self, limit: RateLimit, now: Monotonic) {
        let before = self.active.load();
        if before.limit == limit {
            return;
        }
        let (old_span, new_span) = (span_nanos(before.limit), span_nanos(limit));
        let carried = self.arrival.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |arrival| {
            let used = arrival.checked_sub(now.0)?;
            let used = u128::from(used) * u128::from(new_span) / u128::from(old_span);
            Some(now.0.saturating_add(u64::try_from(used).unwrap_or(LONGEST_SPAN)))
        });
        // An error means that the budget was full, and full it stays.
        let _: Result<u64, u64> = carried;
        self.active.store(Arc::new(Active::new(limit, self.arrival.clone())));
    }

    fn snapshot(&self, active: &Active, now: Monotonic) -> Snapshot {
        let used = self.arrival.0.load(Ordering::Acquire).saturating_sub(now.0);
        let spent = used.div_ceil(interval_nanos(active.limit));
        let remaining = u64::from(active.limit.burst.get()).saturating_sub(spent);
        Snapshot {
            limit: active.limit,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            full_in: Duration::from_nanos(used),
        }
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Limiter").field("limit", &self.active.load().limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(rate: &str, burst: u32) -> RateLimit {
        RateLimit::new(rate.parse().unwrap(), NonZeroU32::new(burst))
    }

    fn cost(units: u32) -> NonZeroU32 {
        NonZeroU32::new(units).unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = Limiter::new(limit("1/s", 3));
        let start = Monotonic(50 * SECOND);
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.check(cost(1), start).unwrap().remaining, remaining);
        }
        let refused = limiter.check(cost(1), start).unwrap_err();
        assert_eq!(refused.wait, Some(Duration::from_secs(1)));
        assert_eq!(refused.snapshot.full_in, Duration::from_secs(3));
        let later = Monotonic(51 * SECOND);
        assert_eq!(limiter.check(cost(1), later).unwrap().remaining, 0);
        assert!(limiter.check(cost(1), later).is_err());
        assert!(!limiter.is_full(later));
        assert!(limiter.is_full(Monotonic(55 * SECOND)));
    }

    #[test]
    fn a_charge_can_be_taken_back_and_more_than_the_burst_never_fits() {
        let limiter = Limiter::new(limit("1/h", 5));
        let now = Monotonic(SECOND);
        limiter.check(cost(5), now).unwrap();
        assert!(limiter.check(cost(1), now).is_err());
        limiter.give_back(cost(2));
        assert_eq!(limiter.check(cost(2), now).unwrap().remaining, 0);
        assert_eq!(limiter.check(cost(6), now).unwrap_err().wait, None);
    }

    #[test]
    fn a_changed_limit_carries_the_used_share_over() {
        let limiter = Limiter::new(limit("1/m", 10));
        let now = Monotonic(1000 * SECOND);
        limiter.check(cost(5), now).unwrap();
        limiter.change(limit("100/s", 1000), now);
        assert_eq!(limiter.stand(now).remaining, 500);
        limiter.change(limit("1/m", 10), now);
        assert_eq!(limiter.stand(now).remaining, 5);
    }

    #[test]
    fn extreme_limits_do_not_overflow() {
        for (rate, burst) in [("1/d", u32::MAX), ("1000000000/s", u32::MAX), ("1/d", 1)] {
            let limiter = Limiter::new(limit(rate, burst));
            limiter.check(cost(1), Monotonic(SECOND)).unwrap();
            limiter.give_back(cost(u32::MAX));
            limiter.change(limit("1/s", 1), Monotonic(SECOND));
        }
    }

    #[test]
    fn concurrent_checks_admit_the_burst_and_not_one_more() {
        let limiter = Limiter::new(limit("1/h", 1000));
        let admitted = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if limiter.check(cost(1), Monotonic(SECOND)).is_ok() {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1000);
    }

    proptest! {
        /// Admitted - given back ≤ burst + rate × time, under concurrency, whatever the order.
        #[test]
        fn never_more_than_burst_plus_rate_times_time(
            per_second in 1_u32..2000,
            burst in 1_u32..200,
            steps in prop::collection::vec((0_u64..40_000_000, 1_u32..4, any::<bool>()), 1..120),
        ) {
            let limiter = Limiter::new(limit(&format!("{per_second}/s"), burst));
            let admitted = AtomicU32::new(0);
            let begin = 10 * SECOND;
            let lasted: u64 = steps.iter().map(|(pause, ..)| pause).sum();
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let mut now = begin;
                        for (pause, units, regret) in &steps {
                            now += pause;
                            if limiter.check(cost(*units), Monotonic(now)).is_ok() {
                                if *regret {
                                    limiter.give_back(cost(*units));
                                } else {
                                    admitted.fetch_add(*units, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
            });
            let interval = u64::from(1_000_000_000 / per_second);
            let allowed = u64::from(burst) + lasted / interval + 1;
            prop_assert!(u64::from(admitted.into_inner()) <= allowed);
        }
    }
}
