//! The folder of one process: who holds it, and what of it outlives the process.
//!
//! `<metering.dir>/<node>-<uuid>/` belongs to whoever holds the lock on its file `lock`; the
//! kernel lets go of that with the process, however it ends. The uuid is new at each start: what
//! a process finds is another's, or its own former one's, and is adopted in the same way.
//!
//! | in the folder | what |
//! |---|---|
//! | `lock` | held by its process |
//! | `N.segment`, `N.durable` | see `segment` |
//! | `committed/<uuid>-N.segment` | see `committed` |
//! | `aside-<uuid>.ndjson` | see `aside` |
//! | `outbox/`, `refused-<sink>-<uuid>.ndjson` | see `sink::outbox` |
//! | `<uuid>-N.….damaged` | a segment that could not be read, for a person to look at |
//!
//! Beside the folders stands `.timeline`, see `register`.
//!
//! Local file systems only: locks over a network are promises of another kind.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::committed::Committed;
use super::segment::FILE_MODE;

/// The mode of the journal's folders: what is in them names clients.
const FOLDER_MODE: u32 = 0o700;
/// The file that is locked.
const LOCK: &str = "lock";
/// What waits for sinks.
pub(super) const OUTBOX: &str = "outbox";
/// How much of a node's name its folder bears.
const NODE_LENGTH: usize = 64;

/// A folder that this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    id: Uuid,
    // A std mutex, held to look at it: seldom, and never by a worker.
    lock: Mutex<File>,
}

impl Folder {
    /// Makes a folder of our own in `dir` and holds it.
    pub(super) fn create(dir: &Path, node: &str, id: Uuid) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(dir)?;
        let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_');
        let node: String =
            node.chars().take(NODE_LENGTH).map(|letter| if legal(letter) { letter } else { '-' }).collect();
        // Locked under a name that nobody adopts, then renamed: no moment in which it is free.
        let preparing = dir.join(format!(".preparing-{id}"));
        let path = dir.join(format!("{node}-{id}"));
        DirBuilder::new().mode(FOLDER_MODE).create(&preparing)?;
        let lock = lock(&preparing)?.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
        DirBuilder::new().mode(FOLDER_MODE).create(Committed::in_folder(&preparing).path())?;
        fs::rename(&preparing, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(Self { path, id, lock: Mutex::new(lock) })
    }

    /// Holds a folder that another process left; none while it is held, or when it is gone.
    pub(super) fn adopt(path: &Path) -> io::Result<Option<Self>> {
        let Some(id) = uuid_of(path) else { return Ok(None) };
        match lock(path) {
            Ok(lock) => Ok(lock.map(|lock| Self { path: path.to_owned(), id, lock: Mutex::new(lock) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folders in `dir` other than this one, held or not.
    pub(super) fn others(&self) -> io::Result<Vec<PathBuf>> {
        let dir = self.path.parent().expect("a folder is made in a folder");
        let mut others = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path != self.path && uuid_of(&path).is_some() && path.is_dir() {
                others.push(path);
            }
        }
        others.sort();
        Ok(others)
    }

    /// Whether the folder that this process holds stands where it was made: nobody removed it, or
    /// mounted something over it.
    pub(super) fn is_there(&self) -> bool {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |held: &Metadata, there: &Metadata| (held.dev(), held.ino()) == (there.dev(), there.ino());
        match (held.metadata(), fs::metadata(self.path.join(LOCK))) {
            (Ok(held), Ok(there)) => same(&held, &there),
            _ => false,
        }
    }

    /// Makes it anew where it was, and holds it. What was in it is gone.
    pub(super) fn make_anew(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(Committed::in_folder(&self.path).path())?;
        let lock = lock(&self.path)?.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its uuid.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// The segments it keeps for a store that loses what it committed.
    pub(super) fn committed(&self) -> Committed {
        Committed::in_folder(&self.path)
    }

    /// The numbers of its segments. Files that were being made are removed: they hold nothing.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension == Some("preparing") {
                fs::remove_file(&path)?;
            }
            if matches!(extension, Some("segment" | "durable"))
                && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Hands what is to be kept (committed segments, rows set aside, damaged segments) over to
    /// another folder. All these names bear a uuid and clash with none.
    pub(super) fn hand_over(&self, heir: &Self) -> io::Result<()> {
        for (from, to) in [
            (self.committed().path().to_owned(), heir.committed().path().to_owned()),
            (self.path.clone(), heir.path.clone()),
            (self.path.join(OUTBOX), heir.path.join(OUTBOX)),
        ] {
            let entries = match fs::read_dir(&from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&to)?;
            for entry in entries {
                let entry = entry?;
                let inherited = from != self.path || is_inherited(&entry.file_name().to_string_lossy());
                if inherited {
                    fs::rename(entry.path(), to.join(entry.file_name()))?;
                }
            }
            File::open(&to)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes the folder if there is nothing in it but its lock; whether it did.
    pub(super) fn remove_if_empty(&self) -> bool {
        let _ = fs::remove_dir(self.committed().path());
        let _ = fs::remove_dir(self.path.join(OUTBOX));
        let others = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != LOCK);
        let empty = fs::read_dir(&self.path).is_ok_and(|mut entries| !entries.any(others));
        empty && fs::remove_file(self.path.join(LOCK)).is_ok() && fs::remove_dir(&self.path).is_ok()
    }
}

/// The bytes of the files in a journal's folder.
pub(super) fn bytes(folder: &Path) -> u64 {
    let committed = Committed::in_folder(folder);
    [folder, committed.path()].into_iter().filter_map(|path| fs::read_dir(path).ok()).flatten().fold(0, |sum, entry| {
        let metadata = entry.and_then(|entry| entry.metadata());
        sum + metadata.map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
    })
}

/// Whether a file is handed over when its folder is adopted.
fn is_inherited(name: &str) -> bool {
    name.ends_with(".ndjson") || name.ends_with(".damaged")
}

fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The uuid at the end of a folder's name.
pub(super) fn uuid_of(path: &Path) -> Option<Uuid> {
    let name = path.file_name()?.to_str()?;
    let (node, uuid) = name.split_at_checked(name.len().checked_sub(36)?)?;
    (node.ends_with('-') && !node.starts_with(".preparing")).then(|| Uuid::try_parse(uuid).ok())?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn uuid(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_folder_that_is_held_is_adopted_by_nobody_and_a_free_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("deep/journal");
        let ours = Folder::create(&journal, "node/../a", uuid(1)).unwrap();
        assert_eq!(ours.path(), journal.join(format!("node-..-a-{}", uuid(1))));
        assert_eq!(fs::metadata(ours.path()).unwrap().mode() & 0o777, 0o700);
        let theirs = Folder::create(&journal, "b", uuid(2)).unwrap();
        let path = theirs.path().to_owned();
        assert_eq!(ours.others().unwrap(), std::slice::from_ref(&path));
        assert!(Folder::adopt(&path).unwrap().is_none());
        drop(theirs);
        let adopted = Folder::adopt(&path).unwrap().unwrap();
        assert_eq!(adopted.id(), uuid(2));
        assert!(Folder::adopt(&path).unwrap().is_none());
        assert!(adopted.remove_if_empty());
        assert!(Folder::adopt(&path).unwrap().is_none(), "a folder that is gone");
        assert_eq!(ours.others().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_to_be_kept_is_handed_over_before_a_folder_goes() {
        let dir = tempfile::tempdir().unwrap();
        let heir = Folder::create(dir.path(), "heir", uuid(1)).unwrap();
        let left = Folder::create(dir.path(), "left", uuid(2)).unwrap();
        for name in ["committed/x-1.segment", "aside-x.ndjson", "x-2.segment.damaged", "00000003.segment.preparing"] {
            fs::write(left.path().join(name), "12345").unwrap();
        }
        assert_eq!(bytes(left.path()), 20);
        assert!(!left.remove_if_empty());
        assert_eq!(left.segments().unwrap(), Vec::<u64>::new());
        left.hand_over(&heir).unwrap();
        assert!(left.remove_if_empty());
        assert!(!dir.path().join("left").exists());
        for name in ["committed/x-1.segment", "aside-x.ndjson", "x-2.segment.damaged"] {
            assert!(heir.path().join(name).exists(), "{name}");
        }
        assert!(!heir.remove_if_empty());
    }

    #[test]
    fn segments_are_found_by_either_of_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path(), "a", uuid(1)).unwrap();
        for name in ["00000002.durable", "00000001.segment", "00000001.durable", "notes.txt", "x.segment"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(folder.segments().unwrap(), [1, 2]);
    }
}
