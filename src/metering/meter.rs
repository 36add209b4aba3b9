//! A worker's handle on the journal, and an admitted entry.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::lane::{Lane, Ticket};
use crate::config::metering::OnFull;
use crate::model::clock::Monotonic;
use crate::model::usage::{Admission, Settlement};

/// A worker's handle on the journal: cheap to clone, and to be used by that worker.
#[derive(Clone)]
pub struct Meter {
    lane: Arc<Lane>,
    on_full: OnFull,
    lost: Counter,
}

/// The journal cannot take another entry and the policy is to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is full")]
pub struct JournalFull;

impl Meter {
    pub(super) fn new(lane: Arc<Lane>, on_full: OnFull, lost: Counter) -> Self {
        Self { lane, on_full, lost }
    }

    /// Writes the first half of a slot: no system call, no lock that another worker takes.
    ///
    /// # Errors
    /// The journal is full, and `metering.on_full` is `refuse`.
    pub fn admit(&self, admission: &Admission) -> Result<Entry, JournalFull> {
        let refuses = self.lane.gate().is_some_and(|gate| gate.refuses());
        let ticket = if refuses { None } else { self.lane.admit(admission) };
        let admitted = match (ticket, self.on_full) {
            (Some(ticket), _) => {
                let since = self.lane.clock().monotonic();
                Some(Admitted { lane: Arc::clone(&self.lane), ticket, since })
            }
            (None, OnFull::Serve) => {
                self.lost.inc();
                None
            }
            (None, OnFull::Refuse) => return Err(JournalFull),
        };
        Ok(Entry { admitted })
    }
}

/// An admitted request. Dropped without [`Entry::settle`], it settles itself with what it knows
/// (`not_sent`, or `client_gone` once marked sent). May be settled on any thread.
///
/// Under `metering.on_full = "serve"` a full journal gives entries that are counted as lost and
/// do nothing.
#[derive(Debug)]
#[must_use = "an entry that is dropped is settled"]
pub struct Entry {
    admitted: Option<Admitted>,
}

struct Admitted {
    lane: Arc<Lane>,
    ticket: Ticket,
    since: Monotonic,
}

impl Entry {
    /// Resolves when the first half is as durable as `metering.sync` promises. Only `every`
    /// ever waits.
    pub async fn durable(&self) {
        if let Some(gate) = self.admitted.as_ref().and_then(|admitted| admitted.lane.gate()) {
            gate.pass().await;
        }
    }

    /// Marks that something is about to leave for the upstream.
    pub fn mark_sent(&self) {
        self.mark(true);
    }

    /// Takes the mark back: it turned out that nothing left.
    pub fn clear_sent(&self) {
        self.mark(false);
    }

    /// Writes an interim record of this entry's exchange, whole and at once, in a slot of its own.
    /// Whether there was room; if not, what it says is left to the next one.
    #[must_use]
    pub fn record(&self, part: &Admission, settlement: &Settlement) -> bool {
        let Some(Admitted { lane, .. }) = &self.admitted else { return false };
        let refuses = lane.gate().is_some_and(|gate| gate.refuses());
        !refuses && lane.record(part, settlement)
    }

    /// Writes the second half.
    pub fn settle(mut self, settlement: &Settlement) {
        if let Some(admitted) = self.admitted.take() {
            admitted.lane.settle(admitted.ticket, settlement);
        }
    }

    fn mark(&self, sent: bool) {
        if let Some(admitted) = &self.admitted {
            admitted.lane.mark(admitted.ticket, sent);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            admitted.lane.abandon(admitted.ticket, admitted.since);
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Meter").field("on_full", &self.on_full).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Admitted").field("ticket", &self.ticket).field("since", &self.since).finish_non_exhaustive()
    }
}
