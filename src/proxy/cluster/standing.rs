//! How one endpoint stands: by its checks, and by what became of requests.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Cluster, Handles};
use crate::config::balancing::EjectionConfig;
use crate::model::clock::Monotonic;

/// Not ejected; no time.
const NEVER: u64 = 0;

/// An ejection lasts at most so many times the first.
const LONGEST: u32 = 10;

/// See the module. Times are nanoseconds of [`Monotonic`].
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) open: AtomicUsize,
    pub(super) metrics: Handles,
    /// By its checks; true where there are none.
    healthy: AtomicBool,
    failures: AtomicU32,
    ejected_until: AtomicU64,
    /// How often in a row.
    ejections: AtomicU32,
    returned_at: AtomicU64,
}

impl Standing {
    pub(super) fn new(metrics: Handles) -> Self {
        metrics.health.set(1);
        Self {
            open: AtomicUsize::new(0),
            metrics,
            healthy: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(NEVER),
            ejections: AtomicU32::new(0),
            returned_at: AtomicU64::new(NEVER),
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Monotonic) -> bool {
        self.ejected_until.load(Relaxed) > now.0
    }

    /// Whether it may get a request; one whose time is over comes back.
    pub(super) fn may_serve(&self, now: Monotonic, ejection: &EjectionConfig, of: &Cluster) -> bool {
        let until = self.ejected_until.load(Relaxed);
        if until != NEVER {
            if until > now.0 {
                return false;
            }
            // One of those who see it brings it back.
            if self.ejected_until.compare_exchange(until, NEVER, Relaxed, Relaxed).is_ok() {
                self.returned_at.store(now.0.max(1), Relaxed);
                self.tell();
                let (endpoint, over) = (self.metrics.endpoint(), ejection.return_time);
                tracing::info!(upstream = of.name(), endpoint, ?over, "an ejected endpoint comes back bit by bit");
            }
        }
        self.is_well()
    }

    /// Whether it takes this request, `random`, while it comes back.
    pub(super) fn takes_share(&self, now: Monotonic, ejection: &EjectionConfig, random: u64) -> bool {
        let returned = self.returned_at.load(Relaxed);
        if returned == NEVER {
            return true;
        }
        let whole = u64::try_from(ejection.return_time.as_nanos()).unwrap_or(u64::MAX);
        let back = now.0.saturating_sub(returned);
        if back >= whole {
            self.returned_at.store(NEVER, Relaxed);
            return true;
        }
        // A tenth at once, so that it can prove itself.
        random % whole < back.max(whole / 10)
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) > 0 && self.returned_at.load(Relaxed) == NEVER {
            // All the way back: the next ejection is a first one.
            self.ejections.store(0, Relaxed);
        }
    }

    pub(super) fn failed(&self, now: Monotonic, ejection: &EjectionConfig, of: &Cluster) {
        if ejection.consecutive_failures == 0 {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if failures < ejection.consecutive_failures || self.is_ejected(now) || !of.may_eject(now) {
            return;
        }
        self.failures.store(0, Relaxed);
        let times = (self.ejections.fetch_add(1, Relaxed) + 1).min(LONGEST);
        let lasts = ejection.base_time * times;
        self.ejected_until.store(now.after(lasts).0, Relaxed);
        self.returned_at.store(NEVER, Relaxed);
        self.metrics.ejections.inc();
        self.tell();
        let endpoint = self.metrics.endpoint();
        tracing::warn!(upstream = of.name(), endpoint, failures, ?lasts, "an endpoint fails and is ejected");
    }

    /// Notes what a check found; whether that is news.
    pub(super) fn checked(&self, is_healthy: bool) -> bool {
        let was = self.healthy.swap(is_healthy, Relaxed);
        self.tell();
        was != is_healthy
    }

    fn tell(&self) {
        let is_out = self.ejected_until.load(Relaxed) != NEVER;
        self.metrics.health.set(i64::from(self.is_well() && !is_out));
    }
}
