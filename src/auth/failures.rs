//! The budget of failures of an address: how many unknown credentials it may present.
//!
//! An address is what one party usually holds: an IPv4 address, or the /64 of an IPv6 one. Only
//! look-ups are charged, and before they are made, so that guessing never costs the store more
//! than the budget; a look-up that finds its key, or learns nothing, is given back. A credential
//! that is cached never comes here: nobody is locked out by a neighbour's bad key.
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

use crate::clients::limiter::{Limiter, Policy, PolicyName, Spent};
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
        match budget.limiter.check(1, now) {
            Ok(spent) => {
                budget.in_flight.fetch_add(1, Ordering::AcqRel);
                Admission::Charged(Reservation { budget: Arc::clone(&budget), spent })
            }
            Err(refusal) if budget.in_flight.load(Ordering::Acquire) == 0 => Admission::Exhausted(refusal.wait),
            Err(_) => {
                settled.await;
                Admission::TryAgain
            }
        }
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

/// A failure charged in advance. Dropped, it stays charged: also when its caller went away, or
/// hanging up would make guessing free.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    spent: Spent,
}

impl Reservation {
    /// It was no failure.
    pub(super) fn give_back(self, now: Monotonic) {
        self.budget.limiter.give_back(&self.spent, now);
        self.budget.settled.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.budget.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.budget.settled.notify_waiters();
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
                Admission::Charged(reservation) => reservation.give_back(NOW),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_budget_in_flight_is_waited_for() {
        let failures = failures(1);
        let address = "192.0.2.1".parse().unwrap();
        let Admission::Charged(first) = failures.charge(address, NOW).await else { panic!("the first is refused") };
        let (second, ()) = tokio::join!(failures.charge(address, NOW), async { first.give_back(NOW) });
        assert!(matches!(second, Admission::TryAgain), "{second:?}");
        let Admission::Charged(first) = failures.charge(address, NOW).await else { panic!("nothing came back") };
        let (second, ()) = tokio::join!(failures.charge(address, NOW), async { drop(first) });
        assert!(matches!(second, Admission::TryAgain), "{second:?}");
        assert!(matches!(failures.charge(address, NOW).await, Admission::Exhausted(_)), "it was a failure after all");
    }
}
