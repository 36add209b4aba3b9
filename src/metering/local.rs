//! The journals of this machine as files: what any process may read of them, whoever holds them.
//!
//! Owns: listing segments (those in use, those left behind, those kept) and reading their entries
//! in bounded batches. Changes nothing. A segment that is retired or deleted while this reads is
//! read where it went, or was committed long ago.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::committed::Committed;
use super::delivery::BATCH;
use super::event;
use super::folder::uuid_of;
use super::header::{Header, HeaderError};
use super::segment::{CHUNK_SLOTS, read_slots};
use super::slot::{SLOT_BYTES, Sent, Slot};
use crate::model::id::EventId;
use crate::model::usage::{Admission, UsageEvent};

/// So many listings in a row find nothing new when everything was found: a segment that moves
/// between two folders while they are listed shows in the next one.
const LISTINGS: usize = 2;

/// Where an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// In a segment that its process uses, or left behind: it may still be on its way.
    Journal,
    /// In one whose every entry was committed.
    Kept,
}

/// A settled entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalEntry {
    /// What the store has, or should have.
    pub(super) event: UsageEvent,
    /// When it ended.
    pub(super) ended: Timestamp,
    /// Where it was found.
    pub(super) place: Where,
}

/// The journals in a folder, read entry by entry.
pub(super) struct LocalJournals {
    dir: PathBuf,
    listed: HashSet<(Uuid, u64)>,
    waiting: VecDeque<Segment>,
    reading: Option<Reading>,
    unsettled: HashMap<EventId, UsageEvent>,
    counts: Counts,
}

/// What was read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// The uuids of the folders that are there.
    pub(super) folders: HashSet<Uuid>,
    /// Segments.
    pub(super) segments: u64,
    /// Settled entries.
    pub(super) settled: u64,
    /// Entries under way, in segments in use.
    pub(super) open: u64,
    /// Segments that could not be read.
    pub(super) unreadable: u64,
}

struct Segment {
    /// Its folder's uuid and its number.
    key: (Uuid, u64),
    path: PathBuf,
    place: Where,
}

struct Reading {
    file: File,
    header: Header,
    place: Where,
    /// Whether the folder of its process is gone: what was moved out of it went nowhere else.
    orphan: bool,
    next: u32,
}

impl LocalJournals {
    /// Those in `dir`, which is `metering.dir`.
    #[must_use]
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            listed: HashSet::new(),
            waiting: VecDeque::new(),
            reading: None,
            unsettled: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// What was read so far.
    #[must_use]
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The next settled entries; none when all were given. Blocks.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn next_batch(&mut self) -> io::Result<Vec<LocalEntry>> {
        let mut entries = Vec::new();
        while entries.len() + CHUNK_SLOTS as usize <= BATCH {
            if self.reading.is_none() && !self.open_next()? {
                break;
            }
            self.read_on(&mut entries);
        }
        self.counts.settled += entries.len() as u64;
        Ok(entries)
    }

    /// Of kept segments the entries that were never settled, as they were delivered; to be asked
    /// when all settled ones were given.
    pub(super) fn take_unsettled(&mut self) -> Vec<UsageEvent> {
        let mut events: Vec<_> = self.unsettled.drain().map(|(_, event)| event).collect();
        events.sort_by_key(|event| event.id);
        events
    }

    fn open_next(&mut self) -> io::Result<bool> {
        loop {
            // Again and again: what was in use when it was listed first may have been retired, and what
            // was adopted may have been handed over to a folder that was listed before.
            for _ in 0..LISTINGS {
                if self.waiting.is_empty() {
                    self.list()?;
                }
            }
            let Some(Segment { key, path, place }) = self.waiting.pop_front() else { return Ok(false) };
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // It moved since it was listed, or is gone: the next listing says.
                    self.listed.remove(&key);
                    continue;
                }
                file => file?,
            };
            match Header::read(&file) {
                Ok(header) => {
                    let orphan = place == Where::Kept && !self.counts.folders.contains(&header.folder);
                    self.counts.segments += 1;
                    self.reading = Some(Reading { file, header, place, orphan, next: 0 });
                    return Ok(true);
                }
                // Being made: it holds nothing yet. Or damaged: recovery says so.
                Err(HeaderError::Damaged) => {}
                Err(HeaderError::Unreadable(_) | HeaderError::OtherFormat(_)) => self.counts.unreadable += 1,
            }
        }
    }

    fn list(&mut self) -> io::Result<()> {
        let folders = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            folders => folders?,
        };
        for folder in folders {
            let folder = folder?.path();
            let Some(id) = uuid_of(&folder) else { continue };
            self.counts.folders.insert(id);
            self.list_in(&folder, Where::Journal, |stem| Some((id, stem.parse().ok()?)))?;
            let committed = Committed::in_folder(&folder);
            self.list_in(committed.path(), Where::Kept, |stem| {
                let (uuid, number) = stem.split_at_checked(36)?;
                Some((Uuid::try_parse(uuid).ok()?, number.strip_prefix('-')?.parse().ok()?))
            })?;
        }
        Ok(())
    }

    fn list_in(&mut self, folder: &Path, place: Where, key: impl Fn(&str) -> Option<(Uuid, u64)>) -> io::Result<()> {
        let files = match fs::read_dir(folder) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            files => files?,
        };
        let mut found = Vec::new();
        for file in files {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "segment") {
                continue;
            }
            let Some(key) = path.file_stem().and_then(|stem| key(stem.to_str()?)) else { continue };
            found.push((key, path));
        }
        found.sort();
        for (key, path) in found {
            if self.listed.insert(key) {
                self.waiting.push_back(Segment { key, path, place });
            }
        }
        Ok(())
    }

    fn read_on(&mut self, entries: &mut Vec<LocalEntry>) {
        let Some(reading) = &mut self.reading else { return };
        let count = CHUNK_SLOTS.min(reading.header.slots - reading.next);
        let mut buffer = Vec::new();
        let read = read_slots(&reading.file, reading.header.offset(reading.next), count, &mut buffer);
        let slots = buffer.as_chunks::<SLOT_BYTES>().0;
        if read.is_err() || slots.is_empty() {
            self.counts.unreadable += u64::from(read.is_err());
            self.reading = None;
            return;
        }
        let (header, place) = (&reading.header, reading.place);
        for (slot, bytes) in (reading.next..).zip(slots) {
            match Slot::read(header.seal(), slot, bytes) {
                Slot::Settled(admission, settlement) => {
                    let lasted = SignedDuration::from_micros(i64::try_from(settlement.duration_us).unwrap_or(i64::MAX));
                    let ended = admission.occurred_at.saturating_add(lasted).unwrap_or(admission.occurred_at);
                    self.unsettled.remove(&admission.id);
                    entries.push(LocalEntry { event: event::settled(&admission, &settlement, header), ended, place });
                }
                Slot::Open(admission, sent) if place == Where::Kept => {
                    note(&mut self.unsettled, &admission, sent, header);
                }
                Slot::Moved(admission, sent) if reading.orphan => note(&mut self.unsettled, &admission, sent, header),
                Slot::Open(..) => self.counts.open += 1,
                Slot::Moved(..) | Slot::Empty | Slot::Torn => {}
            }
        }
        reading.next += u32::try_from(slots.len()).unwrap_or(u32::MAX);
        if reading.next >= reading.header.slots {
            self.reading = None;
        }
    }
}

/// Of several slots of one entry, what either sent was sent: as adoption has it.
fn note(unsettled: &mut HashMap<EventId, UsageEvent>, admission: &Admission, sent: Sent, header: &Header) {
    let event = event::unsettled(admission, sent, header);
    let known = unsettled.entry(event.id).or_insert_with(|| event.clone());
    if sent == Sent::Yes {
        *known = event;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::mem;

    use super::super::double::{Rig, admission, settlement};
    use super::*;
    use crate::model::usage::Outcome;

    /// All that a folder says: settled entries by id and place, then those that never were.
    fn read(rig: &Rig) -> (BTreeMap<EventId, Where>, BTreeMap<EventId, Outcome>, Counts) {
        let mut journals = LocalJournals::of(&rig.config.dir);
        let mut settled = BTreeMap::new();
        loop {
            let batch = journals.next_batch().unwrap();
            if batch.is_empty() {
                break;
            }
            for entry in batch {
                assert_eq!(settled.insert(entry.event.id, entry.place), None, "each once");
            }
        }
        let unsettled = journals.take_unsettled().into_iter().map(|event| (event.id, event.outcome)).collect();
        (settled, unsettled, journals.counts().clone())
    }

    #[tokio::test]
    async fn what_is_in_use_is_read_and_what_is_under_way_is_only_counted() {
        let rig = Rig::new();
        assert_eq!(read(&rig), Default::default(), "a folder that is not there holds nothing");
        let journal = rig.open();
        Rig::complete(&journal, 1..4);
        let open = journal.meter(0).admit(&admission(9)).unwrap();
        open.mark_sent();
        let (settled, unsettled, counts) = read(&rig);
        let ids = |range: std::ops::Range<u128>| range.map(|number| admission(number).id).collect::<Vec<_>>();
        assert_eq!(settled.keys().copied().collect::<Vec<_>>(), ids(1..4));
        assert!(settled.values().all(|place| *place == Where::Journal) && unsettled.is_empty());
        assert_eq!((counts.open, counts.settled, counts.folders.len()), (1, 3, 1));
        open.settle(&settlement(Outcome::Complete));
        assert_eq!(read(&rig).0.len(), 4);
    }

    /// The segments of a killed process, adopted and kept: all is there that was delivered.
    #[tokio::test]
    async fn what_was_adopted_is_kept_with_what_never_settled() {
        let rig = Rig::with(|config| config.keep = std::time::Duration::from_hours(1));
        let journal = rig.open();
        Rig::complete(&journal, 1..4);
        for (number, sent) in [(7, true), (8, false)] {
            let entry = journal.meter(0).admit(&admission(number)).unwrap();
            if sent {
                entry.mark_sent();
            }
            mem::forget(entry);
        }
        drop(journal);
        let heir = rig.open();
        rig.recover(&heir).await;
        let delivered = rig.store.outcomes();
        let (settled, unsettled, counts) = read(&rig);
        assert!(settled.values().all(|place| *place == Where::Kept));
        assert_eq!((settled.len(), counts.open), (3, 0));
        assert_eq!(
            unsettled,
            [(admission(7).id, Outcome::Interrupted), (admission(8).id, Outcome::NotSent)].into_iter().collect()
        );
        assert_eq!(settled.len() + unsettled.len(), delivered.len());
        assert!(unsettled.iter().all(|(id, outcome)| delivered[id] == *outcome), "the same as before");
    }
}
