//! One segment: a file of slots behind a header, made ahead of its use and read as a file.
//!
//! Owns making, naming and reading. Refuses to own the mapped side (`mapped`) and what the slots
//! mean together (`lane`, `drain`, `recovery`).
//!
//! Segment `N` is `N.segment`, and beside it, unless `metering.sync` is `never`, `N.durable`: a
//! copy in the same format that `sync` keeps up to date and synced. Both are made under a name
//! that ends in `.preparing`, filled by *writing* zeros (a file with holes would end the process
//! by SIGBUS when the disk is full at its first use), synced, and renamed when they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use uuid::Uuid;

use super::header::Header;
use super::mapped::Map;
use super::slot::{SLOT_BYTES, Seal};

/// How many slots are read at a time.
pub(super) const CHUNK_SLOTS: u32 = 1024;
/// How many zeros are written at a time.
const CHUNK_BYTES: usize = CHUNK_SLOTS as usize * SLOT_BYTES;
/// A segment holds at least so many slots: a quarter of them must be some.
pub(super) const SLOTS_MIN: u32 = 16;
/// The mode of the journal's files: they name clients.
pub(super) const FILE_MODE: u32 = 0o600;

/// What all segments of a folder have in common.
#[derive(Debug)]
pub(super) struct Blueprint {
    first: Header,
    copies: Copies,
    next_number: AtomicU64,
}

/// Whether a second file stands beside a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    /// No.
    None,
    /// It has its size, and takes its room on the disk as it fills.
    Growing,
    /// Its room is taken beforehand: a write to it cannot find the disk full, and a sync of it
    /// has no size to write.
    Preallocated,
}

/// A segment that is ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) map: Map,
    pub(super) live: Arc<LiveSegment>,
}

/// A segment in use: what the lane says of it to those who read it as a file.
#[derive(Debug)]
pub(super) struct LiveSegment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) durable: Option<File>,
    pub(super) header: Header,
    pub(super) seal: Seal,
    /// Slots that have been given to entries: those below this number.
    handed_out: AtomicU32,
    /// Whether its slots will never change again.
    finished: AtomicBool,
    /// Entries that went on in other segments.
    moved: AtomicU32,
    /// How many of those are durable there.
    moved_durably: AtomicU32,
}

impl Blueprint {
    /// Segments of `segment_bytes` for the folder of this id; none when they would hold fewer
    /// than [`SLOTS_MIN`] slots.
    pub(super) fn new(folder: Uuid, node: &str, routes: &[String], segment_bytes: u64, copies: Copies) -> Option<Self> {
        let first = Header::fit(node, folder, 1, routes, segment_bytes).filter(|header| header.slots >= SLOTS_MIN)?;
        Some(Self { first, copies, next_number: AtomicU64::new(1) })
    }

    /// What one segment takes on the disk, its copy included.
    pub(super) fn bytes(&self) -> u64 {
        let one = self.first.offset(self.first.slots);
        if self.copies == Copies::None { one } else { 2 * one }
    }

    /// Whose they are, as events name it.
    pub(super) fn node(&self) -> &str {
        &self.first.node
    }

    /// The slots of a segment.
    #[cfg(test)]
    pub(super) fn slots(&self) -> u32 {
        self.first.slots
    }

    /// Makes the next segment in the folder: written, synced, mapped.
    ///
    /// # Errors
    /// The disk is full or failing; then nothing of it stays.
    pub(super) fn create(&self, folder: &Path) -> io::Result<Prepared> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let header = Header { number, ..self.first.clone() };
        let path = folder.join(segment_name(number));
        let made = self.make_files(folder, &header, &path);
        let (map, file, durable) = made.inspect_err(|_| remove(folder, number))?;
        let seal = header.seal();
        let live = LiveSegment {
            number,
            path,
            file,
            durable,
            header,
            seal,
            handed_out: AtomicU32::new(0),
            finished: AtomicBool::new(false),
            moved: AtomicU32::new(0),
            moved_durably: AtomicU32::new(0),
        };
        Ok(Prepared { map, live: Arc::new(live) })
    }

    fn make_files(&self, folder: &Path, header: &Header, path: &Path) -> io::Result<(Map, File, Option<File>)> {
        let durable = match self.copies {
            Copies::None => None,
            Copies::Growing => Some(Fill::Hole),
            Copies::Preallocated => Some(Fill::Zeros),
        };
        let durable_path = folder.join(durable_name(header.number));
        let durable = durable.map(|fill| create_file(&durable_path, header, fill)).transpose()?;
        let file = create_file(path, header, Fill::Zeros)?;
        File::open(folder)?.sync_all()?;
        let map = Map::open(&file, header.bytes, header.slots)?;
        Ok((map, file, durable))
    }
}

impl LiveSegment {
    /// The same segment with another durable file.
    #[cfg(test)]
    pub(super) fn stand_in(of: &Self, durable: File) -> Arc<Self> {
        Arc::new(Self {
            number: of.number,
            path: of.path.clone(),
            file: of.file.try_clone().unwrap(),
            durable: Some(durable),
            header: of.header.clone(),
            seal: of.seal,
            handed_out: AtomicU32::new(of.handed_out()),
            finished: AtomicBool::new(of.is_finished()),
            moved: AtomicU32::new(of.moved()),
            moved_durably: AtomicU32::new(0),
        })
    }

    /// How many slots have been given to entries.
    pub(super) fn handed_out(&self) -> u32 {
        self.handed_out.load(Ordering::Acquire)
    }

    /// Whether its slots will never change again. To be asked *before* they are read.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// For the lane alone: one more slot is written.
    pub(super) fn hand_out(&self, slots: u32) {
        self.handed_out.store(slots, Ordering::Release);
    }

    /// For the lane alone: an entry went on in another segment.
    pub(super) fn note_moved(&self) {
        self.moved.store(self.moved() + 1, Ordering::Release);
    }

    /// How many entries went on in other segments.
    pub(super) fn moved(&self) -> u32 {
        self.moved.load(Ordering::Acquire)
    }

    /// For `sync` alone: of those that went on, so many are durable where they are now.
    pub(super) fn note_durable(&self, moved: u32) {
        self.moved_durably.store(moved, Ordering::Release);
    }

    /// Whether it has the only durable copy of an entry that went on.
    pub(super) fn has_last_copy(&self) -> bool {
        self.durable.is_some() && self.moved_durably.load(Ordering::Acquire) != self.moved()
    }

    /// For the lane alone: it will write nothing more.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Reads slots into `buffer`, as many as the file has of them.
    pub(super) fn read(&self, from: u32, count: u32, buffer: &mut Vec<u8>) -> io::Result<()> {
        read_slots(&self.file, self.header.offset(from), count, buffer)
    }
}

/// The name of a segment's file.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:08}.segment")
}

/// The name of its durable copy.
pub(super) fn durable_name(number: u64) -> String {
    format!("{number:08}.durable")
}

/// Removes what there is of a segment; what is not there is no error.
pub(super) fn remove(folder: &Path, number: u64) {
    for name in [segment_name(number), durable_name(number)] {
        if let Err(error) = fs::remove_file(folder.join(&name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), name, %error, "a file of the journal could not be removed");
        }
    }
}

/// Reads `count` slots from `offset` on: fewer bytes when the file ends before.
pub(super) fn read_slots(file: &File, offset: u64, count: u32, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.resize(count as usize * SLOT_BYTES, 0);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

#[derive(Clone, Copy)]
enum Fill {
    Zeros,
    Hole,
}

fn create_file(path: &Path, header: &Header, fill: Fill) -> io::Result<File> {
    let preparing = path.with_added_extension("preparing");
    let made = write_file(&preparing, header, fill).and_then(|file| {
        fs::rename(&preparing, path)?;
        Ok(file)
    });
    if made.is_err() {
        let _ = fs::remove_file(&preparing);
    }
    made
}

fn write_file(path: &Path, header: &Header, content: Fill) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(&header.encode())?;
    let end = header.offset(header.slots);
    match content {
        Fill::Hole => file.set_len(end)?,
        Fill::Zeros => {
            let zeros = vec![0; CHUNK_BYTES];
            let mut left = usize::try_from(end - header.bytes as u64).expect("a segment fits the address space");
            while left > 0 {
                let chunk = left.min(CHUNK_BYTES);
                file.write_all(&zeros[..chunk])?;
                left -= chunk;
            }
        }
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn blueprint(copies: Copies) -> Blueprint {
        Blueprint::new(Uuid::from_u128(1), "node", &["orders".into()], 64 << 10, copies).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_segment_has_its_blocks_before_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let prepared = blueprint(Copies::None).create(folder.path()).unwrap();
        let metadata = prepared.live.file.metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 10);
        assert!(metadata.blocks() * 512 >= 64 << 10, "{} blocks", metadata.blocks());
        assert_eq!(metadata.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_copy_stands_beside_a_segment_when_asked_for() {
        for (copies, expected, bytes) in [
            (Copies::None, vec!["00000001.segment"], 64 << 10),
            (Copies::Growing, vec!["00000001.durable", "00000001.segment"], 128 << 10),
            (Copies::Preallocated, vec!["00000001.durable", "00000001.segment"], 128 << 10),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let blueprint = blueprint(copies);
            let prepared = blueprint.create(folder.path()).unwrap();
            assert_eq!(names(folder.path()), expected);
            assert_eq!(blueprint.bytes(), bytes);
            if let Some(durable) = &prepared.live.durable {
                assert_eq!(Header::read(durable).unwrap(), prepared.live.header);
                assert_eq!(durable.metadata().unwrap().len(), 64 << 10);
            }
            remove(folder.path(), 1);
            assert_eq!(names(folder.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let blueprint = blueprint(Copies::Growing);
        // A folder stands where the segment's file would be renamed to.
        fs::create_dir_all(folder.path().join("00000001.segment/taken")).unwrap();
        assert!(blueprint.create(folder.path()).is_err());
        assert_eq!(names(folder.path()), ["00000001.segment"]);
        assert_eq!(blueprint.create(folder.path()).unwrap().live.number, 2, "and the next one is made");
    }

    #[test]
    fn segments_of_too_few_slots_are_refused() {
        let blueprint = |bytes| Blueprint::new(Uuid::nil(), "node", &[], bytes, Copies::None);
        assert!(blueprint(4096 + 15 * 256).is_none());
        assert!(blueprint(4096 + 16 * 256).is_some());
    }
}
