//! Damage done to a journal: it invents no event, gives none twice and stops nobody.
//!
//! The input is no file but a list of wounds to one that a killed process left, so that what is
//! tried lies behind the checksums and not before them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::adoption::Adoption;
use super::folder::Folder;
use super::header::PAGE_BYTES;
use super::salvage::SalvageError;
use super::segment::{durable_name, segment_name};
use super::slot::SLOT_BYTES;
use crate::model::id::EventId;

/// What a killed process left, and the folder that it names.
struct Left {
    segment: &'static [u8],
    folder: &'static str,
}

/// Eight requests.
const REQUESTS: Left = Left {
    segment: include_bytes!("../../tests/journal_format_1/00000001.segment"),
    folder: "node-a-b7269381-63b6-460a-bdd5-9036ea3c4358",
};
/// Requests, and interim records of one.
const STREAMS: Left = Left {
    segment: include_bytes!("../../tests/journal_format_2/00000001.segment"),
    folder: "vm-3cdb5095-7002-4a07-89a0-5a9956a66d66",
};

/// The first byte: whether there is a durable copy (1), whether the wounds are the copy's (2),
/// whether the header's checksum is made to fit (4), which of the two files it is (8). Then wounds:
/// place (two bytes), length, and so many bytes; a length of 255 cuts the file there.
///
/// # Panics
/// A promise is broken.
pub(crate) fn check(data: &[u8]) {
    let Some((switches, wounds)) = data.split_first() else { return };
    let left = if switches & 8 == 0 { REQUESTS } else { STREAMS };
    let (mut segment, mut copy) = (left.segment.to_vec(), left.segment.to_vec());
    wound(if switches & 2 == 0 { &mut segment } else { &mut copy }, wounds);
    if switches & 4 != 0 {
        seal_header(&mut segment);
    }
    let known = left.ids();
    let mut seen = BTreeSet::new();
    for id in survey(left.folder, &segment, (switches & 1 != 0).then_some(&*copy)) {
        assert!(known.contains(&id), "{id} was invented");
        assert!(seen.insert(id), "{id} came twice");
    }
    // Of the two files one is whole, and says everything.
    if switches & 1 != 0 && switches & 4 == 0 {
        assert!(seen == known, "a whole file beside a damaged one lost {:?}", known.difference(&seen));
    }
}

impl Left {
    /// Of all its entries.
    fn ids(&self) -> BTreeSet<EventId> {
        let slots = self.segment[PAGE_BYTES..].chunks(SLOT_BYTES);
        let ids = slots.filter_map(|slot| Uuid::from_slice(&slot[..16]).ok()).filter(|id| !id.is_nil());
        ids.map(EventId).collect()
    }
}

fn wound(file: &mut Vec<u8>, mut wounds: &[u8]) {
    let whole = file.len();
    while let [high, low, length, rest @ ..] = wounds {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (whole + 1);
        if *length == u8::MAX {
            file.truncate(at);
            wounds = rest;
            continue;
        }
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        for (place, byte) in file.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
        wounds = rest;
    }
}

/// Makes the header say that it is whole, if it is long enough to say so.
fn seal_header(file: &mut [u8]) {
    let Some(length) = file.get(48..52).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?))) else {
        return;
    };
    let end = 52 + length as usize;
    // Slots that are not there take as long to pass as those that are.
    file[20..24].copy_from_slice(&16_u32.to_le_bytes());
    let Some(crc) = file.get(..end).map(crc32fast::hash) else { return };
    if let Some(place) = file.get_mut(end..end + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The ids of all events that a folder with this segment gives.
fn survey(folder: &str, segment: &[u8], copy: Option<&[u8]>) -> Vec<EventId> {
    let place = place();
    let folder = place.join(folder);
    fs::create_dir_all(folder.join("committed")).expect("a folder for the journal");
    fs::write(folder.join("lock"), []).expect("a lock");
    fs::write(folder.join(segment_name(1)), segment).expect("a segment");
    if let Some(copy) = copy {
        fs::write(folder.join(durable_name(1)), copy).expect("its copy");
    }
    let ids = adopt(&folder, &place.join("elsewhere"));
    fs::remove_dir_all(&place).expect("what was made here can go");
    // Nothing stays behind a process; it is made anew for the next.
    let _ = place.parent().map(fs::remove_dir);
    ids
}

fn adopt(folder: &Path, elsewhere: &Path) -> Vec<EventId> {
    let heir = Folder::create(elsewhere, "heir", Uuid::new_v4()).expect("a folder for the heir");
    let adopted = Folder::adopt(folder).expect("it can be locked").expect("nobody holds it");
    let mut adoption = match Adoption::survey(adopted, &heir) {
        Ok(adoption) => adoption,
        Err(SalvageError::OtherFormat(_)) => return Vec::new(),
        Err(SalvageError::Disk(error)) => panic!("damage is no failing disk: {error}"),
    };
    let mut ids = Vec::new();
    loop {
        let batch = adoption.next_batch();
        if batch.events.is_empty() {
            break;
        }
        ids.extend(batch.events.iter().map(|event| event.id));
    }
    adoption.close(&heir, |_, _, _| Ok(())).expect("it can be put away");
    ids
}

/// A folder for one survey, in memory where the system has that: it syncs a lot.
fn place() -> PathBuf {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = BASE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory } else { Path::new("/tmp") };
        base.join(format!("octroi-fuzz-{}", std::process::id()))
    });
    base.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}
