//! Files of JSON lines in a folder, closed at a size or an age.
//!
//! `usage-<time>.ndjson.open` is being written; under the name without `.open` a file is whole and
//! will never change again: whoever carries files away takes those. A killed process leaves an open
//! file, which the next one closes at its last whole line; lines written just before may stand in
//! both, with the same id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::record::Record;
use super::{Failure, Refused, Sink};
use crate::metering::segment::FILE_MODE;
use crate::model::clock::{Monotonic, SharedClock};
use crate::tasks::blocking;

/// The receiver.
pub(super) struct Ndjson {
    state: Arc<Mutex<Writer>>,
}

struct Writer {
    dir: PathBuf,
    rotate_bytes: u64,
    rotate_interval: Duration,
    clock: SharedClock,
    open: Option<Open>,
    /// Whether files that killed processes left open were looked for.
    swept: bool,
}

struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    begun: Monotonic,
}

impl Ndjson {
    pub(super) fn new(dir: PathBuf, rotate_bytes: u64, rotate_interval: Duration, clock: SharedClock) -> Self {
        Self {
            state: Arc::new(Mutex::new(Writer { dir, rotate_bytes, rotate_interval, clock, open: None, swept: false })),
        }
    }

    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Writer) -> T + Send + 'static) -> T {
        let state = Arc::clone(&self.state);
        blocking(move || work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

#[async_trait]
impl Sink for Ndjson {
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let lines: Vec<u8> = records.iter().flat_map(Record::line).collect();
        self.with(move |writer| writer.write(&lines)).await?;
        Ok(Vec::new())
    }

    async fn idle(&self) {
        if let Err(error) = self.with(Writer::close_if_old).await {
            tracing::warn!(%error, "a file of usage could not be closed");
        }
    }

    async fn close(&self) {
        if let Err(error) = self.with(Writer::close).await {
            tracing::warn!(%error, "a file of usage could not be closed");
        }
    }
}

impl Writer {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.close_if_old()?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let written = open.file.write_all(lines).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            // Half a line would spoil the file; the records come again.
            open.file.set_len(open.bytes)?;
            self.open = Some(open);
            return Err(error);
        }
        open.bytes += lines.len() as u64;
        let full = open.bytes >= self.rotate_bytes;
        self.open = Some(open);
        if full { self.close() } else { Ok(()) }
    }

    fn begin(&self) -> io::Result<Open> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let time = self.clock.wall().strftime("%Y%m%dT%H%M%SZ");
        // A part of chance keeps the files of several processes apart.
        let chance = &Uuid::new_v4().simple().to_string()[..12];
        let path = self.dir.join(format!("usage-{time}-{chance}.ndjson.open"));
        let file = OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(&path)?;
        file.try_lock()?;
        Ok(Open { file, path, bytes: 0, begun: self.clock.monotonic() })
    }

    fn close_if_old(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.swept, true) {
            self.close_abandoned();
        }
        let now = self.clock.monotonic();
        let old = self.open.as_ref().is_some_and(|open| now.since(open.begun) >= self.rotate_interval);
        if old { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        fs::rename(&open.path, open.path.with_extension(""))?;
        File::open(&self.dir)?.sync_all()
    }

    /// Closes what killed processes left open, at the last whole line.
    fn close_abandoned(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "open") {
                continue;
            }
            let closed = (|| {
                let file = OpenOptions::new().read(true).write(true).open(&path)?;
                if file.try_lock().is_err() {
                    return Ok(());
                }
                let bytes = fs::read(&path)?;
                let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
                file.set_len(whole as u64)?;
                fs::rename(&path, path.with_extension(""))
            })();
            if let Err(error) = closed {
                tracing::warn!(file = %path.display(), %error, "a file of usage that was left open could not be closed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;

    use super::*;
    use crate::model::clock::ManualClock;

    fn names(dir: &Path, suffix: &str) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(suffix));
        names
    }

    #[test]
    fn files_are_closed_at_a_size_at_an_age_and_after_a_kill_and_then_never_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("usage");
        let clock = ManualClock::at(Timestamp::from_second(1_790_000_000).unwrap());
        let hour = Duration::from_hours(1);
        let sink = |clock: &Arc<ManualClock>| Ndjson::new(dir.clone(), 10, hour, Arc::<ManualClock>::clone(clock));
        let first = sink(&clock);
        let mut writer = first.state.lock().unwrap();
        writer.write(b"12345\n").unwrap();
        assert_eq!((names(&dir, ".open").len(), names(&dir, ".ndjson").len()), (1, 0));
        writer.write(b"12345\n").unwrap();
        assert_eq!((names(&dir, ".open").len(), names(&dir, ".ndjson").len()), (0, 1), "full");
        writer.write(b"1\n").unwrap();
        clock.advance(hour);
        writer.close_if_old().unwrap();
        assert_eq!((names(&dir, ".open").len(), names(&dir, ".ndjson").len()), (0, 2), "old");
        writer.write(b"1\n").unwrap();
        // Another process leaves one that is open to it.
        let second = sink(&clock);
        second.state.lock().unwrap().write(b"2\n").unwrap();
        assert_eq!(names(&dir, ".open").len(), 2);
        // Killed in the middle of a line.
        writer.open.as_mut().unwrap().file.write_all(b"half").unwrap();
        drop(writer);
        drop((first, second));
        sink(&clock).state.lock().unwrap().close_if_old().unwrap();
        assert_eq!((names(&dir, ".open").len(), names(&dir, ".ndjson").len()), (0, 4));
        let texts: String =
            names(&dir, ".ndjson").iter().map(|name| fs::read_to_string(dir.join(name)).unwrap()).collect();
        assert!(!texts.contains("half") && texts.ends_with('\n'), "{texts}");
    }
}
