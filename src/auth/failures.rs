//! The budget of failed credentials an address has: guessing is cheap to refuse.
//!
//! Charged before the look-up and given back when the credential turns out good, so that many
//! guesses in flight at once cannot pass a budget that only one of them would leave. Known
//! credentials never come here: nobody behind a shared address is locked out by a neighbour.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use moka::sync::Cache;

use super::error::AuthError;
use crate::clients::limiter::Limiter;
use crate::config::auth::FailureBudget;
use crate::model::clock::Monotonic;
use crate::model::rate::RateLimit;

/// Addresses remembered at a time. The least used are forgotten first, and with them their
/// debts: an attacker with more addresses than this gains nothing that the addresses themselves
/// would not give.
const REMEMBERED: u64 = 65_536;

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// The budgets of all addresses.
#[derive(Debug)]
pub(super) struct Failures {
    limit: RateLimit,
    addresses: Cache<IpAddr, Arc<Limiter>>,
}

/// A charge that can be given back.
#[derive(Debug)]
pub(super) struct FailureCharge(Arc<Limiter>);

impl FailureCharge {
    /// The credential was good after all, or nobody could say.
    pub(super) fn give_back(self) {
        self.0.give_back(ONE);
    }
}

impl Failures {
    pub(super) fn new(budget: FailureBudget) -> Self {
        let limit = RateLimit::new(budget.rate, Some(budget.burst));
        Self { limit, addresses: Cache::new(REMEMBERED) }
    }

    /// Spends one failure of `address`.
    pub(super) fn charge(&self, address: IpAddr, now: Monotonic) -> Result<FailureCharge, AuthError> {
        let limiter = self.addresses.get_with(network(address), || Arc::new(Limiter::new(self.limit)));
        match limiter.check(ONE, now) {
            Ok(_) => Ok(FailureCharge(limiter)),
            Err(refused) => {
                let wait = refused.wait.unwrap_or_default().as_nanos().div_ceil(1_000_000_000);
                let retry_after_seconds = u64::try_from(wait).unwrap_or(u64::MAX).max(1);
                Err(AuthError::TooManyFailures { retry_after_seconds })
            }
        }
    }
}

/// Who shares a budget: an IPv4 address, or the /64 that an IPv6 subscriber is given.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_subscriber_share_a_budget() {
        for (one, other, shared) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            assert_eq!(network(one.parse().unwrap()) == network(other.parse().unwrap()), shared, "{one} {other}");
        }
    }

    #[test]
    fn a_charge_that_is_given_back_costs_nothing() {
        let failures =
            Failures::new(FailureBudget { rate: "1/m".parse().unwrap(), burst: NonZeroU32::new(2).unwrap() });
        let (address, now) = ("192.0.2.1".parse().unwrap(), Monotonic(1_000_000_000));
        for _ in 0..10 {
            failures.charge(address, now).unwrap().give_back();
        }
        failures.charge(address, now).unwrap();
        failures.charge(address, now).unwrap();
        assert_eq!(failures.charge(address, now).unwrap_err(), AuthError::TooManyFailures { retry_after_seconds: 60 });
    }
}
