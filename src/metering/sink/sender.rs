//! One task a sink: reads the outbox, sends, notes how far it is.
//!
//! Owns what to do about each kind of failure: *away* is tried for ever, ever later, with jitter;
//! a batch that is *refused* is halved until the records at fault stand alone, which are set aside;
//! a sink that refuses every record of a larger batch counts as away.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outbox::Outbox;
use super::outbox_files::{Chunk, set_aside};
use super::record::Record;
use super::{Failure, Refused, Sink};
use crate::config::sinks::SinkConfig;
use crate::tasks::blocking;
use crate::telemetry::metrics::SinkMetrics;

/// The pause after a first failure; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// It does not grow further.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A batch of so many records, all of them refused, is the sink's fault.
const SYSTEMIC: usize = 10;

/// What sends to one sink.
pub(crate) struct Sender {
    pub(crate) index: usize,
    pub(crate) config: SinkConfig,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: SinkMetrics,
    pub(crate) lag: Arc<Lag>,
    /// Where refused records are set aside, and in whose name.
    pub(crate) folder: PathBuf,
    pub(crate) id: Uuid,
    pub(crate) stops: Stops,
    pub(crate) away: AtomicBool,
}

/// How a sender ends.
#[derive(Clone, Default)]
pub(crate) struct Stops {
    /// Nothing more will be appended: send what there is, once.
    pub(crate) last: CancellationToken,
    /// The time to stop is over.
    pub(crate) over: CancellationToken,
}

/// Since when the oldest record waits.
#[derive(Default)]
pub(crate) struct Lag(Mutex<Option<Timestamp>>);

impl Lag {
    fn note(&self, oldest: Option<Timestamp>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    /// Tells the metric.
    pub(crate) fn publish(&self, now: Timestamp, metrics: &SinkMetrics) {
        let oldest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.lag_seconds.set(oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0)));
    }
}

impl Sender {
    /// The task.
    pub(crate) async fn run(self) {
        let over = self.stops.over.clone();
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = self.send_all() => {}
        }
    }

    async fn send_all(&self) {
        loop {
            let more = self.outbox.more.notified();
            let last = self.stops.last.is_cancelled();
            let sent = self.send_what_there_is(last).await;
            if last {
                self.sink.close().await;
                return;
            }
            if sent {
                self.sink.idle().await;
            }
            tokio::select! {
                () = self.stops.last.cancelled() => {}
                () = async {
                    // Records gather, for larger batches.
                    tokio::time::sleep(self.config.interval).await;
                    let _ = tokio::time::timeout(self.config.interval, more).await;
                } => {}
            }
        }
    }

    /// Until nothing is left; whether nothing is. `once`: a first failure ends it.
    async fn send_what_there_is(&self, once: bool) -> bool {
        loop {
            let (outbox, index, most) = (Arc::clone(&self.outbox), self.index, self.config.batch);
            let chunk = match blocking(move || outbox.next(index, most)).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    self.lag.note(None);
                    return true;
                }
                Err(error) => {
                    tracing::error!(sink = self.config.name, %error, "the outbox cannot be read");
                    return false;
                }
            };
            if !self.hand_over(chunk, once).await {
                return false;
            }
        }
    }

    async fn hand_over(&self, chunk: Chunk, once: bool) -> bool {
        if chunk.damaged > 0 {
            self.metrics.missed.inc_by(chunk.damaged);
            tracing::error!(sink = self.config.name, lines = chunk.damaged, "lines of the outbox are damaged");
        }
        let wanted = |record: &&Record| match record {
            Record::Usage(_) => self.config.usage,
            Record::QuotaMark(_) => self.config.marks,
        };
        let records: Vec<Record> = chunk.records.iter().filter(wanted).cloned().collect();
        self.lag.note(records.iter().map(Record::since).min());
        if !self.deliver(&records, once).await {
            return false;
        }
        let (outbox, index) = (Arc::clone(&self.outbox), self.index);
        blocking(move || outbox.advance(index, &chunk)).await;
        true
    }

    /// Tried until every record was taken or set aside; not, only on the way out.
    async fn deliver(&self, records: &[Record], once: bool) -> bool {
        if records.is_empty() {
            return true;
        }
        let mut failures = 0;
        loop {
            let (reason, after) = match self.attempt(records).await {
                Ok(()) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        tracing::info!(sink = self.config.name, "a sink takes events again");
                    }
                    return true;
                }
                Err(Failure::Refused(reason)) => (reason, None),
                Err(Failure::Away { reason, after }) => (reason, after),
            };
            self.metrics.failures.inc();
            if !self.away.swap(true, Ordering::Relaxed) {
                tracing::warn!(sink = self.config.name, reason, "a sink takes no events; they wait in the outbox");
            }
            failures += 1;
            if once || self.stops.last.is_cancelled() {
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(after.unwrap_or_default().max(pause(failures))) => {}
                () = self.stops.last.cancelled() => {}
            }
        }
    }

    /// Once through the batch.
    async fn attempt(&self, records: &[Record]) -> Result<(), Failure> {
        let refused = self.sift(records).await?;
        if refused.len() == records.len() && refused.len() >= SYSTEMIC && !refused.iter().any(|one| one.certain) {
            let reason = format!("it refuses every event; nothing was set aside: {}", refused[0].reason);
            return Err(Failure::Away { reason, after: Some(PAUSE_MAX) });
        }
        if !refused.is_empty() {
            self.set_aside(records, &refused).await?;
        }
        self.metrics.sent.inc_by((records.len() - refused.len()) as u64);
        Ok(())
    }

    /// Sends, halving what is refused; the records at fault.
    async fn sift(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let mut refused: Vec<Refused> = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        ranges.push(0..records.len());
        while let Some(range) = ranges.pop() {
            match self.sink.send(&records[range.clone()]).await {
                Ok(some) => {
                    refused.extend(some.into_iter().map(|one| Refused { index: one.index + range.start, ..one }));
                }
                Err(Failure::Refused(reason)) if range.len() == 1 => {
                    refused.push(Refused { index: range.start, reason, certain: false });
                }
                Err(Failure::Refused(_)) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
                Err(away) => return Err(away),
            }
        }
        Ok(refused)
    }

    async fn set_aside(&self, records: &[Record], refused: &[Refused]) -> Result<(), Failure> {
        let pairs: Vec<(Record, String)> =
            refused.iter().map(|one| (records[one.index].clone(), one.reason.clone())).collect();
        let (folder, id, name) = (self.folder.clone(), self.id, self.config.name.clone());
        let written = blocking(move || {
            let pairs: Vec<(&Record, &str)> = pairs.iter().map(|(record, reason)| (record, reason.as_str())).collect();
            set_aside(&folder, id, &name, &pairs)
        });
        written.await.map_err(|error| Failure::away(format!("refused events could not be set aside: {error}")))?;
        self.metrics.refused.inc_by(refused.len() as u64);
        tracing::error!(
            sink = self.config.name,
            events = refused.len(),
            first = records[refused[0].index].id(),
            reason = refused[0].reason,
            "a sink refused events; they were set aside in the journal"
        );
        Ok(())
    }
}

/// Ever longer, and up to half of it by chance: replicas do not come back all at once.
fn pause(failures: u32) -> Duration {
    let pause = PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(PAUSE_MAX);
    let mut chance = [0; 1];
    let _ = getrandom::fill(&mut chance);
    pause / 2 + (pause / 2).mul_f64(f64::from(chance[0]) / 255.0)
}
