//! Following the store's changes, so that a revocation is seen within a second.
//!
//! [`FeedState`] is what requests read: until when the feed is confirmed, since when without a
//! gap, and whether the store answers at all. [`Follower`] is the one task that writes it: four
//! times a second it asks what changed, voids what that concerns, and only then confirms the
//! moment at which it *began* to ask.
//!
//! A poll that fails costs the position in the feed: what was committed until a new reader
//! stands may have been missed. Identities read before that are not void, or a flapping store
//! would lock everybody out; they are unconfirmed, and re-checked before use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::cache::Unknowns;
use crate::clients::LiveClients;
use crate::model::clock::{Monotonic, SharedClock};
use crate::store::changes::Change;
use crate::store::{ChangeReader, ChangeStore, StoreError};
use crate::telemetry::metrics::Metrics;

/// How far the feed can be trusted. Read by every request, without a lock.
#[derive(Debug)]
pub(super) struct FeedState {
    /// The last successful poll began then.
    confirmed_at: AtomicU64,
    /// The present or last reader stands since then; `u64::MAX` before the first. Once a poll
    /// failed nothing is confirmed any more, and the next reader moves this.
    unbroken_since: AtomicU64,
    reachable: AtomicBool,
}

impl FeedState {
    /// Nothing is confirmed yet; the store is taken to be there until it is missed.
    pub(super) fn new() -> Self {
        Self {
            confirmed_at: AtomicU64::new(0),
            unbroken_since: AtomicU64::new(u64::MAX),
            reachable: AtomicBool::new(true),
        }
    }

    /// Whether a change to something read at `loaded_at` would be known by now, but for the last
    /// second.
    pub(super) fn covers(&self, loaded_at: Monotonic, now: Monotonic) -> bool {
        if now.since(loaded_at) <= UNCONFIRMED_MAX {
            return true;
        }
        let confirmed_at = Monotonic(self.confirmed_at.load(Ordering::Acquire));
        let unbroken = loaded_at.0 >= self.unbroken_since.load(Ordering::Acquire);
        unbroken && now.since(confirmed_at) <= UNCONFIRMED_MAX
    }

    /// Whether the store answered when it was last asked.
    pub(super) fn store_is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }
}

/// Keeps a [`FeedState`] true.
pub(super) struct Follower {
    pub(super) changes: Arc<dyn ChangeStore>,
    pub(super) state: Arc<FeedState>,
    pub(super) clients: Arc<LiveClients>,
    pub(super) unknowns: Arc<Unknowns>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reader: Option<Box<dyn ChangeReader>>,
    /// Whether the last poll failed, so that it is told once.
    pub(super) lost: bool,
}

impl Follower {
    /// Polls until it is told to stop.
    pub(super) async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let follow = async {
            loop {
                self.step().await;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    /// One poll, and a reader first if there is none.
    pub(super) async fn step(&mut self) {
        match self.poll().await {
            Ok(()) => {
                self.state.reachable.store(true, Ordering::Relaxed);
                if std::mem::take(&mut self.lost) {
                    tracing::info!("changes are followed again");
                }
            }
            Err(failure) => self.lose(&failure),
        }
    }

    async fn poll(&mut self) -> Result<(), PollFailure> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open().await?,
        };
        let began = self.clock.monotonic();
        let changes = {
            let poll = reader.poll();
            tokio::pin!(poll);
            match timeout(POLL_TIMEOUT, poll.as_mut()).await {
                Ok(changes) => changes?,
                Err(_elapsed) => {
                    // Requests stop waiting for the store now. The answer, if it still comes, is
                    // as good as a fast one, and saves the position in the feed.
                    self.state.reachable.store(false, Ordering::Relaxed);
                    timeout(POLL_GIVE_UP, poll).await.map_err(|_| PollFailure::TimedOut)??
                }
            }
        };
        self.reader = Some(reader);
        for change in changes {
            self.apply(change);
        }
        // Last: whoever sees the confirmation sees what was voided as well.
        self.state.confirmed_at.store(began.0, Ordering::Release);
        Ok(())
    }

    async fn open(&mut self) -> Result<Box<dyn ChangeReader>, PollFailure> {
        let reader = timeout(POLL_GIVE_UP, self.changes.follow()).await.map_err(|_| PollFailure::TimedOut)??;
        // The reader's position is not later than this moment, so what was read from here on is
        // covered. Answers that a key is unknown are not worth the same care.
        self.state.unbroken_since.store(self.clock.monotonic().0, Ordering::Release);
        self.unknowns.flush();
        Ok(reader)
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Client(client) => {
                self.clients.bump(client);
                // Its legacy hash may be new.
                self.unknowns.flush();
            }
            Change::Key { client, added, .. } => {
                self.clients.bump(client);
                if added {
                    self.unknowns.flush();
                }
            }
            Change::All => {
                self.clients.bump_all();
                self.unknowns.flush();
            }
        }
    }

    /// Notes that the position in the feed is lost.
    fn lose(&mut self, failure: &PollFailure) {
        self.reader = None;
        self.metrics.store_failed("changes.poll");
        self.state.reachable.store(failure.store_is_reachable(), Ordering::Relaxed);
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!(
                error = failure as &dyn std::error::Error,
                "changes cannot be followed; identities are re-checked before use, or serve until auth.max_stale"
            );
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PollFailure {
    #[error("the store did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PollFailure {
    fn store_is_reachable(&self) -> bool {
        match self {
            Self::TimedOut => false,
            Self::Store(error) => !error.is_transient(),
        }
    }
}

/// Between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// After this a store counts as away: requests no longer wait for it.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);

/// After this more a poll is given up, and the position with it.
const POLL_GIVE_UP: Duration = Duration::from_secs(2);

/// For so long nothing need be confirmed: the promise is a second.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_the_feed_covers() {
        let at = |seconds: u64| Monotonic(seconds * SECOND);
        for (confirmed_at, unbroken_since, loaded_at, now, covered) in [
            // Confirmed a second ago, and read under this reader.
            (99, 50, 60, 100, true),
            (100, 50, 50, 100, true),
            // Confirmed too long ago.
            (98, 50, 60, 100, false),
            // Read before the reader stood: changes in the gap are not known.
            (100, 50, 49, 100, false),
            // Read within the last second: as fresh as any confirmation.
            (10, u64::MAX / SECOND, 99, 100, true),
            (10, u64::MAX / SECOND, 98, 100, false),
        ] {
            let state = FeedState::new();
            state.confirmed_at.store(at(confirmed_at).0, Ordering::Relaxed);
            state.unbroken_since.store(at(unbroken_since).0, Ordering::Relaxed);
            let case = (confirmed_at, unbroken_since, loaded_at, now);
            assert_eq!(state.covers(at(loaded_at), at(now)), covered, "{case:?}");
        }
    }
}
