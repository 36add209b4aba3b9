//! The arithmetic of a limit: GCRA by governor over a single atomic word of ours.
//!
//! governor decides; the word is ours for two reasons. A charge must be taken back when a later
//! policy refuses, which governor cannot. And what remains is read from the same word in the same
//! step, for the `RateLimit` fields.
//!
//! The word is the *theoretical arrival time*: the instant at which everything spent so far has
//! come back. Ahead of now by the whole window, nothing is left; behind now, the bucket is full.

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::limiter::{Policy, Refusal, Snapshot, Spent};
use crate::model::clock::Monotonic;
use crate::model::rate::RateLimit;

/// A limit that never changes, and its word.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) policy: Policy,
    ticks: Ticks,
    window_seconds: u64,
    /// Theoretical arrival time in ticks of the process's monotonic clock; 0: never charged.
    arrival: AtomicU64,
}

/// The bucket was replaced while it was looked at: turn to the new one.
pub(super) struct Sealed;

/// What was used of a bucket when it was sealed.
#[derive(Clone, Copy)]
pub(super) struct UsedShare {
    ticks: u64,
    of: Ticks,
}

impl Bucket {
    pub(super) fn full(policy: Policy) -> Self {
        Self::with_arrival(policy, Ticks::for_limit(policy.limit), 0)
    }

    /// A bucket of which as large a share is used as of the one before.
    pub(super) fn with_share(policy: Policy, used: UsedShare, now: Monotonic) -> Self {
        let ticks = Ticks::for_limit(policy.limit);
        let arrival = match ticks.share_of(used.ticks, used.of) {
            0 => 0,
            used => ticks.of(now) + used,
        };
        Self::with_arrival(policy, ticks, arrival)
    }

    fn with_arrival(policy: Policy, ticks: Ticks, arrival: u64) -> Self {
        Self { policy, ticks, window_seconds: policy.limit.window_seconds(), arrival: AtomicU64::new(arrival) }
    }

    /// Takes the word out, to make another bucket of it. Who comes to this bucket after that is
    /// sent to the new one, so that no charge is lost. An error: somebody else is doing so.
    pub(super) fn seal(&self, now: Monotonic) -> Result<UsedShare, Sealed> {
        match self.arrival.swap(SEALED, Ordering::AcqRel) {
            SEALED => Err(Sealed),
            arrival => Ok(UsedShare { ticks: arrival.saturating_sub(self.ticks.of(now)), of: self.ticks }),
        }
    }

    pub(super) fn is_full(&self, now: Monotonic) -> bool {
        self.arrival.load(Ordering::Acquire) <= self.ticks.of(now)
    }

    pub(super) fn check(&self, cost: u32, now: Monotonic) -> Result<Result<Spent, Refusal>, Sealed> {
        let ticks = self.ticks.of(now);
        let Some(units) = NonZeroU32::new(cost) else {
            return self.look(ticks).map(|snapshot| Ok(Spent { snapshot, cost, at: now }));
        };
        // Asked here because governor multiplies before it compares, and a huge cost overflows.
        if units > self.ticks.burst {
            return self.never_fits(ticks);
        }
        let word = Word { arrival: &self.arrival, seen: Cell::new(0) };
        // A limiter is a few words on the stack: governor keeps no state but what the store holds,
        // and its time starts at zero, so that the word counts from the start of the process.
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Nanos>> =
            RateLimiter::new(self.ticks.quota(), word, Instant(Cell::new(Nanos::new(0))));
        limiter.clock().0.set(Nanos::new(ticks));
        let verdict = limiter.check_n(units);
        let seen = limiter.into_state_store().seen.get();
        if seen == SEALED {
            return Err(Sealed);
        }
        match verdict {
            Ok(Ok(())) => Ok(Ok(Spent { snapshot: self.snapshot(seen, ticks), cost, at: now })),
            Ok(Err(not_until)) => {
                let wait = self.ticks.duration(not_until.wait_time_from(Nanos::new(ticks)).as_nanos());
                Ok(Err(Refusal { snapshot: self.snapshot(seen, ticks), wait }))
            }
            Err(_insufficient_capacity) => self.never_fits(ticks),
        }
    }

    fn never_fits(&self, now: u64) -> Result<Result<Spent, Refusal>, Sealed> {
        let wait = self.ticks.duration(u128::from(self.ticks.window));
        self.look(now).map(|snapshot| Err(Refusal { snapshot, wait }))
    }

    fn look(&self, now: u64) -> Result<Snapshot, Sealed> {
        match self.arrival.load(Ordering::Acquire) {
            SEALED => Err(Sealed),
            arrival => Ok(self.snapshot(arrival, now)),
        }
    }

    pub(super) fn give_back(&self, spent: &Spent, now: Monotonic) -> Result<(), Sealed> {
        let charged = if spent.snapshot.policy == self.policy {
            self.ticks
        } else {
            Ticks::for_limit(spent.snapshot.policy.limit)
        };
        let returned = charged.of(now).saturating_sub(charged.of(spent.at));
        let owed = (u64::from(spent.cost) * charged.interval).saturating_sub(returned);
        let owed = self.ticks.share_of(owed, charged);
        let give = |arrival| (arrival != SEALED).then(|| u64::saturating_sub(arrival, owed));
        self.arrival.fetch_update(Ordering::AcqRel, Ordering::Acquire, give).map(drop).map_err(|_| Sealed)
    }

    pub(super) fn debit(&self, cost: u32, now: Monotonic) -> Result<(), Sealed> {
        let now = self.ticks.of(now);
        let owed = u64::from(cost).saturating_mul(self.ticks.interval);
        let take = |arrival: u64| {
            let begin = arrival.max(now);
            let bound = (now + 2 * self.ticks.window).max(begin);
            (arrival != SEALED).then(|| begin.saturating_add(owed).min(bound))
        };
        self.arrival.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).map(drop).map_err(|_| Sealed)
    }

    fn snapshot(&self, arrival: u64, now: u64) -> Snapshot {
        let Ticks { interval, window, .. } = self.ticks;
        let left = window.saturating_sub(arrival.saturating_sub(now));
        let remaining = left / interval;
        let reset = if left >= window { 0 } else { interval - left % interval };
        Snapshot {
            policy: self.policy,
            window_seconds: self.window_seconds,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: self.ticks.duration(u128::from(reset)),
        }
    }
}

/// The unit a bucket counts time in: a nanosecond, doubled as often as is needed for the whole
/// window to fit. A limit of one a day with a burst of four billion spans more nanoseconds than
/// 64 bits hold, and must neither wrap nor panic.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    shift: u32,
    /// One unit of cost, in ticks; rounded up, so that rounding never lets more through.
    interval: u64,
    /// The whole burst, in ticks.
    window: u64,
    burst: NonZeroU32,
}

impl Ticks {
    fn for_limit(limit: RateLimit) -> Self {
        let interval = limit.rate.interval().as_nanos();
        let burst = u128::from(limit.burst.get());
        let mut shift = 0;
        while (interval >> shift).saturating_add(1) * burst > u128::from(WINDOW_MAX) {
            shift += 1;
        }
        let interval = interval.div_ceil(1 << shift).max(1);
        let interval = u64::try_from(interval).expect("the loop above made it small");
        Self { shift, interval, window: interval * u64::from(limit.burst.get()), burst: limit.burst }
    }

    fn of(self, now: Monotonic) -> u64 {
        // 73 years after the start of the process time stands still here, before it could wrap.
        now.0.min(WINDOW_MAX) >> self.shift
    }

    fn duration(self, ticks: u128) -> Duration {
        Duration::from_nanos(u64::try_from(ticks << self.shift).unwrap_or(u64::MAX))
    }

    /// As many ticks of this window as `ticks` are of `other`'s, rounded up.
    fn share_of(self, ticks: u64, other: Self) -> u64 {
        if self.window == other.window {
            return ticks;
        }
        let share = (u128::from(ticks) * u128::from(self.window)).div_ceil(u128::from(other.window));
        u64::try_from(share).unwrap_or(u64::MAX).min(self.window)
    }

    fn quota(self) -> Quota {
        Quota::with_period(Duration::from_nanos(self.interval))
            .expect("an interval is at least one tick")
            .allow_burst(self.burst)
    }
}

/// governor's view of a bucket's word.
#[derive(Debug)]
struct Word<'b> {
    arrival: &'b AtomicU64,
    /// The word after the decision.
    seen: Cell<u64>,
}

impl StateStore for Word<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut found = self.arrival.load(Ordering::Acquire);
        loop {
            self.seen.set(found);
            if found == SEALED {
                // The decision is thrown away; it only gives this function something to return.
                return decide(Some(Nanos::new(WINDOW_MAX))).map(|(outcome, _)| outcome);
            }
            let (outcome, next) = decide(NonZeroU64::new(found).map(|word| word.get().into()))?;
            let next = next.as_u64();
            match self.arrival.compare_exchange_weak(found, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.seen.set(next);
                    return Ok(outcome);
                }
                Err(newer) => found = newer,
            }
        }
    }
}

/// A clock that says what it was told.
#[derive(Clone, Debug)]
struct Instant(Cell<Nanos>);

impl governor::clock::Clock for Instant {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}

/// The longest window and the latest time, in ticks: sums of four of them fit 64 bits.
const WINDOW_MAX: u64 = 1 << 61;

/// The word of a bucket that was replaced. No charge can make it: windows and times are far smaller.
const SEALED: u64 = u64::MAX;
