//! How many callers may be connected: in all, and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::config::server::ServerConfig;
use crate::model::addresses::network_of;
use crate::telemetry::metrics::Metrics;

/// `server.limits.connections` and `connections_per_address`, shared by all workers.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    open: AtomicUsize,
    /// None: an address may have as many as there are.
    per_address: Option<PerAddress>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct PerAddress {
    exempt: Vec<IpNet>,
    crowds: Crowds,
}

/// How many are there from each address, and how many may be: for a /64 of IPv6 as for one.
#[derive(Clone, Debug)]
pub struct Crowds {
    limit: usize,
    // A std mutex: held for a look when a connection begins and when it ends.
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of a crowd, until it is dropped.
#[derive(Debug)]
pub struct Member {
    of: Crowds,
    address: IpAddr,
}

impl Crowds {
    /// So many of each address.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// One more from there; none: there are as many as there may be.
    #[must_use]
    pub fn join(&self, address: IpAddr) -> Option<Member> {
        let address = network_of(address);
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Member { of: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut open = self.of.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

impl Places {
    /// `limit` places in all, for callers by the rules of `config`.
    #[must_use]
    pub fn new(limit: usize, config: &ServerConfig, metrics: Arc<Metrics>) -> Self {
        let per_address = config
            .limits
            .connections_per_address
            .map(|limit| PerAddress { exempt: config.trusted_proxies.clone(), crowds: Crowds::new(limit) });
        Self(Arc::new(Shared { limit, open: AtomicUsize::new(0), per_address, metrics }))
    }

    /// What is counted besides.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// A place; none: all are taken.
    pub(super) fn take(&self) -> Option<Place> {
        if self.0.open.fetch_add(1, Relaxed) >= self.0.limit {
            self.0.open.fetch_sub(1, Relaxed);
            return None;
        }
        self.0.metrics.connections_open.inc();
        Some(Place { of: self.clone(), member: None })
    }
}

/// One open connection; the place is free again when it is dropped.
pub(super) struct Place {
    of: Places,
    /// Under whose address it is counted too.
    member: Option<Member>,
}

impl Place {
    /// Counts it under who calls, once that is known. False: that address has as many as it may.
    pub(super) fn is_for(&mut self, caller: IpAddr) -> bool {
        let Some(rule) = &self.of.0.per_address else { return true };
        let caller = caller.to_canonical();
        if rule.exempt.iter().any(|network| network.contains(&caller)) {
            return true;
        }
        self.member = rule.crowds.join(caller);
        self.member.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.of.0;
        shared.open.fetch_sub(1, Relaxed);
        shared.metrics.connections_open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::config;

    fn places(limit: usize, per_address: usize) -> Places {
        let mut config = config();
        config.limits.connections_per_address = Some(per_address);
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        Places::new(limit, &config, Metrics::new(&[], &[]))
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let places = places(1, 9);
        let taken = places.take();
        assert!(taken.is_some() && places.take().is_none());
        drop(taken);
        assert!(places.clone().take().is_some());
    }

    #[test]
    fn an_address_has_its_share_and_a_proxy_has_none() {
        let places = places(100, 2);
        let take = |address: &str| {
            let mut place = places.take().unwrap();
            place.is_for(address.parse().unwrap()).then_some(place)
        };
        let held = [take("192.0.2.1"), take("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some) && take("192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        let network = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(network.iter().all(Option::is_some) && take("2001:db8::3").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        let proxied: Vec<_> = (0..5).map(|_| take("10.1.2.3")).collect();
        assert!(proxied.iter().all(Option::is_some));
        drop((held, network));
        assert!(take("192.0.2.1").is_some() && take("2001:db8::3").is_some());
    }
}
