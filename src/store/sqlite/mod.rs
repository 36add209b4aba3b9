//! SQLite: one file beside the binary, for a gateway that runs alone.
//!
//! Owns: the file, its connections and the SQL of this dialect. One thread writes, because the
//! file admits one writer at a time and a queue of ours is fair where SQLite's busy handler is
//! not; a few threads read beside it (WAL), in lanes of their own by who waits: requests for
//! look-ups, limits for quotas, people for reports. The rules of the columns are in
//! `migrations/sqlite`; what they may hold is checked in `store::columns`.

use std::path::Path;
use std::sync::Arc;

use super::trail::Pen;
use super::{Place, Result, Store};
use crate::model::audit::Author;

mod admin_tokens;
mod audit;
mod changes;
mod clients;
mod erasure;
mod error;
mod events;
mod idempotency;
mod journals;
mod keys;
mod lane;
mod migrate;
mod months;
mod operators;
mod peppers;
mod plans;
mod rotation;
mod row;
#[cfg(test)]
mod simulation;
mod time;
mod tokens;
mod trail;
mod usage;
mod write_lock;

use lane::Lane;
pub(in crate::store) use write_lock::WriteLock;

/// The open file, shared by the handles of all concerns.
struct Sqlite {
    path: Arc<Path>,
    writer: Lane,
    /// For what a request or somebody who signs in waits for: a few rows by their index.
    readers: Lane,
    /// For sums of quotas, which must be had however many reports are asked for.
    quotas: Lane,
    /// For lists, sums and whatever else may read much.
    reports: Lane,
    /// On whose behalf this handle changes things.
    pen: Pen,
}

/// Opens the file, making it (readable by its owner only) and its folder when they are missing.
pub(super) async fn open(path: &Path) -> Result<Store> {
    let path: Arc<Path> = path.into();
    let writer = Lane::open(&path, lane::Access::Write, 1).await?;
    let readers = Lane::open(&path, lane::Access::Read, lane::READERS).await?;
    let quotas = Lane::open(&path, lane::Access::Read, 1).await?;
    let reports = Lane::open(&path, lane::Access::Read, lane::REPORTERS).await?;
    Ok(store(Sqlite { path, writer, readers, quotas, reports, pen: Pen::of_system() }))
}

impl Place for Sqlite {
    fn held_by(&self, author: Author) -> Store {
        store(Sqlite {
            path: Arc::clone(&self.path),
            writer: self.writer.clone(),
            readers: self.readers.clone(),
            quotas: self.quotas.clone(),
            reports: self.reports.clone(),
            pen: self.pen.held_by(author),
        })
    }
}

fn store(sqlite: Sqlite) -> Store {
    let sqlite = Arc::new(sqlite);
    Store {
        clients: sqlite.clone(),
        keys: sqlite.clone(),
        usage: sqlite.clone(),
        peppers: sqlite.clone(),
        changes: sqlite.clone(),
        legacy: None,
        rotation: sqlite.clone(),
        tokens: sqlite.clone(),
        plans: sqlite.clone(),
        events: sqlite.clone(),
        quotas: sqlite.clone(),
        journals: sqlite.clone(),
        months: sqlite.clone(),
        audit: sqlite.clone(),
        migrations: sqlite.clone(),
        operators: sqlite.clone(),
        admin_tokens: sqlite.clone(),
        trail: sqlite.clone(),
        erasure: sqlite.clone(),
        idempotency: sqlite.clone(),
        place: sqlite,
    }
}
