//! Stand-ins for tests: a store in memory that fails when told to, entries to meter, and a
//! journal whose tasks run step by step.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::Notify;
use uuid::Uuid;

use super::aside::Aside;
use super::delivery::Delivery;
use super::journal::Journal;
use super::prepare;
use super::recovery::Recovery;
use crate::config::metering::{MeteringConfig, OnFull, SyncPolicy};
use crate::model::clock::ManualClock;
use crate::model::id::{ApiKeyId, ClientId, EventId, RequestId, TokenId};
use crate::model::usage::{
    Admission, CountedMethod, CutReason, EventKind, Outcome, RejectedCount, Settlement, UsageEvent,
};
use crate::store::{Page, Result, StoreError, UsageQuery, UsageStore, UsageSum};
use crate::telemetry::metrics::Metrics;

/// An admission that its number tells from others.
pub(super) fn admission(number: u128) -> Admission {
    let id = EventId(Uuid::from_u128(0x0199_f7a2_7d4c_7bce_9d6b_0000_0000_0000 + number));
    Admission {
        id,
        request_id: RequestId::from(id),
        client_id: ClientId(Uuid::from_u128(2)),
        api_key_id: ApiKeyId(Uuid::from_u128(3)),
        token_id: TokenId::NIL,
        occurred_at: Timestamp::from_microsecond(1_790_000_000_000_000).unwrap(),
        route: 0,
        method: CountedMethod::Post,
        units: 3,
        kind: EventKind::Request,
    }
}

/// The first half of an interim record of `parent`.
pub(super) fn part(number: u128, parent: EventId) -> Admission {
    Admission { kind: EventKind::Stream(parent), units: 0, ..admission(number) }
}

/// A settlement with something in every field.
pub(super) fn settlement(outcome: Outcome) -> Settlement {
    Settlement {
        status: Some(201),
        outcome,
        reason: (outcome == Outcome::Cut).then_some(CutReason::Revoked),
        duration_us: 1_500,
        bytes_in: 10,
        bytes_out: 1 << 40,
        units: None,
    }
}

/// A store that keeps events by their id.
#[derive(Default)]
pub(super) struct MemoryStore {
    events: Mutex<BTreeMap<EventId, UsageEvent>>,
    rejected: Mutex<Vec<RejectedCount>>,
    /// Events that were sent, repeats included.
    pub(super) sent: AtomicU64,
    /// Whether it answers that it is away.
    pub(super) away: AtomicBool,
    /// Whether it commits a batch and then says that it is away, once.
    pub(super) forgetful: AtomicBool,
    /// Whether it never answers.
    pub(super) silent: AtomicBool,
    /// Whether it refuses everything.
    pub(super) broken: AtomicBool,
    /// Ids that it refuses.
    pub(super) poison: Mutex<HashSet<EventId>>,
    /// Told of each call that failed.
    pub(super) failed: Notify,
}

impl MemoryStore {
    pub(super) fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// What it holds, by id.
    pub(super) fn events(&self) -> Vec<UsageEvent> {
        self.events.lock().unwrap().values().cloned().collect()
    }

    /// The outcome of each event, by id.
    pub(super) fn outcomes(&self) -> BTreeMap<EventId, Outcome> {
        self.events.lock().unwrap().values().map(|event| (event.id, event.outcome)).collect()
    }

    pub(super) fn rejected(&self) -> Vec<RejectedCount> {
        self.rejected.lock().unwrap().clone()
    }

    fn check(&self) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { operation: "usage.record", source: "away".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl UsageStore for MemoryStore {
    async fn record(&self, events: &[UsageEvent]) -> Result<u64> {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.check().inspect_err(|_| self.failed.notify_one())?;
        self.sent.fetch_add(events.len() as u64, Ordering::SeqCst);
        let poison = self.poison.lock().unwrap().clone();
        if self.broken.load(Ordering::SeqCst) || events.iter().any(|event| poison.contains(&event.id)) {
            self.failed.notify_one();
            return Err(StoreError::Refused { operation: "usage.record", source: "constraint".into() });
        }
        let mut new = 0;
        for event in events {
            // As the real ones: what is there stays as it is.
            self.events.lock().unwrap().entry(event.id).or_insert_with(|| {
                new += 1;
                event.clone()
            });
        }
        if self.forgetful.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Unavailable { operation: "usage.record", source: "connection lost".into() });
        }
        Ok(new)
    }

    async fn add_rejected(&self, counts: &[RejectedCount]) -> Result<()> {
        self.check()?;
        self.rejected.lock().unwrap().extend_from_slice(counts);
        Ok(())
    }

    async fn sums(&self, _query: &UsageQuery) -> Result<Vec<UsageSum>> {
        Ok(Vec::new())
    }

    async fn sums_page(&self, _query: &UsageQuery, _after: Option<&[String]>, _limit: u32) -> Result<Page<UsageSum>> {
        unimplemented!("metering reports nothing")
    }
}

/// A folder for journals, a store, a clock that stands; and the tasks of a journal, one step at
/// a time. A segment holds 16 entries.
pub(super) struct Rig {
    dir: TempDir,
    pub(super) config: MeteringConfig,
    pub(super) clock: Arc<ManualClock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Arc<MemoryStore>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    /// One whose settings differ.
    pub(super) fn with(change: impl FnOnce(&mut MeteringConfig)) -> Self {
        Self::within(tempfile::tempdir().unwrap(), change)
    }

    /// One whose folder is this.
    pub(super) fn within(dir: TempDir, change: impl FnOnce(&mut MeteringConfig)) -> Self {
        let mut config = MeteringConfig {
            dir: dir.path().join("journal"),
            segment_bytes: 8192,
            max_bytes: 1 << 20,
            on_full: OnFull::Refuse,
            sync: SyncPolicy::Never,
            keep: Duration::ZERO,
            retention: None,
            drain_interval: Duration::from_millis(10),
            cost_header: None,
            cost_max: 1_000,
            stream_interval: None,
        };
        change(&mut config);
        let clock = ManualClock::at(Timestamp::from_second(1_790_000_100).unwrap());
        Self { dir, config, clock, metrics: Metrics::new(&[], &[]), store: MemoryStore::shared() }
    }

    /// Opens a journal of one worker, as another process would.
    pub(super) fn open(&self) -> Journal {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        let routes = ["orders".to_owned()];
        Journal::open(&self.config, "node-a", &routes, 1, clock, Arc::clone(&self.metrics)).unwrap()
    }

    pub(super) fn delivery(&self, journal: &Journal) -> Delivery {
        let shared = &journal.shared;
        let store = Arc::<MemoryStore>::clone(&self.store);
        let (closing, over) = (shared.closing.clone(), shared.over.clone());
        Delivery::new(store, Aside::of(&shared.folder), Arc::clone(&self.metrics), closing, over)
    }

    /// What `prepare` does.
    pub(super) fn supply(journal: &Journal) -> bool {
        let supplied = prepare::supply(&journal.shared);
        journal.shared.publish();
        supplied
    }

    /// One pass of the drain.
    pub(super) async fn drain(&self, journal: &Journal) {
        journal.drain.lock().await.pass(&self.delivery(journal)).await;
    }

    /// One look for the folders of others.
    pub(super) async fn recover(&self, journal: &Journal) {
        let delivery = Arc::new(self.delivery(journal));
        Recovery::new(Arc::clone(&journal.shared), delivery).adopt_all().await;
    }

    /// Admits, marks and settles so many entries, the first with this number. Segments come as
    /// they are needed.
    pub(super) fn complete(journal: &Journal, numbers: std::ops::Range<u128>) {
        let meter = journal.meter(0);
        for number in numbers {
            assert!(Self::supply(journal));
            let entry = meter.admit(&admission(number)).unwrap();
            entry.mark_sent();
            entry.settle(&settlement(Outcome::Complete));
        }
    }

    /// Where journals are.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<_> = fs::read_dir(&self.config.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    }

    /// The files of all journals whose names end so.
    pub(super) fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let inside = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = self.folders().into_iter().flat_map(inside);
        let mut files: Vec<_> = files.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
        files.sort();
        files
    }

    /// The committed segments of all journals.
    pub(super) fn committed(&self) -> Vec<PathBuf> {
        let kept = |folder: PathBuf| fs::read_dir(folder.join("committed")).unwrap().map(|entry| entry.unwrap().path());
        self.folders().into_iter().flat_map(kept).collect()
    }

    /// A place for files of the test's own.
    pub(super) fn elsewhere(&self) -> PathBuf {
        self.dir.path().join("elsewhere")
    }
}

/// What a process that was killed has left, damaged in all ways.
pub(super) mod left {
    use std::path::Path;

    use super::super::adoption::Adoption;
    use super::super::folder::Folder;
    use super::super::segment::segment_name;
    use super::*;

    /// Entries of the folder that the tests damage: odd ones complete, of the even ones every
    /// other is open and sent, and the rest open.
    pub(in super::super) const ENTRIES: u128 = 8;

    pub(in super::super) fn expected(number: u128) -> Outcome {
        match number % 4 {
            1 | 3 => Outcome::Complete,
            2 => Outcome::Interrupted,
            _ => Outcome::NotSent,
        }
    }

    /// A journal whose process was killed.
    pub(in super::super) fn killed(rig: &Rig) {
        let journal = rig.open();
        let meter = journal.meter(0);
        for number in 1..=ENTRIES {
            let entry = meter.admit(&admission(number)).unwrap();
            match expected(number) {
                Outcome::Complete => entry.settle(&settlement(Outcome::Complete)),
                outcome => {
                    if outcome == Outcome::Interrupted {
                        entry.mark_sent();
                    }
                    std::mem::forget(entry);
                }
            }
        }
    }

    /// All events that a folder gives, and how many damaged slots it has.
    pub(in super::super) fn survey(rig: &Rig, path: &Path) -> (BTreeMap<EventId, UsageEvent>, u64) {
        let heir = Folder::create(&rig.elsewhere(), "heir", Uuid::new_v4()).unwrap();
        let mut adoption = Adoption::survey(Folder::adopt(path).unwrap().unwrap(), &heir).unwrap();
        let mut events = BTreeMap::new();
        loop {
            let batch = adoption.next_batch();
            if batch.events.is_empty() {
                return (events, adoption.damaged);
            }
            for event in batch.events {
                assert!(events.insert(event.id, event).is_none(), "an id twice");
            }
        }
    }

    /// What the folder of `killed` gives after its first segment's file was changed.
    pub(in super::super) fn damaged(
        rig: &Rig,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> (BTreeMap<EventId, UsageEvent>, u64) {
        let path = rig.folders().remove(0);
        let segment = path.join(segment_name(1));
        let mut bytes = fs::read(&segment).unwrap_or_default();
        change(&mut bytes);
        fs::write(&segment, bytes).unwrap();
        survey(rig, &path)
    }
}
