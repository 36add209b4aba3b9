//! What was committed and some sink does not have yet: files of lines beside the journal.
//!
//! Owns: appending what the drain has committed, how far each sink is, what goes at the bound, and
//! that nothing is appended twice when a killed process's journal is delivered again. Refuses to
//! know how a sink is told (`sender`).
//!
//! Ids are in the order of admission and commits are not, so that no position by id would do. What
//! is appended here after each commit has an order of its own, local to this process, needs no
//! table, and outlives the process: the folder is adopted with the journal. An event is appended
//! after its commit and before its slot counts as done; so a process killed in between has it
//! delivered, and appended, by its heir: at least once, by the event's id.
//!
//! | in `outbox/` | what |
//! |---|---|
//! | `<ms>-<uuid>-<n>.events` | lines; appended to by one process, then read only |
//! | `<the same>.<sink>.at` | 8 bytes: how many bytes of it that sink is done with |
//!
//! A file goes when all sinks are done with it *and* no segment that held its events is left: until
//! then its ids tell an heir what must not be appended again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use super::outbox_files::{
    Chunk, begun_of, count_lines, ids_in, positions_of, read_chunk, read_position, sinks_of, write_position,
};
use super::record::Record;
use crate::config::metering::SyncPolicy;
use crate::config::sinks::SinksConfig;
use crate::metering::folder::OUTBOX;
use crate::metering::segment::FILE_MODE;
use crate::model::clock::SharedClock;
use crate::telemetry::metrics::SinkMetrics;

/// A file takes no more lines at this size, or at a quarter of the bound.
const FILE_BYTES: u64 = 4 << 20;

/// The outbox of one process.
pub(crate) struct Outbox {
    dir: PathBuf,
    id: Uuid,
    sinks: Vec<(String, SinkMetrics)>,
    max_bytes: u64,
    keep: SignedDuration,
    synced: bool,
    clock: SharedClock,
    state: Mutex<State>,
    /// Something was appended.
    pub(super) more: Notify,
}

#[derive(Default)]
struct State {
    /// In the order in which they were begun.
    files: Vec<OutboxFile>,
    writer: Option<File>,
    made: u32,
    /// Ids that the journal being adopted has appended; sorted.
    known: Vec<u128>,
    adopting: bool,
    /// The oldest segment of ours that is left, and the newest that holds entries.
    oldest_segment: Option<u64>,
    newest_segment: u64,
    failing: bool,
}

struct OutboxFile {
    path: PathBuf,
    bytes: u64,
    /// For each sink, in their order.
    at: Vec<u64>,
    /// Events of segments up to this number may be in it.
    newest_segment: u64,
    begun: Timestamp,
    writable: bool,
}

impl Outbox {
    /// The outbox in a process's folder.
    pub(crate) fn new(
        folder: &Path,
        id: Uuid,
        config: &SinksConfig,
        metrics: Vec<SinkMetrics>,
        sync: SyncPolicy,
        clock: SharedClock,
    ) -> Self {
        Self {
            dir: folder.join(OUTBOX),
            id,
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).zip(metrics).collect(),
            max_bytes: config.outbox_max_bytes,
            keep: SignedDuration::try_from(config.outbox_keep).unwrap_or(SignedDuration::MAX),
            synced: sync != SyncPolicy::Never,
            clock,
            state: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// Takes records for all sinks. Blocks. What the disk does not take is missed and said: the
    /// drain is not held up.
    pub(crate) fn append(&self, records: &[Record]) {
        if self.sinks.is_empty() {
            return;
        }
        let mut state = self.lock();
        let known = |record: &&Record| match record {
            Record::Usage(usage) => state.known.binary_search(&usage.id.as_u128()).is_err(),
            Record::QuotaMark(_) => true,
        };
        let lines: Vec<Vec<u8>> = records.iter().filter(known).map(Record::line).collect();
        if lines.is_empty() {
            return;
        }
        let appended = self.write(&mut state, &lines.concat());
        match appended {
            Ok(()) => state.failing = false,
            Err(error) => {
                for (_, metrics) in &self.sinks {
                    metrics.missed.inc_by(lines.len() as u64);
                }
                if !std::mem::replace(&mut state.failing, true) {
                    tracing::error!(folder = %self.dir.display(), %error, "the outbox cannot be written: sinks miss events");
                }
            }
        }
        self.enforce_bounds(&mut state);
        drop(state);
        self.more.notify_waiters();
    }

    fn write(&self, state: &mut State, lines: &[u8]) -> io::Result<()> {
        let full = |file: &OutboxFile| file.bytes >= FILE_BYTES.min(self.max_bytes / 4);
        if state.files.last().is_none_or(|file| !file.writable || full(file)) {
            self.begin_file(state)?;
        }
        let newest = state.newest_segment;
        let (Some(file), Some(writer)) = (state.files.last_mut(), &state.writer) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written =
            writer.write_all_at(lines, file.bytes).and_then(|()| if self.synced { writer.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a line would spoil the next one.
            let _ = writer.set_len(file.bytes);
            return Err(error);
        }
        file.bytes += lines.len() as u64;
        file.newest_segment = file.newest_segment.max(newest);
        Ok(())
    }

    fn begin_file(&self, state: &mut State) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        if let Some(last) = state.files.last_mut() {
            last.writable = false;
        }
        let begun = self.clock.wall();
        let stem = format!("{:014}-{}-{:06}", begun.as_millisecond(), self.id, state.made);
        state.made += 1;
        let path = self.dir.join(format!("{stem}.events"));
        // Positions first: a file without one is of no interest to that sink.
        for (sink, _) in &self.sinks {
            write_position(&path, sink, 0)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        File::open(&self.dir)?.sync_all()?;
        state.writer = Some(file);
        state.files.push(OutboxFile {
            path,
            bytes: 0,
            at: vec![0; self.sinks.len()],
            newest_segment: 0,
            begun,
            writable: true,
        });
        Ok(())
    }

    /// The next lines for a sink; none: it has all. Blocks.
    pub(crate) fn next(&self, sink: usize, most: usize) -> io::Result<Option<Chunk>> {
        loop {
            let found = {
                let state = self.lock();
                let waiting = state.files.iter().find(|file| file.at[sink] < file.bytes);
                waiting.map(|file| (file.path.clone(), file.at[sink], file.bytes))
            };
            let Some((path, from, bytes)) = found else { return Ok(None) };
            match read_chunk(&path, from, bytes, most) {
                Ok(chunk) => return Ok(Some(chunk)),
                // It went at the bound, meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has(&path) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A sink is done with a chunk. Blocks.
    pub(crate) fn advance(&self, sink: usize, chunk: &Chunk) {
        let mut state = self.lock();
        if let Some(file) = state.files.iter_mut().find(|file| file.path == chunk.path) {
            file.at[sink] = chunk.to;
            if let Err(error) = write_position(&chunk.path, &self.sinks[sink].0, chunk.to) {
                tracing::warn!(file = %chunk.path.display(), %error, "a sink's position was not written; a restart sends again");
            }
        }
        state.remove_done();
    }

    /// Which segments of this process hold entries: the oldest that is left, and the newest.
    pub(crate) fn note_segments(&self, oldest: Option<u64>, newest: u64) {
        if !self.sinks.is_empty() {
            let mut state = self.lock();
            (state.oldest_segment, state.newest_segment) = (oldest, newest);
        }
    }

    /// A killed process's journal will be delivered: what it has appended is not appended again.
    pub(crate) fn begin_adoption(&self, folder: &Path) {
        if self.sinks.is_empty() {
            return;
        }
        let known = ids_in(&folder.join(OUTBOX)).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "an outbox cannot be read; its events may be sent twice");
            Vec::new()
        });
        let mut state = self.lock();
        (state.known, state.adopting) = (known, true);
    }

    /// It was delivered, and its outbox handed over to us.
    pub(crate) fn end_adoption(&self) {
        let mut state = self.lock();
        (state.known, state.adopting) = (Vec::new(), false);
        if let Err(error) = self.take_in(&mut state) {
            tracing::warn!(folder = %self.dir.display(), %error, "an adopted outbox cannot be read");
        }
        state.remove_done();
        drop(state);
        self.more.notify_waiters();
    }

    /// Files that others left here become ours.
    fn take_in(&self, state: &mut State) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let is_events = path.extension().is_some_and(|extension| extension == "events");
            if !is_events || state.files.iter().any(|file| file.path == path) {
                continue;
            }
            let bytes = fs::metadata(&path)?.len();
            let at = self.sinks.iter().map(|(sink, _)| read_position(&path, sink, bytes)).collect();
            self.note_forsaken(&path, bytes);
            let begun = begun_of(&path).unwrap_or_else(|| self.clock.wall());
            state.files.push(OutboxFile { path, bytes, at, newest_segment: 0, begun, writable: false });
        }
        // The file that is written to stays the last.
        state.files.sort_by(|left, right| (left.writable, &left.path).cmp(&(right.writable, &right.path)));
        Ok(())
    }

    /// Says which sinks waited for a file and are not configured any more: they will not get it.
    fn note_forsaken(&self, path: &Path, bytes: u64) {
        for sink in sinks_of(path) {
            let configured = self.sinks.iter().any(|(name, _)| *name == sink);
            if !configured && read_position(path, &sink, bytes) < bytes {
                tracing::warn!(sink, "events waited for a sink that is not configured any more; it does not get them");
            }
        }
    }

    /// What is too old, and what is too much, goes; the sinks that lack it miss it. Blocks.
    pub(crate) fn prune(&self) {
        let mut state = self.lock();
        self.enforce_bounds(&mut state);
        state.remove_done();
    }

    fn enforce_bounds(&self, state: &mut State) {
        let oldest = self.clock.wall().saturating_sub(self.keep).unwrap_or(Timestamp::MIN);
        loop {
            let total: u64 = state.files.iter().map(|file| file.bytes).sum();
            let over = |file: &OutboxFile| total > self.max_bytes || file.begun < oldest;
            if !state.files.first().is_some_and(over) {
                return;
            }
            let file = state.files.remove(0);
            for ((sink, metrics), at) in self.sinks.iter().zip(&file.at) {
                let missed = count_lines(&file.path, *at);
                if missed > 0 {
                    metrics.missed.inc_by(missed);
                    tracing::error!(
                        sink,
                        events = missed,
                        "a sink was away for longer than `metering.outbox_keep` or \
                         `metering.outbox_max_bytes` allow: it misses events; `octroi usage events` exports them"
                    );
                }
            }
            remove(&file);
        }
    }

    /// Nothing will be appended any more: what is done with goes, so that an empty folder may.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.writer = None;
        state.files.iter_mut().for_each(|file| file.writable = false);
        state.remove_done();
    }

    /// The records that a sink lacks.
    pub(crate) fn left(&self, sink: usize) -> u64 {
        let state = self.lock();
        state.files.iter().map(|file| count_lines(&file.path, file.at[sink])).sum()
    }

    fn has(&self, path: &Path) -> bool {
        self.lock().files.iter().any(|file| file.path == path)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes files that nobody needs any more.
    fn remove_done(&mut self) {
        if self.adopting {
            return;
        }
        let oldest = self.oldest_segment;
        let needed = |file: &OutboxFile| {
            file.writable
                || file.at.iter().any(|at| *at < file.bytes)
                || oldest.is_some_and(|oldest| oldest <= file.newest_segment)
        };
        let (kept, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.files).into_iter().partition(needed);
        self.files = kept;
        for file in &done {
            remove(file);
        }
    }
}

/// Removes a file. Its positions first: without them it is of no interest to anybody.
fn remove(file: &OutboxFile) {
    for path in positions_of(&file.path).into_iter().chain([file.path.clone()]) {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "a file of the outbox could not be removed");
        }
    }
}

#[cfg(test)]
mod tests;
