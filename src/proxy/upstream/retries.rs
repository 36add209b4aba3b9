//! How many requests may be tried again: a share of all, so that an upstream that fails is not sent
//! more for failing (Google SRE Book, "Handling Overload").

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::model::clock::Monotonic;

/// Half of what is looked back on.
const HALF: Duration = Duration::from_secs(5);

/// Of a hundred requests, so many may be tried again.
const SHARE: u64 = 20;

/// So many always may: with little traffic a share is nothing.
const FLOOR: u64 = 3;

/// Of one upstream, on one worker.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    // Atomics for `Send`: a worker's own, so nothing contends.
    requests: AtomicU64,
    retries: AtomicU64,
    requests_before: AtomicU64,
    retries_before: AtomicU64,
    since: AtomicU64,
}

impl RetryBudget {
    /// A request has come.
    pub(super) fn count(&self) {
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
    }

    /// Whether one may be tried again; it counts then.
    pub(super) fn take(&self) -> bool {
        let requests = self.requests.load(Relaxed) + self.requests_before.load(Relaxed);
        let retries = self.retries.load(Relaxed) + self.retries_before.load(Relaxed);
        let may = retries < FLOOR.max(requests * SHARE / 100);
        if may {
            self.retries.store(self.retries.load(Relaxed) + 1, Relaxed);
        }
        may
    }

    /// Forgets what is long ago.
    pub(super) fn tick(&self, now: Monotonic) {
        if now.since(Monotonic(self.since.load(Relaxed))) < HALF {
            return;
        }
        self.since.store(now.0, Relaxed);
        self.requests_before.store(self.requests.swap(0, Relaxed), Relaxed);
        self.retries_before.store(self.retries.swap(0, Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget, asked: usize) -> usize {
        (0..asked).filter(|_| budget.take()).count()
    }

    #[test]
    fn a_fifth_of_the_last_seconds_may_be_tried_again_and_three_always() {
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, 10), 3);
        (0..100).for_each(|_| budget.count());
        assert_eq!(taken(&budget, 100), 17);
        let later = |seconds| Monotonic::default().after(Duration::from_secs(seconds));
        budget.tick(later(6));
        assert_eq!(taken(&budget, 10), 0, "the last half still counts");
        budget.tick(later(12));
        budget.tick(later(18));
        assert_eq!(taken(&budget, 10), 3);
    }
}
