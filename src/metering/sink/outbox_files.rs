//! The files of an outbox: lines, positions, and what is read of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::record::Record;
use crate::metering::segment::FILE_MODE;

/// The most that is read at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Lines for a sink.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(super) path: PathBuf,
    /// Where it ends in its file.
    pub(super) to: u64,
    /// Lines that can be read.
    pub(crate) records: Vec<Record>,
    /// Lines that cannot.
    pub(crate) damaged: u64,
}

/// All positions in a file, also of sinks that are not configured any more.
pub(super) fn positions_of(events: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(stem)) = (events.parent(), events.file_stem().and_then(|stem| stem.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let is_position = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(stem) && path.extension().is_some_and(|extension| extension == "at")
    };
    paths.filter(is_position).collect()
}

/// The sinks that have a position in a file.
pub(super) fn sinks_of(events: &Path) -> Vec<String> {
    let name = |path: &PathBuf| Some(Path::new(path.file_stem()?).extension()?.to_str()?.to_owned());
    positions_of(events).iter().filter_map(name).collect()
}

/// Where a sink's position in a file stands.
pub(super) fn position_path(events: &Path, sink: &str) -> PathBuf {
    events.with_extension(format!("{sink}.at"))
}

/// Notes how far a sink is.
pub(super) fn write_position(events: &Path, sink: &str, at: u64) -> io::Result<()> {
    let path = position_path(events, sink);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    file.write_all_at(&at.to_le_bytes(), 0)
}

/// Where a sink goes on: at the end of what was never for it; at the start of what is in doubt.
pub(super) fn read_position(events: &Path, sink: &str, bytes: u64) -> u64 {
    let Ok(file) = File::open(position_path(events, sink)) else { return bytes };
    let mut at = [0; 8];
    if file.read_exact_at(&mut at, 0).is_err() {
        return 0;
    }
    let at = u64::from_le_bytes(at);
    if at <= bytes { at } else { 0 }
}

/// When a file was begun, by its name.
pub(super) fn begun_of(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?;
    Timestamp::from_millisecond(name.split('-').next()?.parse().ok()?).ok()
}

/// Reads lines from a place on, up to the end that is known.
pub(super) fn read_chunk(path: &Path, from: u64, bytes: u64, most: usize) -> io::Result<Chunk> {
    let file = File::open(path)?;
    let wanted = usize::try_from((bytes - from).min(CHUNK_BYTES)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; wanted];
    file.read_exact_at(&mut buffer, from)?;
    let mut chunk = Chunk { path: path.to_owned(), to: from, records: Vec::new(), damaged: 0 };
    for line in buffer.split_inclusive(|byte| *byte == b'\n') {
        if chunk.records.len() >= most {
            return Ok(chunk);
        }
        let whole = line.ends_with(b"\n");
        if !whole && from + (wanted as u64) < bytes && chunk.to > from {
            // It goes on behind what was read.
            return Ok(chunk);
        }
        chunk.to += line.len() as u64;
        match Record::read(line) {
            Some(record) => chunk.records.push(record),
            None => chunk.damaged += 1,
        }
    }
    Ok(chunk)
}

/// The lines from a place on.
pub(super) fn count_lines(path: &Path, from: u64) -> u64 {
    let lines = File::open(path).and_then(|mut file| {
        io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(memchr::memchr_iter(b'\n', &bytes).count() as u64)
    });
    lines.unwrap_or(0)
}

#[derive(Deserialize)]
struct OnlyId {
    id: Uuid,
}

/// The ids of usage events in an outbox; sorted.
pub(super) fn ids_in(dir: &Path) -> io::Result<Vec<u128>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "events") {
            let bytes = fs::read(&path)?;
            let lines = bytes.split(|byte| *byte == b'\n');
            ids.extend(lines.filter_map(|line| Some(serde_json::from_slice::<OnlyId>(line).ok()?.id.as_u128())));
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Records that a sink refused, with its reason: for a person to look at.
pub(crate) fn set_aside(folder: &Path, id: Uuid, sink: &str, refused: &[(&Record, &str)]) -> io::Result<()> {
    let mut lines = Vec::new();
    for (record, reason) in refused {
        serde_json::to_writer(&mut lines, &json!({"event": record, "error": reason}))?;
        lines.push(b'\n');
    }
    let path = folder.join(format!("refused-{sink}-{id}.ndjson"));
    let mut file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)?;
    file.write_all(&lines)
}
