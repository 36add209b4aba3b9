//! Processes, what is known of their entries, and how they end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::Lives;
use super::store::ChanceStore;
use crate::config::metering::SyncPolicy;
use crate::metering::aside::Aside;
use crate::metering::delivery::Delivery;
use crate::metering::double::{Rig, admission, part, settlement};
use crate::metering::fuse;
use crate::metering::header::PAGE_BYTES;
use crate::metering::journal::Journal;
use crate::metering::meter::Entry;
use crate::metering::recovery::Recovery;
use crate::metering::sync::Syncing;
use crate::model::chance::Chance;
use crate::model::usage::Outcome;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// What an entry's event says. None: there is no event.
type State = Option<Outcome>;

/// What is known of an entry without asking the journal.
#[derive(Debug, Default)]
struct Known {
    /// All states since the last sync, of which a loss of power leaves any.
    states: Vec<State>,
    /// From here on are those that a kill may leave: one, or two when it struck between them.
    surely: usize,
    /// Whether the sent mark was ever set.
    marked: bool,
    /// Of an interim record, the entry that it is a part of.
    parent: Option<u128>,
}

impl Known {
    /// A step that may be struck: until it has been, both states may be.
    fn step(&mut self, to: State, act: impl FnOnce()) {
        self.states.push(to);
        self.marked |= to == Some(Outcome::Interrupted);
        act();
        if !fuse::is_blown() {
            self.surely = self.states.len() - 1;
        }
    }

    fn is_sent(&self) -> bool {
        self.states.last() == Some(&Some(Outcome::Interrupted))
    }

    /// Nothing before is possible any more.
    fn forget_before(&mut self, state: usize) {
        self.states.drain(..state);
        self.surely = 0;
    }
}

/// A process.
struct Process {
    journal: Journal,
    syncing: Syncing,
    open: Vec<(u128, Entry)>,
    /// All entries of this process: what a loss of power puts in doubt.
    numbers: Vec<u128>,
    /// What the kernel has written back of the segments, some time ago.
    written_back: BTreeMap<PathBuf, Vec<u8>>,
}

struct World {
    chance: Chance,
    rig: Rig,
    store: Arc<ChanceStore>,
    sync: SyncPolicy,
    known: BTreeMap<u128, Known>,
    processes: Vec<Process>,
    lives: Lives,
}

/// Lives through what a seed decides; panics where the promise is broken.
pub(super) async fn live(seed: u64) -> Lives {
    let mut chance = Chance(seed);
    let sync = match chance.below(3) {
        0 => SyncPolicy::Never,
        1 => SyncPolicy::Every(Duration::from_secs(1)),
        _ => SyncPolicy::EachRequest,
    };
    // A file system in memory, where there is one: syncs cost nothing there.
    let place = Path::new("/dev/shm");
    let dir = if place.is_dir() { TempDir::new_in(place) } else { TempDir::new() }.unwrap();
    let keep = Duration::from_secs(chance.below(2) * 100);
    let rig = Rig::within(dir, |config| (config.sync, config.keep) = (sync, keep));
    let store = Arc::new(ChanceStore::default());
    store.state.lock().unwrap().chance = Some(Chance(chance.any()));
    let (known, processes) = (BTreeMap::new(), Vec::new());
    let mut world = World { chance, rig, store, sync, known, processes, lives: Lives::default() };
    for _ in 0..=world.chance.below(3) {
        world.one_life().await;
    }
    world.settle_accounts().await
}

impl World {
    /// Processes run until one is killed, or long enough.
    async fn one_life(&mut self) {
        fuse::set(None, 0);
        while self.processes.len() < 2 && (self.processes.is_empty() || self.chance.one_in(4)) {
            let journal = self.rig.open();
            let (open, numbers, written_back) = (Vec::new(), Vec::new(), BTreeMap::new());
            self.processes.push(Process { journal, syncing: Syncing::default(), open, numbers, written_back });
        }
        let steps = 10 + self.chance.below(90);
        let stores = u32::try_from(self.chance.below(2 * steps)).unwrap();
        fuse::set(Some(stores), self.chance.any());
        for _ in 0..steps {
            let which = self.chance.index(self.processes.len());
            let killed = self.step(which).await;
            if fuse::is_blown() || killed {
                self.lives.torn += u64::from(!killed);
                self.die(which);
                return;
            }
        }
        if self.chance.one_in(2) {
            let which = self.chance.index(self.processes.len());
            self.die(which);
        }
    }

    /// One thing happens in a process; whether that killed it.
    async fn step(&mut self, which: usize) -> bool {
        let open = self.processes[which].open.len();
        match self.chance.below(21) {
            0..=6 => self.admit(which),
            7..=13 if open > 0 => self.go_on(which),
            14 => drop(Rig::supply(&self.processes[which].journal)),
            15 | 16 => return self.drain(which).await,
            17 => return self.recover(which).await,
            18 => self.sync(which),
            19 => self.write_back(which),
            20 if open > 0 => self.tell(which),
            _ => {}
        }
        false
    }

    fn admit(&mut self, which: usize) {
        let number = self.known.len() as u128 + 1;
        let process = &mut self.processes[which];
        let known = self.known.entry(number).or_insert_with(|| Known { states: vec![None], ..Known::default() });
        process.numbers.push(number);
        let mut admitted = None;
        known.step(Some(Outcome::NotSent), || admitted = process.journal.meter(0).admit(&admission(number)).ok());
        match admitted {
            Some(entry) if !fuse::is_blown() => {
                process.open.push((number, entry));
                self.lives.entries += 1;
                if self.sync == SyncPolicy::EachRequest {
                    self.sync(which);
                }
            }
            Some(entry) => drop(entry),
            None => *known = Known { states: vec![None], ..Known::default() },
        }
    }

    /// An open entry goes a step further.
    fn go_on(&mut self, which: usize) {
        let process = &mut self.processes[which];
        let at = self.chance.index(process.open.len());
        let known = self.known.get_mut(&process.open[at].0).unwrap();
        let kind = self.chance.below(8);
        match (known.is_sent(), kind) {
            (false, 0..=4) => known.step(Some(Outcome::Interrupted), || process.open[at].1.mark_sent()),
            // The connection failed before a byte had left.
            (true, 0) => known.step(Some(Outcome::NotSent), || process.open[at].1.clear_sent()),
            (sent, kind) => {
                let (_, entry) = process.open.swap_remove(at);
                let outcome = match (sent, kind) {
                    (true, 7) => Outcome::ClientGone,
                    (true, 6) => Outcome::Cut,
                    (true, _) => Outcome::Complete,
                    (false, _) => Outcome::NotSent,
                };
                let end = || if kind == 7 { drop(entry) } else { entry.settle(&settlement(outcome)) };
                known.step(Some(outcome), end);
            }
        }
    }

    /// An interim record of an open entry.
    fn tell(&mut self, which: usize) {
        let number = self.known.len() as u128 + 1;
        let process = &mut self.processes[which];
        let (parent, entry) = &process.open[self.chance.index(process.open.len())];
        let none = || Known { states: vec![None], parent: Some(*parent), ..Known::default() };
        let known = self.known.entry(number).or_insert_with(none);
        let (part, mut has_room) = (part(number, admission(*parent).id), true);
        known.step(Some(Outcome::Complete), || has_room = entry.record(&part, &settlement(Outcome::Complete)));
        if has_room {
            process.numbers.push(number);
            self.lives.parts += 1;
        } else {
            *known = none();
        }
    }

    async fn drain(&mut self, which: usize) -> bool {
        let journal = &self.processes[which].journal;
        let delivery = self.delivery(journal);
        let pass = async { journal.drain.lock().await.pass(&delivery).await };
        tokio::select! {
            biased;
            () = self.store.kill.notified() => true,
            () = pass => false,
        }
    }

    async fn recover(&mut self, which: usize) -> bool {
        let journal = &self.processes[which].journal;
        let before = self.rig.folders().len();
        let delivery = Arc::new(self.delivery(journal));
        let mut recovery = Recovery::new(Arc::clone(&journal.shared), delivery);
        let killed = tokio::select! {
            biased;
            () = self.store.kill.notified() => true,
            () = recovery.adopt_all() => false,
        };
        self.lives.adopted += (before - self.rig.folders().len()) as u64;
        killed
    }

    fn delivery(&self, journal: &Journal) -> Delivery {
        let shared = &journal.shared;
        let store = Arc::<ChanceStore>::clone(&self.store);
        let (closing, over) = (shared.closing.clone(), shared.over.clone());
        Delivery::new(store, Aside::of(&shared.folder), Arc::clone(&self.rig.metrics), closing, over)
    }

    /// What changed becomes durable, and with it how each entry stands.
    fn sync(&mut self, which: usize) {
        if self.sync == SyncPolicy::Never {
            return;
        }
        let process = &mut self.processes[which];
        process.syncing.pass(&process.journal.shared.lanes).unwrap();
        for number in &process.numbers {
            let known = self.known.get_mut(number).unwrap();
            known.forget_before(known.states.len() - 1);
        }
    }

    /// The kernel writes some pages of the maps back, of its own accord.
    fn write_back(&mut self, which: usize) {
        let process = &mut self.processes[which];
        for path in segments(process, ".segment") {
            let bytes = fs::read(&path).unwrap();
            process.written_back.insert(path, bytes);
        }
    }

    /// A process is killed; or the machine loses its power, and all of them.
    fn die(&mut self, which: usize) {
        fuse::blow();
        self.lives.kills += 1;
        if self.chance.one_in(3) {
            self.lives.power_losses += 1;
            while let Some(process) = self.processes.pop() {
                self.lose_power(process);
            }
        } else {
            let process = self.processes.swap_remove(which);
            for number in &process.numbers {
                let known = self.known.get_mut(number).unwrap();
                known.forget_before(known.surely);
                // A mark that was taken back may still stand in the synced copy, whose word counts
                // too: such an entry is surplus, and says that it was interrupted.
                let taken_back = self.sync != SyncPolicy::Never && known.marked;
                // Under way still, or being settled when the kill struck.
                let is_open = known.states.len() > 1 || process.open.iter().any(|(open, _)| open == number);
                if taken_back && is_open {
                    known.states.push(Some(Outcome::Interrupted));
                }
            }
            // What is dropped now writes nothing: the fuse has blown.
            drop(process.open);
        }
        fuse::set(None, 0);
    }

    /// Of the maps, the disk has any sectors, old or new; of the copies, what was synced and of a
    /// pass that had not ended any sectors.
    fn lose_power(&mut self, mut process: Process) {
        let old = contents(segments(&process, ".durable"));
        if self.chance.one_in(2) {
            process.syncing.pass(&process.journal.shared.lanes).unwrap();
        }
        for (path, new) in contents(segments(&process, ".durable")) {
            let old = old.get(&path).cloned().unwrap_or_else(|| new.clone());
            self.write_mixed(&path, &old, new);
        }
        for (path, new) in contents(segments(&process, ".segment")) {
            let mut old = new.clone();
            old[PAGE_BYTES..].fill(0);
            let old = process.written_back.remove(&path).unwrap_or(old);
            self.write_mixed(&path, &old, new);
        }
        let open: Vec<_> = process.open.iter().map(|(number, _)| *number).collect();
        for number in &process.numbers {
            let known = self.known.get_mut(number).unwrap();
            // A mark that was taken back may stand in an old sector, and either copy's counts.
            if known.marked && (known.states.len() > 1 || open.contains(number)) {
                known.states.push(Some(Outcome::Interrupted));
            }
        }
        drop(process.open);
    }

    fn write_mixed(&mut self, path: &Path, old: &[u8], mut new: Vec<u8>) {
        for (new, old) in new.chunks_mut(SECTOR).zip(old.chunks(SECTOR)) {
            if self.chance.one_in(2) {
                new[..old.len()].copy_from_slice(old);
            }
        }
        fs::write(path, new).unwrap();
    }

    /// All is well again, another process comes home: the books are checked.
    async fn settle_accounts(mut self) -> Lives {
        while !self.processes.is_empty() {
            self.die(0);
        }
        {
            let mut state = self.store.state.lock().unwrap();
            state.chance = None;
            // Some come before the last process, some after it.
            for _ in 0..state.late.len() / 2 {
                state.commit_late(0);
            }
        }
        let journal = self.rig.open();
        let (open, numbers, written_back) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.processes.push(Process { journal, syncing: Syncing::default(), open, numbers, written_back });
        assert!(!self.recover(0).await && !self.drain(0).await);
        assert_eq!(self.rig.folders().len(), 1, "only the last one's folder is left");
        let mut state = self.store.state.lock().unwrap();
        while !state.late.is_empty() {
            state.commit_late(0);
        }
        let mut rollup = BTreeMap::<u8, (u64, u64)>::new();
        for event in state.events.values() {
            let sum = rollup.entry(event.outcome as u8).or_default();
            *sum = (sum.0 + u64::from(event.kind.parent().is_none()), sum.1 + u64::from(event.units));
        }
        assert_eq!(state.rollup, rollup, "rollups equal events");
        let mut found = 0;
        for (number, known) in &self.known {
            let event = state.events.get(&admission(*number).id);
            found += usize::from(event.is_some());
            let outcome = event.map(|event| event.outcome);
            assert!(known.states.contains(&outcome), "entry {number}: {outcome:?}, and it may be {:?}", known.states);
            let Some(event) = event else { continue };
            let (status, units) = (event.status, event.units);
            if event.outcome == Outcome::Complete {
                assert_eq!((status, event.bytes_out), (Some(201), 1 << 40), "entry {number} as it was settled");
            }
            assert_eq!(event.kind.parent(), known.parent.map(|parent| admission(parent).id), "entry {number}");
            let is_free = event.outcome == Outcome::NotSent || known.parent.is_some();
            assert_eq!(units, if is_free { 0 } else { 3 }, "entry {number}");
            assert_eq!(event.client_id, admission(*number).client_id, "entry {number}");
        }
        assert_eq!(found, state.events.len(), "no event is invented");
        Lives { late: state.lives.late, doubted: state.lives.doubted, ..self.lives }
    }
}

fn segments(process: &Process, suffix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(process.journal.shared.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect()
}

fn contents(paths: Vec<PathBuf>) -> BTreeMap<PathBuf, Vec<u8>> {
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}
