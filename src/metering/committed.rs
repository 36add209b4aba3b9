//! Segments whose every entry the store has: kept for `metering.keep`, compact, to heal a store
//! that loses what it had committed (a fail-over without the last commits, a restore to a point
//! in time). Sending them again changes nothing in a store that has them.
//!
//! They are a luxury: when the journal needs the room, the oldest go first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use super::header::Header;

/// The folder `committed` of a process's folder.
#[derive(Debug)]
pub(super) struct Committed {
    path: PathBuf,
}

impl Committed {
    /// That of this folder.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("committed") }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a segment in: cut to the slots that were used, synced, named after its folder.
    pub(super) fn take(&self, segment: &Path, header: &Header, used: u32, now: Timestamp) -> io::Result<()> {
        let file = File::options().write(true).open(segment)?;
        file.set_len(header.offset(used))?;
        file.set_modified(SystemTime::from(now))?;
        file.sync_all()?;
        let name = format!("{}-{:08}.segment", header.folder, header.number);
        fs::rename(segment, self.path.join(name))
    }

    /// Deletes those taken in before `before`.
    pub(super) fn prune(&self, before: Timestamp) -> io::Result<()> {
        let before = SystemTime::from(before);
        for (_, path, _) in self.oldest_first()?.into_iter().take_while(|(taken, ..)| *taken < before) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Deletes the oldest ones until `bytes` are freed or none is left; the bytes freed.
    pub(super) fn make_room(&self, bytes: u64) -> io::Result<u64> {
        let mut freed = 0;
        for (_, path, length) in self.oldest_first()? {
            if freed >= bytes {
                break;
            }
            fs::remove_file(path)?;
            freed += length;
        }
        Ok(freed)
    }

    fn oldest_first(&self) -> io::Result<Vec<(SystemTime, PathBuf, u64)>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            segments.push((metadata.modified()?, entry.path(), metadata.len()));
        }
        segments.sort();
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn segments_are_kept_compact_and_go_by_age_or_for_room() {
        let dir = tempfile::tempdir().unwrap();
        let committed = Committed::in_folder(dir.path());
        fs::create_dir(committed.path()).unwrap();
        let at = |second: i64| Timestamp::from_second(1_790_000_000 + second).unwrap();
        for number in 1..=4 {
            let path = dir.path().join("some.segment");
            fs::write(&path, vec![1; 65536]).unwrap();
            let header = Header::fit("node", Uuid::from_u128(7), number, &[], 65536).unwrap();
            committed.take(&path, &header, 10, at(i64::try_from(number).unwrap())).unwrap();
            assert!(!path.exists());
        }
        let left = || {
            let mut left: Vec<_> = committed.oldest_first().unwrap();
            assert!(left.iter().all(|(.., bytes)| *bytes == 4096 + 10 * 256));
            left.drain(..).map(|(_, path, _)| path.file_name().unwrap().to_str().unwrap()[37..45].to_owned()).collect()
        };
        let _: Vec<String> = left();
        committed.prune(at(2)).unwrap();
        assert_eq!(left(), ["00000002", "00000003", "00000004"]);
        assert_eq!(committed.make_room(1).unwrap(), 6656);
        assert_eq!(left(), ["00000003", "00000004"]);
        assert_eq!(committed.make_room(u64::MAX).unwrap(), 2 * 6656);
        assert_eq!(left(), Vec::<String>::new());
        assert_eq!(committed.make_room(1).unwrap(), 0);
    }
}
