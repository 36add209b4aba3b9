//! When sessions and tokens were last used, written down coarsely.
//!
//! Owns: that nobody is kept out because it cannot be written. A store that takes no changes (its writer
//! is busy, its disk full, the server a standby) is what operators come to look at: who they are is read,
//! and the time is kept here until it can be written.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::Operators;
use crate::model::clock::Monotonic;
use crate::store::StoreError;

/// How long a request waits for its time to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after a failure it is not tried again for the same session or token.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A use that could not be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwritten {
    seen_at: Timestamp,
    tried_at: Monotonic,
}

impl Operators {
    /// Has `write` note that a session or token is used now; whether it was written.
    pub(super) async fn note(
        &self,
        id: Uuid,
        now: Timestamp,
        write: impl Future<Output = Result<(), StoreError>>,
    ) -> bool {
        let moment = self.clock.monotonic();
        let tried_at = self.unwritten.get(&id).map(|unwritten| unwritten.tried_at);
        if let Some(tried_at) = tried_at.filter(|tried_at| moment.since(*tried_at) < TRIED_AGAIN_AFTER) {
            self.unwritten.insert(id, Unwritten { seen_at: now, tried_at });
            return false;
        }
        match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(())) => {
                self.unwritten.invalidate(&id);
                return true;
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "when a session or token was used was not written");
            }
            Err(_) => tracing::warn!("when a session or token was used was not written: the store takes too long"),
        }
        self.unwritten.insert(id, Unwritten { seen_at: now, tried_at: moment });
        false
    }

    /// When a session was seen last: by its row, or later, where that could not be written.
    pub(super) fn last_seen(&self, id: Uuid, written: Timestamp) -> Timestamp {
        self.unwritten.get(&id).map_or(written, |unwritten| unwritten.seen_at.max(written))
    }
}
