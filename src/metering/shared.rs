//! What the journal's tasks have in common, and how much room it takes.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::folder::{self, Folder};
use super::lag::Lag;
use super::lane::Lane;
use super::register::Register;
use super::rejected::RejectedCounts;
use super::segment::{Blueprint, LiveSegment, Prepared};
use super::sync::Gate;
use crate::clients::Ledger;
use crate::config::metering::MeteringConfig;
use crate::model::clock::SharedClock;
use crate::telemetry::metrics::Metrics;

/// The journal of a process, as its tasks see it.
pub(super) struct Shared {
    pub(super) config: MeteringConfig,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) folder: Folder,
    pub(super) blueprint: Blueprint,
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) rejected: Arc<RejectedCounts>,
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) lag: Lag,
    /// A lane wants a segment.
    pub(super) wanted: Arc<Notify>,
    /// The process is stopping: deliver what there is, begin nothing new.
    pub(super) closing: CancellationToken,
    /// The time to stop is over.
    pub(super) over: CancellationToken,
    /// Entries of adopted folders that the store does not have.
    pub(super) owed: AtomicU64,
    /// Where quotas are told of what was committed, if anybody counts any.
    pub(super) ledger: OnceLock<Arc<Ledger>>,
    /// Where this journal says what it owes, if anywhere.
    pub(super) register: OnceLock<Arc<Register>>,
    /// Segments that the drain does not know yet.
    made: Mutex<Vec<Arc<LiveSegment>>>,
    /// Folders of others that this process holds.
    adopted: Mutex<Vec<PathBuf>>,
    /// Whether the last segment that was wanted could not be made.
    short: AtomicBool,
}

/// What [`Shared::new`] is made from.
pub(super) struct Parts {
    pub(super) config: MeteringConfig,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) folder: Folder,
    pub(super) blueprint: Blueprint,
    pub(super) rejected: Arc<RejectedCounts>,
    pub(super) gate: Option<Arc<Gate>>,
}

impl Shared {
    /// A journal whose lanes begin with these segments.
    pub(super) fn new(parts: Parts, first: Vec<Prepared>) -> Self {
        let wanted = Arc::new(Notify::new());
        let made = first.iter().map(|prepared| Arc::clone(&prepared.live)).collect();
        let lane =
            |prepared| Arc::new(Lane::new(prepared, Arc::clone(&wanted), parts.gate.clone(), Arc::clone(&parts.clock)));
        Self {
            lanes: first.into_iter().map(lane).collect(),
            config: parts.config,
            clock: parts.clock,
            metrics: parts.metrics,
            folder: parts.folder,
            blueprint: parts.blueprint,
            rejected: parts.rejected,
            gate: parts.gate,
            lag: Lag::default(),
            wanted,
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
            owed: AtomicU64::new(0),
            ledger: OnceLock::new(),
            register: OnceLock::new(),
            made: Mutex::new(made),
            adopted: Mutex::default(),
            short: AtomicBool::new(false),
        }
    }

    /// Makes a segment within `metering.max_bytes`, at the cost of committed ones if need be.
    /// None: there is no room, or the disk fails; logged when that begins and when it ends.
    pub(super) fn make_segment(&self) -> Option<Prepared> {
        match self.try_make_segment() {
            Ok(prepared) => {
                lock(&self.made).push(Arc::clone(&prepared.live));
                if self.short.swap(false, Ordering::Relaxed) {
                    tracing::info!("the journal has room again");
                }
                Some(prepared)
            }
            Err(error) => {
                self.note_short(&error);
                None
            }
        }
    }

    /// There is no room, or the disk fails: logged when it begins.
    pub(super) fn note_short(&self, error: &io::Error) {
        if !self.short.swap(true, Ordering::Relaxed) {
            tracing::error!(
                folder = %self.folder.path().display(),
                max_bytes = self.config.max_bytes,
                %error,
                "the journal cannot grow; once it is full, `metering.on_full` decides"
            );
        }
    }

    fn try_make_segment(&self) -> io::Result<Prepared> {
        let needed = self.blueprint.bytes();
        let excess = (self.bytes() + needed).saturating_sub(self.config.max_bytes);
        if excess > 0 && self.folder.committed().make_room(excess)? < excess {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the journal is at `metering.max_bytes`"));
        }
        loop {
            match self.blueprint.create(self.folder.path()) {
                Err(error) if is_full(&error) && self.folder.committed().make_room(needed)? > 0 => {}
                made => return made,
            }
        }
    }

    /// Segments made since the last call.
    pub(super) fn take_made(&self) -> Vec<Arc<LiveSegment>> {
        std::mem::take(&mut *lock(&self.made))
    }

    /// The bytes that this process's journal takes on the disk: its own folder and those it has
    /// adopted.
    pub(super) fn bytes(&self) -> u64 {
        let adopted = lock(&self.adopted).clone();
        folder::bytes(self.folder.path()) + adopted.iter().map(|path| folder::bytes(path)).sum::<u64>()
    }

    /// A folder was adopted: its bytes count.
    pub(super) fn note_adopted(&self, path: PathBuf) {
        lock(&self.adopted).push(path);
    }

    /// It is gone, or was let go of.
    pub(super) fn forget_adopted(&self, path: &std::path::Path) {
        lock(&self.adopted).retain(|adopted| adopted != path);
    }

    /// Tells the metrics what lanes and drain know.
    pub(super) fn publish(&self) {
        for lane in &self.lanes {
            let counts = lane.take_counts();
            self.metrics.metering_admitted.inc_by(counts.admitted);
            self.metrics.metering_settled.inc_by(counts.settled);
        }
        self.lag.publish(self.clock.wall(), &self.metrics);
        self.metrics.metering_journal_bytes.set(i64::try_from(self.bytes()).unwrap_or(i64::MAX));
    }
}

/// Whether the disk, or our share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::JournalFull;
    use super::super::double::{Rig, admission, settlement};
    use crate::config::metering::OnFull;
    use crate::model::usage::Outcome;

    /// A full journal: its bound lets it have two segments.
    fn bounded(on_full: OnFull) -> Rig {
        Rig::with(|config| (config.max_bytes, config.on_full) = (2 * 8192 + 100, on_full))
    }

    #[tokio::test]
    async fn a_full_journal_refuses_and_heals_when_the_store_takes_what_it_holds() {
        let rig = bounded(OnFull::Refuse);
        let journal = rig.open();
        let meter = journal.meter(0);
        assert!(!Rig::supply(&journal), "there is room for one more, not for two");
        let slots = u128::from(journal.shared.blueprint.slots()) * 2;
        for number in 1..=slots {
            assert!(!journal.is_full());
            meter.admit(&admission(number)).unwrap().settle(&settlement(Outcome::Complete));
        }
        for _ in 0..3 {
            assert_eq!(meter.admit(&admission(slots + 1)).unwrap_err(), JournalFull);
            assert!(journal.is_full());
            assert!(!Rig::supply(&journal));
        }
        rig.drain(&journal).await;
        assert!(!Rig::supply(&journal), "the segment in use takes the room of one");
        assert!(!journal.is_full());
        meter.admit(&admission(slots + 1)).unwrap().settle(&settlement(Outcome::Complete));
        rig.drain(&journal).await;
        assert_eq!(rig.store.events().len() as u128, slots + 1);
        assert_eq!(rig.metrics.metering_lost.get(), 0);
    }

    #[tokio::test]
    async fn a_full_journal_that_serves_counts_exactly_what_it_loses() {
        let rig = bounded(OnFull::Serve);
        let journal = rig.open();
        let meter = journal.meter(0);
        Rig::supply(&journal);
        for number in 1..=100 {
            let entry = meter.admit(&admission(number)).unwrap();
            entry.durable().await;
            entry.mark_sent();
            entry.clear_sent();
            entry.settle(&settlement(Outcome::Complete));
        }
        assert!(!journal.is_full(), "nothing is refused");
        rig.drain(&journal).await;
        assert_eq!(rig.store.events().len() as u64 + rig.metrics.metering_lost.get(), 100);
        assert_eq!(rig.store.events().len(), journal.shared.blueprint.slots() as usize * 2);
    }

    #[tokio::test]
    async fn committed_segments_give_way_to_entries() {
        let rig = Rig::with(|config| (config.max_bytes, config.keep) = (10 * 8192, Duration::from_hours(24)));
        let journal = rig.open();
        for round in 0..40 {
            Rig::complete(&journal, 1 + round * 16..17 + round * 16);
            rig.drain(&journal).await;
            assert!(journal.shared.bytes() <= rig.config.max_bytes);
        }
        assert_eq!(rig.store.events().len(), 640);
        assert!(rig.committed().len() >= 5, "{} are kept", rig.committed().len());
    }

    #[tokio::test]
    async fn a_disk_that_fails_makes_the_journal_full_until_it_works_again() {
        let rig = Rig::new();
        let journal = rig.open();
        let (folder, away) = (rig.folders().remove(0), rig.elsewhere());
        fs::rename(&folder, &away).unwrap();
        assert!(!Rig::supply(&journal));
        let meter = journal.meter(0);
        for number in 1..=u128::from(journal.shared.blueprint.slots()) {
            meter.admit(&admission(number)).unwrap().settle(&settlement(Outcome::Complete));
        }
        assert_eq!(meter.admit(&admission(99)).unwrap_err(), JournalFull);
        fs::rename(&away, &folder).unwrap();
        assert!(Rig::supply(&journal));
        meter.admit(&admission(99)).unwrap().settle(&settlement(Outcome::Complete));
        rig.drain(&journal).await;
        assert_eq!(rig.store.events().len(), 17);
    }
}
