//! What a process that ended has left: every segment of its folder, read and mended.
//!
//! Owns: reading a folder that nobody writes to any more, merging a segment with its durable
//! copy, and making one event of each id. Refuses to own delivery (`recovery`).
//!
//! One event an id: a *settled* slot is that event; of slots that are *open* (or *moved*, and the
//! slot moved to is gone: then it was delivered, or the disk lost it) the first stands for all.
//! So settled entries are delivered as they are read, in any number; open ones are remembered,
//! which are no more than were in flight, and delivered last, those without a settled slot.
//!
//! Nothing that is found here keeps a process from starting: a slot that cannot be read is
//! counted and passed over, a segment whose header cannot be read is set aside under a name that
//! ends in `.damaged`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::delivery::BATCH;
use super::event;
use super::folder::Folder;
use super::header::Header;
use super::salvage::{self, Found, SalvageError, read_around};
use super::segment::{self, CHUNK_SLOTS, durable_name};
use super::slot::{SLOT_BYTES, Sent, Slot};
use crate::model::id::EventId;
use crate::model::usage::{Admission, UsageEvent};

/// A folder that was adopted, on its way to the store.
pub(super) struct Adoption {
    folder: Folder,
    segments: Vec<Found>,
    unsettled: HashMap<EventId, Unsettled>,
    next: (usize, u32),
    /// Settled slots found.
    pub(super) settled: u64,
    /// Slots, and segments counted by their slots, that hold something and no entry.
    pub(super) damaged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    admission: Admission,
    sent: Sent,
    /// Whether it went on in a slot that was not found yet.
    moved: bool,
    segment: usize,
}

/// Events to deliver.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) events: Vec<UsageEvent>,
    /// How many of them their process had not settled.
    pub(super) unsettled: usize,
}

impl Adoption {
    /// Reads a folder whole and mends its segments. `heir`: where damaged segments go.
    pub(super) fn survey(folder: Folder, heir: &Folder) -> Result<Self, SalvageError> {
        let numbers = folder.segments()?;
        let (segments, unsettled) = (Vec::new(), HashMap::new());
        let mut adoption = Self { folder, segments, unsettled, next: (0, 0), settled: 0, damaged: 0 };
        for number in numbers {
            match salvage::open(&adoption.folder, number)? {
                Some((mut found, copy)) => {
                    found.read(copy.as_ref(), |state| adoption.count(state))?;
                    adoption.segments.push(found);
                }
                None => adoption.damaged += salvage::set_aside(&adoption.folder, number, heir)?,
            }
            fs::remove_file(adoption.folder.path().join(durable_name(number))).or_else(absent)?;
        }
        Ok(adoption)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The uuid of the process that left it.
    pub(super) fn id(&self) -> Uuid {
        self.folder.id()
    }

    /// Entries that were not settled, as far as is known: some may turn out to be.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// The next events; none when all were given.
    pub(super) fn next_batch(&mut self) -> Recovered {
        let mut recovered = Recovered::default();
        let mut buffer = Vec::new();
        while self.next.0 < self.segments.len() && recovered.events.len() + CHUNK_SLOTS as usize <= BATCH {
            let found = &self.segments[self.next.0];
            let from = self.next.1;
            if from >= found.used {
                self.next = (self.next.0 + 1, 0);
                continue;
            }
            let count = CHUNK_SLOTS.min(found.used - from);
            self.next.1 = from + count;
            read_around(&found.file, &found.header, from, count, &mut buffer);
            for (slot, bytes) in (from..).zip(buffer.as_chunks::<SLOT_BYTES>().0) {
                if let Slot::Settled(admission, settlement) = Slot::read(found.header.seal(), slot, bytes) {
                    self.unsettled.remove(&admission.id);
                    recovered.events.push(event::settled(&admission, &settlement, &found.header));
                }
            }
        }
        if recovered.events.is_empty() {
            recovered.events = self.take_unsettled();
            recovered.unsettled = recovered.events.len();
        }
        recovered
    }

    fn take_unsettled(&mut self) -> Vec<UsageEvent> {
        let ids: Vec<_> = self.unsettled.keys().take(BATCH).copied().collect();
        let entries = ids.iter().filter_map(|id| self.unsettled.remove(id));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|entry| entry.admission.id);
        let event =
            |entry: &Unsettled| event::unsettled(&entry.admission, entry.sent, &self.segments[entry.segment].header);
        entries.iter().map(event).collect()
    }

    /// Everything was delivered: hands over what is to be kept and removes the folder. `keep`:
    /// takes a segment in, or has it removed.
    pub(super) fn close(self, heir: &Folder, keep: impl Fn(&Path, &Header, u32) -> io::Result<()>) -> io::Result<()> {
        for found in &self.segments {
            if found.unreadable {
                fs::rename(
                    &found.path,
                    heir.path().join(salvage::damaged_name(&found.header.folder.to_string(), &found.path)),
                )?;
            } else if found.used > 0 {
                keep(&found.path, &found.header, found.used)?;
            }
            segment::remove(self.folder.path(), found.header.number);
        }
        self.folder.hand_over(heir)?;
        if !self.folder.remove_if_empty() {
            tracing::warn!(folder = %self.folder.path().display(), "an empty journal could not be removed");
        }
        Ok(())
    }

    /// Notes what a slot of the segment holds that will be the last in the list.
    fn count(&mut self, state: &Slot) {
        let segment = self.segments.len();
        match *state {
            Slot::Empty => {}
            Slot::Torn => self.damaged += 1,
            Slot::Settled(..) => self.settled += 1,
            Slot::Open(admission, sent) => self.note(Unsettled { admission, sent, moved: false, segment }),
            Slot::Moved(admission, sent) => self.note(Unsettled { admission, sent, moved: true, segment }),
        }
    }

    /// Of two slots of one entry the one that was not moved says how it stands. Two of those are
    /// the copy and its original before the mark: what either sent was sent.
    fn note(&mut self, entry: Unsettled) {
        let known = self.unsettled.entry(entry.admission.id).or_insert(entry);
        match (known.moved, entry.moved) {
            (true, false) => *known = entry,
            (false, true) => {}
            (true, true) | (false, false) => known.sent = known.sent.max(entry.sent),
        }
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::double::left::{ENTRIES, damaged, expected, killed};
    use super::super::double::{Rig, admission};
    use super::super::header::PAGE_BYTES;
    use super::super::segment::segment_name;
    use super::super::slot::{ADMISSION_BYTES, SENT_AT, SETTLEMENT_AT};
    use super::*;
    use crate::model::usage::Outcome;

    fn check(events: &BTreeMap<EventId, UsageEvent>, number: u128, outcome: Option<Outcome>) {
        let event = events.get(&admission(number).id);
        assert_eq!(event.map(|event| event.outcome), outcome, "entry {number}");
        let Some(event) = event else { return };
        assert_eq!(event.occurred_at, admission(number).occurred_at);
        assert_eq!(event.units, if event.outcome == Outcome::NotSent { 0 } else { 3 });
        assert_eq!(event.status, (event.outcome == Outcome::Complete).then_some(201));
    }

    #[test]
    fn settled_entries_come_as_they_are_and_open_ones_by_what_was_sent() {
        let rig = Rig::new();
        killed(&rig);
        let (events, damaged) = damaged(&rig, |_| ());
        assert_eq!((events.len() as u128, damaged), (ENTRIES, 0));
        (1..=ENTRIES).for_each(|number| check(&events, number, Some(expected(number))));
        let segment = rig.folders()[0].join(segment_name(1));
        assert_eq!(fs::metadata(segment).unwrap().len(), 4096 + 8 * 256, "cut to what is used");
    }

    #[test]
    fn a_file_cut_at_any_byte_gives_all_that_stands_before() {
        let rig = Rig::new();
        killed(&rig);
        let whole = fs::read(rig.folders()[0].join(segment_name(1))).unwrap();
        for cut in 0..=ENTRIES as usize * SLOT_BYTES {
            // The first entries are alike: all bytes of the last two, and every tenth of the rest.
            if cut < 6 * SLOT_BYTES && cut % 10 != 0 {
                continue;
            }
            let (events, damaged) = damaged(&rig, |bytes| {
                bytes.clone_from(&whole);
                bytes.truncate(PAGE_BYTES + cut);
            });
            let hit = cut / SLOT_BYTES;
            let mut torn = 0;
            for number in 1..=ENTRIES {
                let slot = number as usize - 1;
                let written = &whole[PAGE_BYTES + slot * SLOT_BYTES..][..SLOT_BYTES];
                let mut left = written.to_vec();
                left[cut.saturating_sub(slot * SLOT_BYTES).min(SLOT_BYTES)..].fill(0);
                // What is cut off reads as zero, and may have been zero.
                let same = |from: usize, to: usize| left[from..to] == written[from..to];
                let outcome = match expected(number) {
                    outcome if slot < hit => Some(outcome),
                    _ if slot > hit || !same(0, ADMISSION_BYTES) => None,
                    Outcome::Complete if !same(SETTLEMENT_AT, 216) => Some(Outcome::NotSent),
                    Outcome::Interrupted if !same(SENT_AT, SENT_AT + 1) => Some(Outcome::NotSent),
                    outcome => Some(outcome),
                };
                check(&events, number, outcome);
                torn += u64::from(outcome.is_none() && left.iter().any(|byte| *byte != 0));
            }
            assert_eq!(damaged, torn, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_byte_costs_at_most_the_half_it_is_in() {
        let rig = Rig::new();
        killed(&rig);
        let whole = fs::read(rig.folders()[0].join(segment_name(1))).unwrap();
        for at in 4 * SLOT_BYTES..ENTRIES as usize * SLOT_BYTES {
            let (events, damaged) = damaged(&rig, |bytes| {
                bytes.clone_from(&whole);
                bytes[PAGE_BYTES + at] ^= 0x11;
            });
            let (hit, within) = ((at / SLOT_BYTES) as u128 + 1, at % SLOT_BYTES);
            for number in 1..=ENTRIES {
                let outcome = match expected(number) {
                    _ if number == hit && within < ADMISSION_BYTES => None,
                    Outcome::Complete if number == hit && (SETTLEMENT_AT..216).contains(&within) => {
                        // `killed` sets no mark on entries that it settles.
                        Some(Outcome::NotSent)
                    }
                    outcome => Some(outcome),
                };
                check(&events, number, outcome);
            }
            assert_eq!(damaged, u64::from(within < ADMISSION_BYTES), "byte {at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_whatever_invent_an_event(
            noise in proptest::collection::vec((0_usize..8192, proptest::collection::vec(any::<u8>(), 1..600)), 0..6),
            cut in 0_usize..9000,
        ) {
            let rig = Rig::new();
            killed(&rig);
            let (events, _) = damaged(&rig, |bytes| {
                for (at, noise) in &noise {
                    let end = (at + noise.len()).min(bytes.len());
                    bytes[*at..end].copy_from_slice(&noise[..end - at]);
                }
                bytes.resize(cut, 0xA5);
            });
            for (id, event) in events {
                let number = (1..=ENTRIES).find(|number| admission(*number).id == id);
                prop_assert!(number.is_some(), "invented {id}");
                prop_assert_eq!(event.client_id, admission(1).client_id);
                let whole = expected(number.unwrap()) == Outcome::Complete;
                prop_assert!(event.outcome != Outcome::Complete || whole && event.bytes_out == 1 << 40);
            }
        }
    }
}
