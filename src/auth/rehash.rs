//! Moves hashes to the current pepper: a key that was found under the other one is hashed anew, in
//! its row, off the request path.
//!
//! Only where nobody is locked out by it: every live process must know the current pepper, which
//! the store sees to in the step that moves. While two peppers are swapped some processes have the
//! one as current and some the other; so that they do not pull a hash to and fro, the younger
//! pepper wins, and a way back is gone only when every process goes it.
//!
//! What may not be moved yet waits. What does not fit into the queue, or fails, is dropped: the
//! identity's next refresh asks again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::pepper_guard::PepperVersions;
use crate::crypto::pepper::Peppers;
use crate::store::rotation::{HashMove, MoveTarget, Moved, RotationStore};
use crate::telemetry::metrics::Metrics;

/// The queue, and what works it off.
pub(super) struct Rehasher {
    store: Arc<dyn RotationStore>,
    metrics: Arc<Metrics>,
    target: MoveTarget,
    /// Held for a push or a take, never across an await.
    queue: Mutex<Vec<HashMove>>,
    more: Notify,
}

impl Rehasher {
    pub(super) fn new(
        store: Arc<dyn RotationStore>,
        metrics: Arc<Metrics>,
        peppers: &Peppers,
        versions: PepperVersions,
    ) -> Self {
        // Versions are given in the order in which peppers became current. One that never was has
        // none, and is the younger.
        let is_younger = versions.previous.is_some_and(|previous| previous < versions.current);
        let target = MoveTarget {
            version: versions.current,
            fingerprint: peppers.current.fingerprint(),
            everywhere_current: !is_younger,
        };
        Self { store, metrics, target, queue: Mutex::default(), more: Notify::new() }
    }

    /// Asks for a hash to be moved, sooner or later.
    pub(super) fn push(&self, one: HashMove) {
        let mut queue = self.lock();
        if queue.len() < QUEUE_MAX {
            queue.push(one);
            self.more.notify_one();
        }
    }

    /// Moves what is asked for until it is told to stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            loop {
                self.more.notified().await;
                while self.step().await == Moved::Blocked {
                    tokio::time::sleep(BLOCKED_PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Works the queue off, or finds that nothing may be moved yet.
    pub(super) async fn step(&self) -> Moved {
        let mut rows = 0;
        loop {
            let batch = self.take();
            if batch.is_empty() {
                return Moved::Rows(rows);
            }
            match self.store.move_hashes(&batch, &self.target).await {
                Ok(Moved::Rows(moved)) => rows += moved,
                Ok(Moved::Blocked) => {
                    // What came in meanwhile has room as well: the queue is a bound for growth.
                    self.lock().extend(batch);
                    return Moved::Blocked;
                }
                Err(error) => {
                    self.metrics.store_failed("rotation.move_hashes");
                    tracing::debug!(error = &error as &dyn std::error::Error, "hashes stay under the other pepper");
                }
            }
        }
    }

    fn take(&self) -> Vec<HashMove> {
        let mut queue = self.lock();
        let rest = queue.len().saturating_sub(BATCH);
        queue.split_off(rest)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HashMove>> {
        // No code that can panic runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as identities are remembered: whoever is looked up after a restart is asked for once, and
/// need not wait for a refresh that may be long in coming where many are due. 7 MB at most.
const QUEUE_MAX: usize = 100_000;

/// Hashes moved in one statement.
const BATCH: usize = 64;

/// Between two tries while a live process would lose its keys: it is being restarted, and asking
/// more often would not hurry that.
const BLOCKED_PAUSE: Duration = Duration::from_secs(2);
