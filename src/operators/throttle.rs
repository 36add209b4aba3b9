//! How often somebody may try a password: for each name and each address, with a delay that grows.
//!
//! A try is charged before the password is looked at, so that many at once gain nothing, and taken
//! back when it was right. Names and addresses stand for themselves: a botnet meets the name's
//! delay, a list of names the address's. A name's delay is short, because strangers can make it grow
//! for anybody: it slows guessing down to a thousand tries a day and keeps nobody out for long.
//!
//! What is refused leaves nothing behind: no name takes the place of another, and names are known by
//! a digest, so that none is longer than the others.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::crypto::pepper::sha256;
use crate::model::addresses::network_of;
use crate::model::clock::Monotonic;
use crate::model::key::KeyHash;

/// So many wrong ones cost nothing: people mistype.
const FREE: u32 = 5;
/// The longest delay of a name.
const NAME_LONGEST: Duration = Duration::from_mins(1);
/// The longest delay of an address.
const ADDRESS_LONGEST: Duration = Duration::from_mins(15);
/// After so long without a try, what was wrong before is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(30);
/// The most names and addresses that are remembered, each.
const REMEMBERED: u64 = 50_000;

/// What was tried lately.
pub(super) struct Throttle {
    names: Cache<KeyHash, Arc<Mutex<Tries>>>,
    addresses: Cache<IpAddr, Arc<Mutex<Tries>>>,
}

#[derive(Debug, Default)]
struct Tries {
    wrong: u32,
    last: Monotonic,
    /// Until then nothing is tried.
    until: Monotonic,
}

/// A try that was charged.
pub(super) struct Charge {
    name: Arc<Mutex<Tries>>,
    address: Arc<Mutex<Tries>>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        // The oldest goes first: a stranger with many addresses must not keep his own in.
        Self {
            names: Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build(),
            addresses: Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build(),
        }
    }

    /// Charges a try.
    ///
    /// # Errors
    /// How long until the next one.
    pub(super) fn charge(&self, name: &str, address: IpAddr, now: Monotonic) -> Result<Charge, Duration> {
        let (name, address) = (sha256(name.as_bytes()), network_of(address));
        let known = [self.addresses.get(&address), self.names.get(&name)];
        if let Some(wait) = known.iter().flatten().map(|tries| lock(tries).wait(now)).find(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        let name = self.names.get_with(name, Arc::default);
        let address = self.addresses.get_with(address, Arc::default);
        // Both are looked at before either is charged; always in this order.
        let (mut of_name, mut of_address) = (lock(&name), lock(&address));
        let wait = of_name.wait(now).max(of_address.wait(now));
        if !wait.is_zero() {
            return Err(wait);
        }
        of_name.charge(now, NAME_LONGEST);
        of_address.charge(now, ADDRESS_LONGEST);
        drop((of_name, of_address));
        Ok(Charge { name, address })
    }
}

impl Charge {
    /// The password was right: the name starts anew, the address gets this one try back. Otherwise
    /// one good account would buy any number of tries at others.
    pub(super) fn give_back(self) {
        *lock(&self.name) = Tries::default();
        let mut address = lock(&self.address);
        address.wrong = address.wrong.saturating_sub(1);
        address.until = Monotonic::default();
    }
}

impl Tries {
    fn wait(&self, now: Monotonic) -> Duration {
        self.until.since(now)
    }

    fn charge(&mut self, now: Monotonic, longest: Duration) {
        if now.since(self.last) > FORGOTTEN {
            self.wrong = 0;
        }
        self.wrong = self.wrong.saturating_add(1);
        self.last = now;
        if self.wrong >= FREE {
            // 1 s, 2 s, 4 s …
            let doubled = Duration::from_secs(1_u64 << (self.wrong - FREE).min(20));
            self.until = now.after(doubled.min(longest));
        }
    }
}

/// Sections are short, and nothing is awaited in them.
fn lock(tries: &Mutex<Tries>) -> MutexGuard<'_, Tries> {
    tries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "192.0.2.1";

    fn at(second: u64) -> Monotonic {
        Monotonic((100_000 + second) * 1_000_000_000)
    }

    fn wait(throttle: &Throttle, name: &str, address: &str, second: u64) -> u64 {
        throttle.charge(name, address.parse().unwrap(), at(second)).err().map_or(0, |wait| wait.as_secs())
    }

    #[test]
    fn delays_grow_for_a_name_wherever_it_is_tried_from() {
        let throttle = Throttle::new();
        let mut second = 0;
        let mut delays = Vec::new();
        for try_number in 0..14 {
            let address = format!("198.51.100.{try_number}");
            let delay = wait(&throttle, "anna", &address, second);
            if delay > 0 {
                second += delay;
                assert_eq!(wait(&throttle, "anna", &address, second), 0);
            }
            delays.push(delay);
        }
        assert_eq!(delays, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(wait(&throttle, "bert", "198.51.100.1", second), 0, "another name is not delayed");
        assert_eq!(wait(&throttle, "anna", "198.51.100.1", second + 3_600), 0, "and it is forgotten");
        assert_eq!(wait(&throttle, "anna", "198.51.100.1", second + 3_600), 0);
    }

    #[test]
    fn delays_grow_for_an_address_whatever_name_it_tries() {
        let throttle = Throttle::new();
        for number in 0..5 {
            assert_eq!(wait(&throttle, &number.to_string(), "2001:db8::1", 0), 0);
        }
        assert_eq!(wait(&throttle, "6", "2001:db8::2", 0), 1, "a /64 is one party");
        assert_eq!(wait(&throttle, "6", "2001:db8:0:1::2", 0), 0);
    }

    #[test]
    fn a_right_password_frees_the_name_and_gives_the_address_one_try_back() {
        let throttle = Throttle::new();
        let mut guesses = 0;
        while wait(&throttle, &format!("victim {guesses}"), HOME, 0) == 0 {
            guesses += 1;
            assert!(guesses <= 5, "one good account bought any number of tries");
            if let Ok(charge) = throttle.charge("own", HOME.parse().unwrap(), at(0)) {
                charge.give_back();
            }
        }
        assert_eq!(guesses, 5);
        for _ in 0..20 {
            throttle.charge("anna", "192.0.2.2".parse().unwrap(), at(0)).ok().unwrap().give_back();
        }
    }

    #[test]
    fn what_is_refused_is_not_remembered() {
        let throttle = Throttle::new();
        for number in 0..1_000 {
            wait(&throttle, &format!("{number}"), HOME, 0);
        }
        throttle.names.run_pending_tasks();
        assert_eq!(throttle.names.entry_count(), 5, "names that a delayed address tried took the places of others");
    }

    #[test]
    fn many_at_once_are_charged_before_any_is_looked_at() {
        let throttle = Throttle::new();
        let admitted = (0..100).filter(|_| throttle.charge("anna", HOME.parse().unwrap(), at(0)).is_ok()).count();
        assert_eq!(admitted, 5);
    }
}
