//! Sends again what this machine still has: kept segments, and what is settled in those in use. A
//! store that has it changes nothing; one that lost it is whole again.
//!
//! Settled entries first, in any number; those that were never settled last, so that of two slots
//! of one entry the settled one is the event.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::delivery::{BATCH, Delivery};
use super::local::LocalJournals;
use crate::model::audit::Note;
use crate::model::usage::UsageEvent;
use crate::store::{Store, StoreError};
use crate::tasks::blocking;

/// What was sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redrained {
    /// Segments that were read.
    pub segments: u64,
    /// Events.
    pub events: u64,
    /// Those that the store did not have.
    pub restored: u64,
    /// Those that it deleted long ago, and does not take again.
    pub past_retention: u64,
    /// Segments that could not be read.
    #[serde(rename = "unreadable_segments")]
    pub unreadable: u64,
}

/// Why it was not all sent.
#[derive(Debug, thiserror::Error)]
pub enum RedrainError {
    /// The disk.
    #[error("the journals could not be read: {0}")]
    Disk(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Events, in the order in which they may be sent.
struct Source {
    journals: LocalJournals,
    unsettled: Option<Vec<UsageEvent>>,
}

impl Source {
    fn of(dir: &Path) -> Self {
        Self { journals: LocalJournals::of(dir), unsettled: None }
    }

    async fn next(mut self) -> io::Result<(Self, Vec<UsageEvent>)> {
        blocking(move || {
            if self.unsettled.is_none() {
                let settled = self.journals.next_batch()?;
                if !settled.is_empty() {
                    return Ok((self, settled.into_iter().map(|entry| entry.event).collect()));
                }
            }
            let unsettled = self.unsettled.get_or_insert_with(|| self.journals.take_unsettled());
            let batch = unsettled.drain(..BATCH.min(unsettled.len())).collect();
            Ok((self, batch))
        })
        .await
    }
}

/// Sends everything in `dir` (`metering.dir`) to the store; what lies before the mark of its retention
/// is counted and not sent. The audit is told before: nothing is restored without it, wherever it is
/// broken off.
///
/// # Errors
/// The disk or the store fails; what was sent before stays.
pub async fn redrain(dir: &Path, store: &Store) -> Result<Redrained, RedrainError> {
    let mark = store.audit.retention_mark().await?;
    store.trail.record(Note::of_nothing("usage.redrain", "store")).await?;
    let mut redrained = Redrained::default();
    let mut source = Source::of(dir);
    loop {
        let batch;
        (source, batch) = source.next().await?;
        if batch.is_empty() {
            let counts = source.journals.counts();
            (redrained.segments, redrained.unreadable) = (counts.segments, counts.unreadable);
            return Ok(redrained);
        }
        let is_past = |event: &UsageEvent| mark.is_some_and(|mark| event.id.is_before(mark));
        let (past, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_past);
        redrained.past_retention += past.len() as u64;
        redrained.events += batch.len() as u64;
        if !batch.is_empty() {
            redrained.restored += store.usage.record(&batch).await?;
        }
    }
}

/// The same by a process that serves, which tries until the store takes it; how many were sent, or
/// none if the process is stopping.
pub(super) async fn through(dir: &Path, delivery: &Delivery) -> io::Result<Option<u64>> {
    let mut sent = 0;
    let mut source = Source::of(dir);
    loop {
        let batch;
        (source, batch) = source.next().await?;
        if batch.is_empty() {
            return Ok(Some(sent));
        }
        if !delivery.deliver(&batch).await {
            return Ok(None);
        }
        sent += batch.len() as u64;
    }
}
