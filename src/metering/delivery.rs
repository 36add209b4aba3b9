//! One batch of events on its way to the store: tried until every row is committed or set aside.
//!
//! Owns what to do about each kind of failure. The store's batches are atomic and may be repeated
//! at will, so whatever is in doubt is sent again:
//!
//! - *transient* (the store is away): the same batch again, ever later, for ever;
//! - *permanent* (the store refuses the content): the batch is halved until the rows at fault
//!   stand alone; those are set aside, all others are committed;
//! - *past retention*: what the store deleted long ago is set aside, never billed again;
//! - permanent for *every* row of a large batch: not the rows' fault but the store's (a table is
//!   missing, a right was withdrawn). Nothing is set aside; it counts as transient.
//!
//! Once the process is stopping, a store that is away gets a few more chances and then the batch
//! stays in the journal.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::aside::Aside;
use super::sink::outbox::Outbox;
use super::sink::record::Record;
use crate::model::causes::with_causes;
use crate::model::usage::{RejectedCount, UsageEvent};
use crate::store::{StoreError, UsageStore};
use crate::tasks::blocking;
use crate::telemetry::metrics::Metrics;

/// The most events in a batch.
pub(super) const BATCH: usize = 5_000;
/// A batch of so many rows, all of them refused, is the store's fault.
const SYSTEMIC: usize = 100;
/// How long the store may take for a batch.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a first failure; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// It does not grow further: a store that is back is noticed within this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The same after a refusal of everything, which costs the store two statements a row.
const PAUSE_SYSTEMIC: Duration = Duration::from_secs(30);
/// So often is a batch tried while the process is stopping.
const LAST_TRIES: u32 = 4;

/// What carries events to a store.
pub(super) struct Delivery {
    pub(super) store: Arc<dyn UsageStore>,
    pub(super) aside: Aside,
    pub(super) metrics: Arc<Metrics>,
    /// The process is stopping.
    pub(super) closing: CancellationToken,
    /// Its time to stop is over.
    pub(super) over: CancellationToken,
    /// Whether the last attempt of all failed.
    away: AtomicBool,
    outbox: Option<Arc<Outbox>>,
}

/// Why an attempt did not bring a batch to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the store is away")]
    Away(#[source] StoreError),
    #[error("the store did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the store refuses every row of a batch; nothing was set aside")]
    Systemic(#[source] StoreError),
    #[error("refused rows could not be set aside")]
    NotSetAside(#[source] io::Error),
}

impl Delivery {
    /// Appends what is committed to this outbox.
    pub(super) fn with_outbox(mut self, outbox: Arc<Outbox>) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// Where what is committed waits for sinks, if there are any.
    pub(super) fn outbox(&self) -> Option<&Arc<Outbox>> {
        self.outbox.as_ref()
    }

    pub(super) fn new(
        store: Arc<dyn UsageStore>,
        aside: Aside,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
        over: CancellationToken,
    ) -> Self {
        Self { store, aside, metrics, closing, over, outbox: None, away: AtomicBool::new(false) }
    }

    /// Brings a batch to the store. Whether it got there; not, only when the process is stopping.
    pub(super) async fn deliver(&self, events: &[UsageEvent]) -> bool {
        let mut failures = 0;
        loop {
            let attempt = tokio::select! {
                biased;
                () = self.over.cancelled() => return false,
                attempt = self.attempt(events) => attempt,
            };
            let failure = match attempt {
                Ok(()) => {
                    self.note_success();
                    return true;
                }
                Err(failure) => failure,
            };
            self.note_failure(&failure, events.len());
            failures += 1;
            if self.closing.is_cancelled() && failures >= LAST_TRIES {
                return false;
            }
            self.pause(&failure, failures).await;
        }
    }

    /// Adds to the rollups of refusals; whether that succeeded. It is tried once: the counts are
    /// kept by the caller.
    pub(super) async fn add_rejected(&self, counts: &[RejectedCount]) -> bool {
        let answer = tokio::select! {
            biased;
            () = self.over.cancelled() => return false,
            answer = tokio::time::timeout(PATIENCE, self.store.add_rejected(counts)) => answer,
        };
        let failure = match answer {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => Failure::Away(error),
            Err(_) => Failure::Silent,
        };
        self.metrics.store_failed("usage.add_rejected");
        tracing::debug!(error = with_causes(&failure), "counts of refusals stay in memory");
        false
    }

    /// Once through the batch: all rows committed or set aside, or why not.
    async fn attempt(&self, events: &[UsageEvent]) -> Result<(), Failure> {
        let refused = self.sift(events).await?;
        let at_fault = refused.iter().filter(|(_, error)| !matches!(error, StoreError::PastRetention { .. })).count();
        if at_fault >= SYSTEMIC && at_fault == events.len() {
            let (_, error) = refused.into_iter().next().expect("there are a hundred");
            return Err(Failure::Systemic(error));
        }
        if !refused.is_empty() {
            self.aside.write(&refused).map_err(Failure::NotSetAside)?;
            self.metrics.metering_set_aside.inc_by(refused.len() as u64);
            let (event, error) = &refused[0];
            tracing::error!(
                rows = refused.len(),
                first = %event.id,
                error = with_causes(error),
                "the store refused usage events; they were set aside in the journal"
            );
        }
        self.metrics.metering_committed.inc_by((events.len() - refused.len()) as u64);
        self.tell_sinks(events, &refused).await;
        Ok(())
    }

    /// Before the slots count as done: whoever is killed in between does it again.
    async fn tell_sinks(&self, events: &[UsageEvent], refused: &[(&UsageEvent, StoreError)]) {
        let Some(outbox) = self.outbox.clone() else { return };
        let committed = |event: &&UsageEvent| refused.iter().all(|(other, _)| other.id != event.id);
        let mut records: Vec<Record> = events.iter().filter(committed).map(Record::from).collect();
        // A batch has one worker's events after another's.
        records.sort_by_cached_key(Record::id);
        blocking(move || outbox.append(&records)).await;
    }

    /// Commits what the store takes; the rows that it refuses, each with its reason.
    async fn sift<'events>(
        &self,
        events: &'events [UsageEvent],
    ) -> Result<Vec<(&'events UsageEvent, StoreError)>, Failure> {
        let mut refused = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        ranges.push(0..events.len());
        while let Some(range) = ranges.pop() {
            match self.record(&events[range.clone()]).await? {
                Ok(()) => {}
                // All others were recorded. Those are set aside: they were billed before they were deleted.
                Err(StoreError::PastRetention { before }) => {
                    let past = events[range].iter().filter(|event| event.id.is_before(before));
                    refused.extend(past.map(|event| (event, StoreError::PastRetention { before })));
                }
                Err(error) if range.len() == 1 => refused.push((&events[range.start], error)),
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
            }
        }
        Ok(refused)
    }

    /// The store's answer, if it is one about the content.
    async fn record(&self, events: &[UsageEvent]) -> Result<Result<(), StoreError>, Failure> {
        match tokio::time::timeout(PATIENCE, self.store.record(events)).await {
            Err(_) => Err(Failure::Silent),
            Ok(Err(error)) if error.is_transient() => Err(Failure::Away(error)),
            Ok(answer) => Ok(answer.map(|_| ())),
        }
    }

    async fn pause(&self, failure: &Failure, failures: u32) {
        let longest = if matches!(failure, Failure::Systemic(_)) { PAUSE_SYSTEMIC } else { PAUSE_MAX };
        let pause = PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(longest);
        let stopping = self.closing.is_cancelled();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.closing.cancelled(), if !stopping => {}
            () = self.over.cancelled() => {}
        }
    }

    fn note_failure(&self, failure: &Failure, events: usize) {
        self.metrics.store_failed("usage.record");
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                events,
                error = with_causes(failure),
                "usage events stay in the journal until the store takes them"
            );
        }
    }

    fn note_success(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the store takes usage events again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::super::double::{Rig, admission};
    use super::super::journal::Journal;
    use super::*;

    fn journal_of(rig: &Rig, entries: u128) -> Journal {
        let journal = rig.open();
        Rig::complete(&journal, 1..entries + 1);
        journal
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_tried_until_it_is_back() {
        let rig = Rig::new();
        let journal = journal_of(&rig, 40);
        rig.store.away.store(true, Ordering::SeqCst);
        let back = async {
            for _ in 0..3 {
                rig.store.failed.notified().await;
            }
            assert_eq!(rig.store.events(), []);
            rig.store.away.store(false, Ordering::SeqCst);
        };
        tokio::join!(rig.drain(&journal), back);
        assert_eq!(rig.store.events().len(), 40);
        assert_eq!(rig.metrics.metering_committed.get(), 40);
    }

    #[tokio::test]
    async fn a_commit_whose_answer_was_lost_counts_once() {
        let rig = Rig::new();
        let journal = journal_of(&rig, 40);
        rig.store.forgetful.store(true, Ordering::SeqCst);
        rig.drain(&journal).await;
        assert_eq!(rig.store.sent.load(Ordering::SeqCst), 80);
        assert_eq!((rig.store.events().len(), rig.metrics.metering_committed.get()), (40, 40));
    }

    #[tokio::test]
    async fn rows_at_fault_are_set_aside_and_all_others_committed() {
        let rig = Rig::new();
        let journal = journal_of(&rig, 200);
        let poison: HashSet<_> = [1, 77, 78, 200].map(|number| admission(number).id).into();
        *rig.store.poison.lock().unwrap() = poison.clone();
        rig.drain(&journal).await;
        rig.drain(&journal).await;
        assert_eq!(rig.store.events().len(), 196);
        assert_eq!((rig.metrics.metering_committed.get(), rig.metrics.metering_set_aside.get()), (196, 4));
        let lines = fs::read_to_string(&rig.files(".ndjson")[0]).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: HashSet<_> = lines.iter().map(|line| line["id"].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!((lines.len(), ids), (4, poison));
        let line = &lines[0];
        assert_eq!(
            (&line["route"], &line["outcome"], &line["units"]),
            (&"orders".into(), &"complete".into(), &3.into())
        );
        assert_eq!((&line["token_id"], &line["status"]), (&serde_json::Value::Null, &201.into()));
        assert_eq!(line["error"], "the store refused the statement (usage.record): constraint");
        assert_eq!(journal.drain.lock().await.left(), 0, "nothing is held up");
    }

    #[tokio::test]
    async fn a_store_that_refuses_everything_is_not_the_rows_fault() {
        let rig = Rig::new();
        let journal = journal_of(&rig, SYSTEMIC as u128);
        rig.store.broken.store(true, Ordering::SeqCst);
        let delivery = rig.delivery(&journal);
        let events: Vec<_> = (1..=SYSTEMIC as u128).map(event).collect();
        assert!(matches!(delivery.attempt(&events).await, Err(Failure::Systemic(_))));
        assert_eq!(rig.files(".ndjson"), Vec::<std::path::PathBuf>::new());
        assert_eq!(rig.metrics.metering_set_aside.get(), 0);
        // Fewer rows than that cannot be told from rows at fault.
        delivery.attempt(&events[1..]).await.unwrap();
        assert_eq!(rig.metrics.metering_set_aside.get(), SYSTEMIC as u64 - 1);
    }

    #[tokio::test]
    async fn rows_that_cannot_be_set_aside_stay() {
        let rig = Rig::new();
        let journal = journal_of(&rig, 3);
        rig.store.broken.store(true, Ordering::SeqCst);
        let aside = rig.folders()[0].join(format!("aside-{}.ndjson", journal.shared.folder.id()));
        fs::create_dir(&aside).unwrap();
        let back = async {
            for _ in 0..8 {
                rig.store.failed.notified().await;
            }
            assert_eq!(rig.metrics.metering_set_aside.get(), 0);
            fs::remove_dir(&aside).unwrap();
        };
        tokio::join!(rig.drain(&journal), back);
        assert_eq!(rig.metrics.metering_set_aside.get(), 3);
        assert_eq!(fs::read_to_string(&aside).unwrap().lines().count(), 3);
    }

    #[tokio::test]
    async fn a_process_that_is_stopping_gives_up_on_a_store_that_is_away() {
        let rig = Rig::new();
        let journal = journal_of(&rig, 3);
        rig.store.away.store(true, Ordering::SeqCst);
        journal.shared.closing.cancel();
        rig.drain(&journal).await;
        assert_eq!(journal.drain.lock().await.left(), 3);
        journal.shared.over.cancel();
        rig.store.away.store(false, Ordering::SeqCst);
        rig.drain(&journal).await;
        assert_eq!(rig.store.events(), [], "its time is over");
    }

    fn event(number: u128) -> UsageEvent {
        use super::super::double::settlement;
        use super::super::event::settled;
        use super::super::header::Header;

        let header = Header::fit("node-a", uuid::Uuid::nil(), 1, &[], 8192).unwrap();
        settled(&admission(number), &settlement(crate::model::usage::Outcome::Complete), &header)
    }
}
