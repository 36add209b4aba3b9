//! Rows that the store refuses for their content: set aside in a file, never dropped.
//!
//! `aside-<uuid>.ndjson` in the process's folder: one JSON object a line, with the columns of
//! `usage_events` and what the store said. An operator mends the cause and inserts them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::json;

use super::folder::Folder;
use super::segment::FILE_MODE;
use crate::model::causes::with_causes;
use crate::model::usage::{CutReason, UsageEvent};
use crate::store::StoreError;

/// The file of one process.
#[derive(Debug)]
pub(super) struct Aside {
    path: PathBuf,
}

impl Aside {
    /// That of this folder; it is made when it is first needed.
    pub(super) fn of(folder: &Folder) -> Self {
        Self { path: folder.path().join(format!("aside-{}.ndjson", folder.id())) }
    }

    /// Writes rows, synced when it returns.
    pub(super) fn write(&self, refused: &[(&UsageEvent, StoreError)]) -> io::Result<()> {
        let mut lines = Vec::new();
        for (event, error) in refused {
            serde_json::to_writer(&mut lines, &line(event, error))?;
            lines.push(b'\n');
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(&self.path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(&lines).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a line would spoil the file; the rows stay in the journal and come again.
            cut(&file, before);
        }
        written
    }
}

fn cut(file: &File, length: u64) {
    if let Err(error) = file.set_len(length) {
        tracing::warn!(%error, "a line that was half written could not be taken back");
    }
}

fn line(event: &UsageEvent, error: &StoreError) -> serde_json::Value {
    json!({
        "id": event.id,
        "request_id": event.request_id,
        "client_id": event.client_id,
        "api_key_id": event.api_key_id,
        "token_id": event.token_id,
        "occurred_at": event.occurred_at,
        "route": event.route,
        "method": event.method,
        "status": event.status,
        "outcome": event.outcome.as_str(),
        "reason": event.reason.map(CutReason::as_str),
        "duration_us": event.duration_us,
        "bytes_in": event.bytes_in,
        "bytes_out": event.bytes_out,
        "units": event.units,
        "node": event.node,
        "kind": event.kind.as_str(),
        "parent_id": event.kind.parent(),
        "error": with_causes(error),
    })
}
