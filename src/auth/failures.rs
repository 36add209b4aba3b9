//! The budget of failures of an address: how many unknown credentials it may present.
//!
//! An address is what one party usually holds: an IPv4 address, or the /64 of an IPv6 one. Only
//! look-ups are charged, and before they are made, so that guessing never costs the store more
//! than the budget; a look-up that finds its key, or learns nothing, is given back. A credential
//! that is cached never comes here: nobody is locked out by a neighbour's bad key.
//!
//! What is under way is counted apart and not taken out of the budget: time brings a budget back
//! once, however many look-ups it passes over, so that what each had taken could not be returned.
//!
//! A budget that is only *in flight* is not spent: right after a start, hundreds of good keys may
//! arrive from behind one balancer. Who finds it so waits for the look-ups under way instead of
//! being refused for failures that nobody has made.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Notify;

use crate::clients::limiter::{Limiter, Policy, PolicyName};
use crate::config::auth::FailureBudget;
use crate::model::clock::Monotonic;
use crate::model::rate::RateLimit;

/// The budgets of all addresses that presented something unknown lately.
#[derive(Debug)]
pub(super) struct Failures {
    budgets: Cache<Origin, Arc<Budget>>,
    policy: Policy,
}

/// What counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4([u8; 4]),
    V6([u8; 8]),
}

#[derive(Debug)]
struct Budget {
    limiter: Limiter,
    /// Look-ups that were charged and are not over.
    in_flight: AtomicU32,
    settled: Notify,
}

/// What an attempt to look something up met.
#[derive(Debug)]
pub(super) enum Admission {
    /// Charged: look it up.
    Charged(Reservation),
    /// Others' look-ups took the whole budget, and one of them is over: try again from the cache.
    TryAgain,
    /// Spent on failures; until one more may be made.
    Exhausted(Duration),
}

impl Failures {
    pub(super) fn new(budget: FailureBudget) -> Self {
        let limit = RateLimit { rate: budget.rate, burst: budget.burst };
        Self {
            // The oldest goes first: a stranger with many addresses must not keep his own in.
            budgets: Cache::builder().max_capacity(ADDRESSES_MAX).eviction_policy(EvictionPolicy::lru()).build(),
            policy: Policy { name: PolicyName::Default, limit },
        }
    }

    /// Charges one failure to an address in advance; waits while the budget is only in flight.
    pub(super) async fn charge(&self, address: IpAddr, now: Monotonic) -> Admission {
        let budget = self.budgets.get_with(Origin::of(address), || {
            Arc::new(Budget {
                limiter: Limiter::new(self.policy),
                in_flight: AtomicU32::new(0),
                settled: Notify::new(),
            })
        });
        let settled = budget.settled.notified();
        tokio::pin!(settled);
        // Listening starts before looking, so that nothing that settles in between is missed.
        settled.as_mut().enable();
        loop {
            // In this order: a failure is charged before it leaves the count, so that it is seen in
            // the one or in the other.
            let in_flight = budget.in_flight.load(Ordering::Acquire);
            let (left, wait) = budget.left(now);
            if in_flight < left {
                let more = in_flight + 1;
                if budget.in_flight.compare_exchange(in_flight, more, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return Admission::Charged(Reservation { budget: Arc::clone(&budget), at: now, failed: true });
                }
            } else if in_flight == 0 {
                return Admission::Exhausted(wait);
            } else {
                settled.await;
                return Admission::TryAgain;
            }
        }
    }
}

impl Budget {
    /// Failures that may be made now, and how long until one more.
    fn left(&self, now: Monotonic) -> (u32, Duration) {
        let snapshot = match self.limiter.check(0, now) {
            Ok(spent) => spent.snapshot,
            Err(refusal) => refusal.snapshot,
        };
        (snapshot.remaining, snapshot.reset)
    }
}

impl Origin {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [network @ .., _, _, _, _, _, _, _, _] = address.octets();
                Self::V6(network)
            }
        }
    }
}

/// Room for a failure, held while it is found out whether it is one. Dropped, it is charged: also
/// when its caller went away, or hanging up would make guessing free.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    at: Monotonic,
    failed: bool,
}

impl Reservation {
    /// It was no failure.
    pub(super) fn give_back(mut self) {
        self.failed = false;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.failed {
            // It fits: nobody else was let into the room that was held for it.
            let _ = self.budget.limiter.check(1, self.at);
        }
        let last = self.budget.in_flight.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.budget.settled.notify_waiters();
        } else if !self.failed {
            self.budget.settled.notify_one();
        }
    }
}

/// How many addresses are remembered: 64 Ki at some 300 bytes are 20 MiB.
const ADDRESSES_MAX: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const NOW: Monotonic = Monotonic(3_600_000_000_000);

    fn failures(burst: u32) -> Failures {
        Failures::new(FailureBudget { rate: "10/s".parse().unwrap(), burst: NonZeroU32::new(burst).unwrap() })
    }

    async fn fail(failures: &Failures, address: &str) -> bool {
        matches!(failures.charge(address.parse().unwrap(), NOW).await, Admission::Charged(_))
    }

    #[tokio::test]
    async fn addresses_of_one_party_share_a_budget() {
        for (first, second, shared) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            let failures = failures(1);
            assert!(fail(&failures, first).await);
            assert_eq!(fail(&failures, second).await, !shared, "{first} and {second}");
        }
    }

    #[tokio::test]
    async fn failures_stay_charged_and_come_back_at_the_rate() {
        let failures = failures(2);
        let address = "192.0.2.1".parse().unwrap();
        assert!(fail(&failures, "192.0.2.1").await && fail(&failures, "192.0.2.1").await);
        let Admission::Exhausted(wait) = failures.charge(address, NOW).await else { panic!("a third passed") };
        assert_eq!(wait, Duration::from_millis(100));
        assert!(matches!(failures.charge(address, NOW.after(wait)).await, Admission::Charged(_)));
    }

    #[tokio::test]
    async fn what_was_no_failure_costs_nothing() {
        let failures = failures(1);
        for _ in 0..100 {
            match failures.charge("192.0.2.1".parse().unwrap(), NOW).await {
                Admission::Charged(reservation) => reservation.give_back(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_budget_in_flight_is_waited_for() {
        let failures = failures(1);
        let address = "192.0.2.1".parse().unwrap();
        let Admission::Charged(first) = failures.charge(address, NOW).await else { panic!("the first is refused") };
        let (second, ()) = tokio::join!(failures.charge(address, NOW), async { first.give_back() });
        assert!(matches!(second, Admission::TryAgain), "{second:?}");
        let Admission::Charged(first) = failures.charge(address, NOW).await else { panic!("nothing came back") };
        let (second, ()) = tokio::join!(failures.charge(address, NOW), async { drop(first) });
        assert!(matches!(second, Admission::TryAgain), "{second:?}");
        assert!(matches!(failures.charge(address, NOW).await, Admission::Exhausted(_)), "it was a failure after all");
    }

    #[tokio::test]
    async fn look_ups_that_overlap_for_long_and_succeed_cost_nothing() {
        let failures = failures(20);
        let address = "192.0.2.1".parse().unwrap();
        let mut under_way = std::collections::VecDeque::new();
        let mut now = NOW;
        for _ in 0..5_000 {
            now = now.after(Duration::from_millis(2));
            match failures.charge(address, now).await {
                Admission::Charged(reservation) => under_way.push_back(reservation),
                other => panic!("{other:?} after {:?}", now.since(NOW)),
            }
            if under_way.len() > 8 {
                under_way.pop_front().unwrap().give_back();
            }
        }
    }
}
