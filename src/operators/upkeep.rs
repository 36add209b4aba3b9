//! Forgetting what is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Operators;
use crate::tasks::Tasks;

/// How often.
const EVERY: Duration = Duration::from_hours(1);

/// How long ended sessions stay, to be looked at.
const SESSIONS_STAY: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How long an `Idempotency-Key` is remembered.
const ANSWERS_STAY: SignedDuration = SignedDuration::from_hours(24);

impl Operators {
    /// Deletes sessions and idempotency keys that are over, once an hour, until the process stops.
    pub fn keep_up(self: &Arc<Self>, tasks: &Tasks) {
        let (operators, stop) = (Arc::clone(self), tasks.hard().clone());
        tasks.spawn_control(async move {
            stop.run_until_cancelled(async move {
                loop {
                    operators.forget(operators.clock.wall()).await;
                    tokio::time::sleep(EVERY).await;
                }
            })
            .await;
        });
    }

    /// Deletes what is over. What fails is tried again an hour later.
    pub async fn forget(&self, now: Timestamp) {
        let before = |stay| now.checked_sub(stay).unwrap_or(Timestamp::MIN);
        let sessions = self.store.operators.prune_sessions(before(SESSIONS_STAY)).await;
        let answers = self.store.idempotency.prune(before(ANSWERS_STAY)).await;
        for error in [sessions.err(), answers.err()].into_iter().flatten() {
            tracing::debug!(%error, "sessions and answers that are over were not deleted");
        }
    }
}
