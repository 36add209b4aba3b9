//! Segments that a process left: opened, mended from their durable copies, or set aside.
//!
//! Owns one segment at a time. Refuses to own what its entries mean beside those of others
//! (`adoption`). Nothing found here is an error but a disk that fails to be written: what cannot
//! be read is passed over, and counted by whoever asks.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::header::{Header, HeaderError, PAGE_BYTES};
use super::segment::{CHUNK_SLOTS, durable_name, read_slots, segment_name};
use super::slot::{SLOT_BYTES, Slot};

/// Stands for a slot that the disk does not give: it is not empty, and no entry.
const UNREADABLE: u8 = 0xEE;

/// A slot as it stands in a file.
type SlotBytes = [u8; SLOT_BYTES];

/// A segment that was found.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: Header,
    /// Slots up to the last that holds something.
    pub(super) used: u32,
    /// Whether the disk did not give all of it.
    pub(super) unreadable: bool,
}

/// Why a folder was left as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum SalvageError {
    /// The disk fails.
    #[error("the folder could not be read or mended")]
    Disk(#[from] io::Error),
    /// Another version of the program wrote it, and will read it.
    #[error(transparent)]
    OtherFormat(HeaderError),
}

impl Found {
    /// Reads the slots beside those of the copy, and tells `each` what they hold. What only the
    /// copy has is written to the segment, so that one file says it all; what was never used is
    /// cut off.
    pub(super) fn read(&mut self, copy: Option<&File>, mut each: impl FnMut(&Slot)) -> io::Result<()> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let slots = self.header.slots;
        let mut mended = false;
        for from in (0..slots).step_by(CHUNK_SLOTS as usize) {
            let count = CHUNK_SLOTS.min(slots - from);
            self.unreadable |= read_around(&self.file, &self.header, from, count, &mut ours);
            if let Some(copy) = copy {
                read_around(copy, &self.header, from, count, &mut theirs);
                // A segment that was cut short may go on in its copy.
                ours.resize(ours.len().max(theirs.len()), 0);
            }
            let copies = theirs.as_chunks().0.iter().map(Some).chain(std::iter::repeat(None));
            for ((slot, bytes), copy) in (from..).zip(ours.as_chunks().0).zip(copies) {
                let (state, changed) = self.mend(slot, bytes, copy)?;
                mended |= changed;
                if state != Slot::Empty {
                    self.used = slot + 1;
                }
                each(&state);
            }
        }
        if mended {
            self.file.sync_all()?;
        }
        if !self.unreadable {
            // A process that cannot deliver, and is started again and again, must not fill the
            // disk with zeros.
            self.file.set_len(self.header.offset(self.used))?;
        }
        Ok(())
    }

    /// What a slot holds, by the better of its two copies; whether that was the second.
    fn mend(&self, slot: u32, ours: &SlotBytes, copy: Option<&SlotBytes>) -> io::Result<(Slot, bool)> {
        let seal = self.header.seal();
        let state = Slot::read(seal, slot, ours);
        let Some(copy) = copy else { return Ok((state, false)) };
        let best = state.or(Slot::read(seal, slot, copy));
        if best != state {
            self.file.write_all_at(copy, self.header.offset(slot))?;
        }
        Ok((best, best != state))
    }
}

/// Opens a segment and its copy. A header that cannot be read is mended from the copy's; none:
/// neither can be read.
pub(super) fn open(folder: &Folder, number: u64) -> Result<Option<(Found, Option<File>)>, SalvageError> {
    let path = folder.path().join(segment_name(number));
    let copy_path = folder.path().join(durable_name(number));
    let copy = open_file(&copy_path)?;
    let copy_header = copy.as_ref().map(read_header).transpose()?.flatten();
    let Some(file) = open_file(&path)? else {
        // Only the copy has come through: it takes the segment's place.
        let (Some(file), Some(header)) = (copy, copy_header) else { return Ok(None) };
        fs::rename(&copy_path, &path)?;
        return Ok(Some((Found { path, file, header, used: 0, unreadable: false }, None)));
    };
    let header = match (read_header(&file)?, &copy_header) {
        (Some(header), _) => header,
        (None, Some(header)) => {
            file.write_all_at(&header.encode(), 0)?;
            header.clone()
        }
        (None, None) => return Ok(None),
    };
    let copy = copy.filter(|_| copy_header.as_ref() == Some(&header));
    Ok(Some((Found { path, file, header, used: 0, unreadable: false }, copy)))
}

fn open_file(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_header(file: &File) -> Result<Option<Header>, SalvageError> {
    match Header::read(file) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::Damaged | HeaderError::Unreadable(_)) => Ok(None),
        Err(other @ HeaderError::OtherFormat(_)) => Err(SalvageError::OtherFormat(other)),
    }
}

/// Reads slots; those that the disk does not give stand as such. A slot that the file ends in is
/// padded with zeros. Whether any was not given.
pub(super) fn read_around(file: &File, header: &Header, from: u32, count: u32, buffer: &mut Vec<u8>) -> bool {
    if read_slots(file, header.offset(from), count, buffer).is_ok() {
        buffer.resize(buffer.len().next_multiple_of(SLOT_BYTES), 0);
        return false;
    }
    buffer.clear();
    let (mut slot_bytes, mut missing) = (Vec::new(), false);
    for slot in from..from + count {
        if read_slots(file, header.offset(slot), 1, &mut slot_bytes).is_ok() {
            slot_bytes.resize(SLOT_BYTES, 0);
        } else {
            slot_bytes = vec![UNREADABLE; SLOT_BYTES];
            missing = true;
        }
        buffer.extend_from_slice(&slot_bytes);
    }
    missing
}

/// Moves both files of a segment out of the way; how many slots of it hold something.
pub(super) fn set_aside(folder: &Folder, number: u64, heir: &Folder) -> io::Result<u64> {
    let mut slots = 0;
    for name in [segment_name(number), durable_name(number)] {
        let path = folder.path().join(&name);
        let Some(file) = open_file(&path)? else { continue };
        let found = count_slots(&file)?;
        slots = slots.max(found);
        let aside = heir.path().join(damaged_name(&folder.id().to_string(), &path));
        fs::rename(&path, &aside)?;
        tracing::error!(
            file = %aside.display(),
            bytes = file.metadata()?.len(),
            slots = found,
            "a segment's header is damaged; it was set aside"
        );
    }
    Ok(slots)
}

/// Counts what can be slots, in a file that does not say where they begin: after a page, mostly.
fn count_slots(file: &File) -> io::Result<u64> {
    let (mut buffer, mut offset, mut slots) = (Vec::new(), PAGE_BYTES as u64, 0);
    loop {
        read_slots(file, offset, CHUNK_SLOTS, &mut buffer)?;
        if buffer.is_empty() {
            return Ok(slots);
        }
        slots += buffer.chunks(SLOT_BYTES).filter(|slot| slot.iter().any(|byte| *byte != 0)).count() as u64;
        offset += mem::take(&mut buffer).len() as u64;
    }
}

pub(super) fn damaged_name(folder: &str, path: &Path) -> String {
    format!("{folder}-{}.damaged", path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::adoption::Adoption;
    use super::super::double::left::{ENTRIES, damaged, expected, killed, survey};
    use super::super::double::{Rig, admission, settlement};
    use super::super::sync::Syncing;
    use super::*;
    use crate::config::metering::SyncPolicy;
    use crate::model::usage::Outcome;

    #[test]
    fn the_durable_copy_mends_what_the_segment_lost() {
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, Damage); 5] = [
            ("nothing", |_| ()),
            ("all slots", |bytes| bytes[PAGE_BYTES..].fill(0)),
            ("the header", |bytes| bytes[..PAGE_BYTES].fill(0)),
            ("the end", |bytes| bytes.truncate(PAGE_BYTES + 700)),
            ("everything", Vec::clear),
        ];
        for (what, damage) in cases {
            let rig = Rig::with(|config| config.sync = SyncPolicy::EachRequest);
            let journal = rig.open();
            let meter = journal.meter(0);
            let mut syncing = Syncing::default();
            let [first, second, third] = [1, 2, 3].map(|number| meter.admit(&admission(number)).unwrap());
            first.settle(&settlement(Outcome::Complete));
            second.mark_sent();
            syncing.pass(&journal.shared.lanes).unwrap();
            // The segment has this, its copy has not.
            second.settle(&settlement(Outcome::Cut));
            mem::forget(third);
            drop(journal);
            let (events, damaged) = damaged(&rig, damage);
            assert_eq!(damaged, 0, "{what}");
            let slots_stand = matches!(what, "nothing" | "the header" | "the end");
            let second = if slots_stand { Outcome::Cut } else { Outcome::Interrupted };
            for (number, outcome) in [(1, Outcome::Complete), (2, second), (3, Outcome::NotSent)] {
                assert_eq!(events[&admission(number).id].outcome, outcome, "{what}: entry {number}");
            }
            assert_eq!(rig.files(".durable"), Vec::<PathBuf>::new());
            // The segment alone says it all now: so does what is kept of it.
            assert_eq!(survey(&rig, &rig.folders()[0]).0, events, "{what}");
        }
    }

    #[test]
    fn a_copy_whose_segment_is_gone_takes_its_place() {
        let rig = Rig::with(|config| config.sync = SyncPolicy::EachRequest);
        let journal = rig.open();
        let entry = journal.meter(0).admit(&admission(1)).unwrap();
        Syncing::default().pass(&journal.shared.lanes).unwrap();
        mem::forget(entry);
        drop(journal);
        let path = rig.folders().remove(0);
        fs::remove_file(path.join(segment_name(1))).unwrap();
        let (events, damaged) = survey(&rig, &path);
        assert_eq!((events[&admission(1).id].outcome, damaged), (Outcome::NotSent, 0));
    }

    #[test]
    fn a_segment_without_a_header_is_set_aside_and_its_slots_counted() {
        let rig = Rig::new();
        killed(&rig);
        let (events, damaged) = damaged(&rig, |bytes| bytes[..64].fill(7));
        assert_eq!((events.len() as u128, u128::from(damaged)), (0, ENTRIES));
        let heirs = fs::read_dir(rig.elsewhere()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = heirs.flat_map(|heir| fs::read_dir(heir).unwrap()).map(|entry| entry.unwrap()).collect();
        let aside = aside.iter().filter(|entry| entry.file_name().to_str().unwrap().ends_with(".segment.damaged"));
        assert_eq!(aside.map(|entry| entry.metadata().unwrap().len()).collect::<Vec<_>>(), [8192]);
    }

    /// What a version that knew no interim records left when it was killed, made by that version.
    #[test]
    fn a_segment_of_format_1_is_read_as_it_is() {
        let bytes = include_bytes!("../../tests/journal_format_1/00000001.segment");
        let rig = Rig::new();
        let path = rig.config.dir.join("node-a-b7269381-63b6-460a-bdd5-9036ea3c4358");
        fs::create_dir_all(path.join("committed")).unwrap();
        fs::write(path.join("lock"), []).unwrap();
        fs::write(path.join(segment_name(1)), bytes).unwrap();
        assert_eq!(bytes[8], 1);
        let (events, damaged) = survey(&rig, &path);
        assert_eq!((events.len() as u128, damaged), (ENTRIES, 0));
        for number in 1..=ENTRIES {
            let event = &events[&admission(number).id];
            assert_eq!((event.outcome, event.kind.as_str()), (expected(number), "request"), "entry {number}");
            assert_eq!((event.route.as_str(), event.node.as_str()), ("orders", "node-a"));
        }
    }

    /// What a version that knew no delegated requests left when it was killed with a stream under
    /// way, made by that version: three requests, and one with two interim records.
    #[test]
    fn a_segment_of_format_2_is_read_as_it_is() {
        let bytes = include_bytes!("../../tests/journal_format_2/00000001.segment");
        let rig = Rig::new();
        let path = rig.config.dir.join("vm-3cdb5095-7002-4a07-89a0-5a9956a66d66");
        fs::create_dir_all(path.join("committed")).unwrap();
        fs::write(path.join("lock"), []).unwrap();
        fs::write(path.join(segment_name(1)), bytes).unwrap();
        assert_eq!(bytes[8], 2);
        let (events, damaged) = survey(&rig, &path);
        assert_eq!((events.len(), damaged), (6, 0));
        let of = |kind: &str| events.values().filter(|event| event.kind.as_str() == kind).collect::<Vec<_>>();
        let complete = of("request").into_iter().filter(|event| event.outcome == Outcome::Complete);
        assert_eq!(complete.map(|event| event.bytes_out).collect::<Vec<_>>(), [5; 3]);
        let killed = of("request").into_iter().find(|event| event.outcome == Outcome::Interrupted).unwrap();
        let parts = of("stream");
        assert_eq!((parts.len(), parts.iter().map(|part| part.bytes_out).sum::<u64>()), (2, 105));
        assert!(parts.iter().all(|part| part.kind.parent() == Some(killed.id)));
    }

    #[test]
    fn a_segment_of_another_format_is_left_alone() {
        let rig = Rig::new();
        killed(&rig);
        let path = rig.folders().remove(0);
        let segment = path.join(segment_name(1));
        let mut bytes = fs::read(&segment).unwrap();
        bytes[8] = 4;
        let end = 52 + u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        fs::write(&segment, &bytes).unwrap();
        let heir = Folder::create(&rig.elsewhere(), "heir", Uuid::new_v4()).unwrap();
        let surveyed = Adoption::survey(Folder::adopt(&path).unwrap().unwrap(), &heir);
        assert!(matches!(surveyed.map(drop), Err(SalvageError::OtherFormat(_))));
        assert_eq!(fs::read(&segment).unwrap(), bytes);
        assert!(Folder::adopt(&path).unwrap().is_some(), "and let go of");
    }

    #[test]
    fn slots_that_the_disk_does_not_give_are_damaged_ones() {
        let rig = Rig::new();
        killed(&rig);
        let path = rig.folders()[0].join(segment_name(1));
        let header = Header::read(&File::open(&path).unwrap()).unwrap();
        // Open for writing only: every read fails.
        let file = File::options().write(true).open(&path).unwrap();
        let mut found = Found { path, file, header, used: 0, unreadable: false };
        let mut states = Vec::new();
        found.read(None, |state| states.push(*state)).unwrap();
        assert_eq!(states, [Slot::Torn; 16]);
        assert!(found.unreadable);
        assert_eq!(fs::metadata(&found.path).unwrap().len(), 8192, "left as it is");
    }
}
