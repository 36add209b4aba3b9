//! The journal of one process: opened, run, finished.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::aside::Aside;
use super::delivery::Delivery;
use super::drain::{self, Drain};
use super::error::JournalError;
use super::folder::Folder;
use super::meter::Meter;
use super::prepare;
use super::recovery::Recovery;
use super::register::{self, Register};
use super::rejected::RejectedCounts;
use super::segment::{self, Blueprint, Copies, Prepared};
use super::shared::{Parts, Shared};
use super::sink::hub::Sinks;
use super::sync::{self, Gate};
use crate::clients::Ledger;
use crate::config::metering::{MeteringConfig, OnFull, SyncPolicy};
use crate::config::sinks::SinksConfig;
use crate::model::clock::SharedClock;
use crate::model::plan::QuotaMark;
use crate::server::outbound::AuthorityFault;
use crate::store::UsageStore;
use crate::store::journals::JournalStore;
use crate::tasks::{Tasks, blocking};
use crate::telemetry::metrics::Metrics;

/// The journal of this process.
///
/// [`Journal::open`] it, give each worker its [`Journal::meter`], [`Journal::start`] it before
/// anything is served, and [`Journal::finish`] it when nothing is served any more. Dropped
/// without that, it leaves what it holds to the next process, like one that was killed.
pub struct Journal {
    pub(super) shared: Arc<Shared>,
    pub(super) drain: Arc<Mutex<Drain>>,
    running: std::sync::Mutex<Option<Running>>,
    sinks: OnceLock<Sinks>,
}

struct Running {
    delivery: Arc<Delivery>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a finished journal still holds: for the next process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Entries that the store does not have; those of adopted journals included.
    pub entries: u64,
}

impl Journal {
    /// Opens a journal in `config.dir`, with one segment for each of `workers`. Blocks: it
    /// writes and syncs those segments.
    ///
    /// `node`: what events say; `routes`: the names that [`crate::model::usage::Admission::route`]
    /// counts.
    ///
    /// # Errors
    /// The disk has no room for the first segments, or the folder cannot be made.
    pub fn open(
        config: &MeteringConfig,
        node: &str,
        routes: &[String],
        workers: usize,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JournalError> {
        metrics.metering_journal_max_bytes.set(i64::try_from(config.max_bytes).unwrap_or(i64::MAX));
        let id = Uuid::new_v4();
        let copies = match config.sync {
            SyncPolicy::Never => Copies::None,
            SyncPolicy::Every(_) => Copies::Growing,
            SyncPolicy::EachRequest => Copies::Preallocated,
        };
        let blueprint = Blueprint::new(id, node, routes, config.segment_bytes, copies)
            .ok_or(JournalError::SegmentTooSmall { segment_bytes: config.segment_bytes })?;
        let needed = blueprint.bytes() * workers as u64;
        if needed > config.max_bytes {
            return Err(JournalError::BoundTooLow { max_bytes: config.max_bytes, needed });
        }
        let folder = Folder::create(&config.dir, node, id)
            .map_err(|source| JournalError::no_folder(config.dir.clone(), needed, source))?;
        let first = first_segments(&folder, &blueprint, workers)?;
        let parts = Parts {
            config: config.clone(),
            clock,
            metrics,
            folder,
            blueprint,
            rejected: Arc::new(RejectedCounts::new(routes)),
            gate: Gate::new(config.sync, config.on_full),
        };
        let shared = Arc::new(Shared::new(parts, first));
        let drain = Arc::new(Mutex::new(Drain::new(Arc::clone(&shared))));
        Ok(Self { shared, drain, running: std::sync::Mutex::new(None), sinks: OnceLock::new() })
    }

    /// The handle of a worker, by its number.
    ///
    /// # Panics
    /// There are fewer workers than that.
    #[must_use]
    pub fn meter(&self, worker: usize) -> Meter {
        let shared = &self.shared;
        let lane = Arc::clone(&shared.lanes[worker]);
        Meter::new(lane, shared.config.on_full, shared.metrics.metering_lost.clone())
    }

    /// Where refusals are counted.
    #[must_use]
    pub fn rejected(&self) -> Arc<RejectedCounts> {
        Arc::clone(&self.shared.rejected)
    }

    /// Whether requests are refused because the journal cannot take them: never under `serve`.
    /// Heals by itself.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let shared = &self.shared;
        let full = || shared.lanes.iter().any(|lane| lane.is_full());
        let failing = || shared.gate.as_ref().is_some_and(|gate| gate.refuses());
        shared.config.on_full == OnFull::Refuse && (full() || failing())
    }

    /// Tells this ledger of what is committed. To be called before [`Journal::start`].
    pub fn report_to(&self, ledger: Arc<Ledger>) {
        // A second one would count everything twice: the first stays.
        let _ = self.shared.ledger.set(ledger);
    }

    /// Says in this store up to when this journal owes nothing, and heals it when it has lost
    /// commits. To be called before [`Journal::start`].
    pub fn register_in(&self, journals: Arc<dyn JournalStore>) {
        // As above: the first stays.
        let _ = self.shared.register.set(Arc::new(Register::new(journals)));
    }

    /// Sends what is committed to these sinks too. To be called before [`Journal::start`].
    ///
    /// # Errors
    /// A file of authorities cannot be used.
    pub fn send_to(&self, config: &SinksConfig) -> Result<(), AuthorityFault> {
        let shared = &self.shared;
        let place = (shared.folder.path().to_owned(), shared.folder.id());
        let sinks = Sinks::build(place, config, shared.config.sync, &shared.clock, &shared.metrics)?;
        // A second call would send everything twice: the first stays.
        let _ = self.sinks.set(sinks);
        Ok(())
    }

    /// Tells the sinks that want it of a mark that a client has reached.
    pub async fn note_mark(&self, mark: &QuotaMark) {
        if let Some(sinks) = self.sinks.get() {
            sinks.note_mark(mark).await;
        }
    }

    /// Begins to make segments ahead, to drain into `store`, to bring home what other processes
    /// left, and to sync. Until then only the first segments are there, and under `every`
    /// [`super::Entry::durable`] waits.
    ///
    /// # Panics
    /// The system gives no thread.
    pub fn start(&self, store: Arc<dyn UsageStore>, tasks: &Tasks) {
        let shared = &self.shared;
        let to_store = |store| {
            let (metrics, aside) = (Arc::clone(&shared.metrics), Aside::of(&shared.folder));
            Delivery::new(store, aside, metrics, shared.closing.clone(), shared.over.clone())
        };
        let delivery = Arc::new(match self.sinks.get() {
            Some(sinks) => to_store(Arc::clone(&store)).with_outbox(Arc::clone(&sinks.outbox)),
            None => to_store(Arc::clone(&store)),
        });
        self.sinks.get().inspect(|sinks| sinks.start(tasks));
        if let Some(gate) = shared.gate.clone() {
            let (lanes, guard) = (shared.lanes.clone(), tasks.vital_guard("metering sync"));
            let thread = std::thread::Builder::new().name("metering-sync".into()).spawn(move || {
                let _guard = guard;
                sync::run(&gate, &lanes);
            });
            thread.expect("a process that starts may have a thread");
        }
        let drain = drain::run(Arc::clone(&self.drain), Arc::clone(&delivery), Arc::clone(shared));
        let recovery = Recovery::new(Arc::clone(shared), Arc::clone(&delivery));
        let mut running = vec![
            tasks.spawn_vital("metering prepare", prepare::run(Arc::clone(shared))),
            tasks.spawn_vital("metering drain", drain),
            tasks.spawn_vital("metering recovery", recovery.run()),
        ];
        if let Some(register) = shared.register.get().cloned() {
            // Sinks had long ago what a store that lost commits is sent again.
            let again = Arc::new(to_store(store));
            let work = register::run(register, Arc::clone(&self.drain), again, Arc::clone(shared));
            running.push(tasks.spawn_vital("metering register", work));
        }
        *self.running() = Some(Running { delivery, tasks: running });
    }

    /// Takes no more entries, commits what the store takes within `limit`, and says how many
    /// entries stay for the next process. To be called once, after the last request has ended
    /// and [`Tasks::stop_softly`]; on any runtime.
    pub async fn finish(&self, limit: Duration) -> Left {
        self.shared.closing.cancel();
        let rest = self.hand_over_the_rest();
        tokio::pin!(rest);
        let left = tokio::select! {
            left = &mut rest => left,
            () = tokio::time::sleep(limit) => {
                self.shared.over.cancel();
                rest.await
            }
        };
        left
    }

    async fn hand_over_the_rest(&self) -> Left {
        let running = self.running().take();
        let delivery = running.as_ref().map(|running| Arc::clone(&running.delivery));
        for task in running.into_iter().flat_map(|running| running.tasks) {
            // One that panicked has said so, and the rest goes on without it.
            let _ = task.await;
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || close_lanes(&shared)).await;
        let mut drain = self.drain.lock().await;
        if let Some(delivery) = delivery {
            drain.pass(&delivery).await;
        }
        if let Some(sinks) = self.sinks.get() {
            sinks.finish(&self.shared.over).await;
        }
        let left = Left { entries: drain.left() + self.shared.owed.load(Ordering::Relaxed) };
        if let Some(register) = self.shared.register.get()
            && left.entries == 0
        {
            register.leave(self.shared.folder.id()).await;
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            shared.publish();
            // Nothing in it: nothing to adopt. Otherwise its lock goes with the process.
            shared.folder.remove_if_empty();
        })
        .await;
        left
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        if let Some(gate) = &self.shared.gate {
            gate.stop();
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Journal").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

/// One segment for each worker; or none at all, and the folder is gone.
fn first_segments(folder: &Folder, blueprint: &Blueprint, workers: usize) -> Result<Vec<Prepared>, JournalError> {
    let first: io::Result<Vec<_>> = (0..workers).map(|_| blueprint.create(folder.path())).collect();
    first.map_err(|source| {
        for number in folder.segments().unwrap_or_default() {
            segment::remove(folder.path(), number);
        }
        folder.remove_if_empty();
        JournalError::no_first_segments(folder.path().to_owned(), blueprint.bytes() * workers as u64, source)
    })
}

/// Takes no more entries; removes what was never used.
fn close_lanes(shared: &Shared) {
    for lane in &shared.lanes {
        for unused in lane.close() {
            segment::remove(shared.folder.path(), unused.number);
        }
        drop(lane.take_worn());
    }
    if let Some(gate) = &shared.gate {
        gate.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tokio::runtime::Handle;

    use super::super::JournalFull;
    use super::super::double::{MemoryStore, Rig, admission, settlement};
    use super::*;
    use crate::model::clock::ManualClock;
    use crate::model::usage::Outcome;

    fn open(rig: &Rig, config: &MeteringConfig, workers: usize) -> Result<Journal, JournalError> {
        let clock = Arc::<ManualClock>::clone(&rig.clock);
        Journal::open(config, "node-a", &["orders".into()], workers, clock, Arc::clone(&rig.metrics))
    }

    #[test]
    fn what_is_wrong_at_the_start_is_said_with_its_remedy_and_leaves_nothing() {
        let rig = Rig::new();
        let refused = |change: &dyn Fn(&mut MeteringConfig)| {
            let mut config = rig.config.clone();
            change(&mut config);
            open(&rig, &config, 4).unwrap_err().to_string()
        };
        let small = refused(&|config| config.segment_bytes = 6144);
        assert!(small.contains("metering.segment_bytes = 6144"), "{small}");
        let bound = refused(&|config| config.max_bytes = 30_000);
        assert!(bound.contains("metering.max_bytes = 30000") && bound.contains("32768 bytes"), "{bound}");
        assert!(!rig.config.dir.exists());
        fs::write(rig.elsewhere(), "a file").unwrap();
        let folder = refused(&|config| config.dir = rig.elsewhere());
        assert!(folder.contains("elsewhere") && folder.contains("metering.dir"), "{folder}");

        let folder = Folder::create(&rig.config.dir, "node-a", Uuid::from_u128(1)).unwrap();
        let blueprint = Blueprint::new(Uuid::from_u128(1), "node-a", &[], 8192, Copies::None).unwrap();
        fs::create_dir_all(folder.path().join("00000002.segment/taken")).unwrap();
        let failed = first_segments(&folder, &blueprint, 2).unwrap_err();
        assert!(matches!(failed, JournalError::Segment { .. }), "{failed}");
        assert!(!folder.path().join("00000001.segment").exists());
        let no_room =
            JournalError::no_first_segments(folder.path().to_owned(), 16384, io::ErrorKind::StorageFull.into())
                .to_string();
        assert!(no_room.contains("16384 bytes in") && no_room.contains("lower metering.segment_bytes"), "{no_room}");
    }

    #[tokio::test]
    async fn two_journals_stand_side_by_side_and_neither_takes_the_others() {
        let rig = Rig::new();
        let (first, second) = (open(&rig, &rig.config, 1).unwrap(), open(&rig, &rig.config, 1).unwrap());
        Rig::complete(&first, 1..4);
        rig.recover(&second).await;
        assert_eq!((rig.folders().len(), rig.store.events().len()), (2, 0));
        rig.drain(&first).await;
        assert_eq!(rig.store.events().len(), 3);
        drop(first);
        rig.recover(&second).await;
        assert_eq!((rig.folders().len(), rig.store.sent.load(Ordering::SeqCst)), (1, 6));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_journal_that_runs_hands_over_everything_at_its_end() {
        for sync in [SyncPolicy::Never, SyncPolicy::EachRequest, SyncPolicy::Every(Duration::from_millis(5))] {
            let rig = Rig::with(|config| {
                (config.sync, config.segment_bytes, config.max_bytes) = (sync, 1 << 20, 1 << 30);
            });
            let journal = open(&rig, &rig.config, 2).unwrap();
            let tasks = Tasks::new(Handle::current());
            journal.start(Arc::<MemoryStore>::clone(&rig.store), &tasks);
            let workers: Vec<_> = (0..2)
                .map(|worker| {
                    let meter = journal.meter(worker);
                    Tasks::spawn_here(async move {
                        for number in 0..300 {
                            let entry = meter.admit(&admission(1 + number * 2 + worker as u128)).unwrap();
                            entry.durable().await;
                            entry.mark_sent();
                            entry.settle(&settlement(Outcome::Complete));
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.unwrap();
            }
            tasks.stop_softly();
            let left = journal.finish(Duration::from_secs(20)).await;
            assert_eq!((left.entries, rig.store.events().len()), (0, 600));
            assert_eq!(rig.folders(), Vec::<PathBuf>::new(), "nothing is left");
            assert!(!tasks.fatal().is_cancelled());
            assert_eq!((rig.metrics.metering_settled.get(), rig.metrics.metering_committed.get()), (600, 600));
            assert_eq!(journal.meter(0).admit(&admission(1)).unwrap_err(), JournalFull, "closed");
        }
    }

    #[tokio::test]
    async fn what_the_store_did_not_take_stays_for_the_next_process() {
        let rig = Rig::new();
        let journal = open(&rig, &rig.config, 1).unwrap();
        let tasks = Tasks::new(Handle::current());
        rig.store.away.store(true, Ordering::SeqCst);
        journal.start(Arc::<MemoryStore>::clone(&rig.store), &tasks);
        let meter = journal.meter(0);
        let open_entry = meter.admit(&admission(1)).unwrap();
        open_entry.mark_sent();
        for number in 2..6 {
            meter.admit(&admission(number)).unwrap().settle(&settlement(Outcome::Complete));
        }
        tasks.stop_softly();
        assert_eq!(journal.finish(Duration::from_secs(20)).await, Left { entries: 5 });
        std::mem::forget(open_entry);
        drop(journal);
        assert!(tasks.wait(Duration::from_secs(20)).await);
        rig.store.away.store(false, Ordering::SeqCst);
        let next = open(&rig, &rig.config, 1).unwrap();
        rig.recover(&next).await;
        let outcomes = rig.store.outcomes();
        assert_eq!((outcomes.len(), outcomes[&admission(1).id]), (5, Outcome::Interrupted));
        assert_eq!(rig.metrics.metering_recovered.get(), 1);
        assert_eq!(next.finish(Duration::from_secs(20)).await, Left { entries: 0 });
    }

    #[tokio::test]
    async fn the_end_comes_in_time_when_the_store_never_answers() {
        let rig = Rig::new();
        let journal = open(&rig, &rig.config, 1).unwrap();
        let tasks = Tasks::new(Handle::current());
        rig.store.silent.store(true, Ordering::SeqCst);
        Rig::complete(&journal, 1..4);
        journal.start(Arc::<MemoryStore>::clone(&rig.store), &tasks);
        tasks.stop_softly();
        assert_eq!(journal.finish(Duration::from_millis(50)).await, Left { entries: 3 });
    }
}
