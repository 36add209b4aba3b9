//! The follower of changes: what makes a revocation reach this process within a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clients::LiveClients;
use crate::model::clock::{Monotonic, SharedClock};
use crate::store::changes::Change;
use crate::store::{ChangeReader, ChangeStore, StoreError};
use crate::tasks::Tasks;

use super::cache::IdentityCache;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long a look may take before the store counts as unreachable.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long changes stay readable for followers that are behind.
const KEPT: Duration = Duration::from_hours(24);

/// Pause between two clean-ups of old change rows and idle clients.
const CLEAN_UP: Duration = Duration::from_mins(1);

/// What the follower knows; read by every authentication.
#[derive(Debug)]
pub(super) struct FeedState {
    /// When the last look that succeeded began.
    confirmed_at: AtomicU64,
    /// Whether the last look reached the store.
    reachable: AtomicBool,
    /// How many changes were applied: a load that saw this number move reads again.
    applied: AtomicU64,
}

impl FeedState {
    pub(super) fn new(now: Monotonic) -> Self {
        Self { confirmed_at: AtomicU64::new(now.0), reachable: AtomicBool::new(true), applied: AtomicU64::new(0) }
    }

    pub(super) fn confirmed_at(&self) -> Monotonic {
        Monotonic(self.confirmed_at.load(Ordering::Acquire))
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Acquire)
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) fn confirm_for_test(&self, began: Monotonic) {
        self.confirm(began);
    }

    #[cfg(test)]
    pub(super) fn fail_for_test(&self, error: &StoreError) {
        self.fail(error);
    }

    fn confirm(&self, began: Monotonic) {
        self.confirmed_at.store(began.0, Ordering::Release);
        if !self.reachable.swap(true, Ordering::AcqRel) {
            tracing::info!("the store answers again");
        }
    }

    fn fail(&self, error: &StoreError) {
        // Once per outage, at its beginning.
        let was_reachable = self.reachable.swap(!error.is_transient(), Ordering::AcqRel);
        if was_reachable {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the feed of changes cannot be read; known keys are served up to auth.max_stale"
            );
        }
    }
}

/// Everything a change is applied to.
pub(super) struct Follower {
    pub(super) state: Arc<FeedState>,
    pub(super) cache: Arc<IdentityCache>,
    pub(super) clients: Arc<LiveClients>,
    pub(super) changes: Arc<dyn ChangeStore>,
    pub(super) clock: SharedClock,
}

impl Follower {
    /// Follows until the process stops.
    pub(super) async fn run(self, tasks: Tasks) {
        let mut reader = None;
        let mut cleaned_at = self.clock.monotonic();
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = tasks.hard().cancelled() => return,
                _ = tick.tick() => {}
            }
            if let Err(error) = self.look(&mut reader).await {
                self.state.fail(&error);
                // A reader keeps its place over an outage; one that failed otherwise is replaced.
                if !error.is_transient() {
                    reader = None;
                }
            }
            let now = self.clock.monotonic();
            if now.since(cleaned_at) >= CLEAN_UP {
                cleaned_at = now;
                self.clean_up(now).await;
            }
        }
    }

    async fn look(&self, reader: &mut Option<Box<dyn ChangeReader>>) -> Result<(), StoreError> {
        let began = self.clock.monotonic();
        let followed = if let Some(reader) = reader {
            reader
        } else {
            let fresh = within(self.changes.follow()).await?;
            // What happened before this reader's beginning was not heard of.
            self.apply(Change::All);
            reader.insert(fresh)
        };
        for change in within(followed.poll()).await? {
            self.apply(change);
        }
        self.state.confirm(began);
        Ok(())
    }

    /// The count first, then the effect: a load that saw the old count and is not told to read
    /// again has taken its generation before the effect, and is void by it.
    pub(super) fn apply(&self, change: Change) {
        self.state.applied.fetch_add(1, Ordering::AcqRel);
        match change {
            Change::Client(client) => {
                self.clients.bump(client);
                self.cache.forget_all_unknown();
            }
            Change::Key { client, added, .. } => {
                self.clients.bump(client);
                if added {
                    self.cache.forget_all_unknown();
                }
            }
            Change::All => {
                self.clients.bump_all();
                self.cache.forget_all_unknown();
            }
        }
    }

    async fn clean_up(&self, now: Monotonic) {
        self.clients.sweep(now);
        if !self.state.is_reachable() {
            return;
        }
        let Ok(before) = self.clock.wall().checked_sub(KEPT) else { return };
        if let Err(error) = self.changes.prune(before).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old change rows could not be deleted; trying again in a minute"
            );
        }
    }
}

async fn within<T>(look: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(answer) => answer,
        Err(late) => Err(StoreError::Unavailable { operation: "poll_changes", source: late.into() }),
    }
}
