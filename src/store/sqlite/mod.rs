//! SQLite: one file beside the binary, for a gateway that runs alone.
//!
//! Owns: the file, its connections and the SQL of this dialect. One thread writes, because the
//! file admits one writer at a time and a queue of ours is fair where SQLite's busy handler is
//! not; a few threads read beside it (WAL). The rules of the columns are in
//! `migrations/sqlite`; what they may hold is checked in `store::columns`.

use std::path::Path;
use std::sync::Arc;

use super::{Result, Store};

mod audit;
mod changes;
mod clients;
mod error;
mod events;
mod journals;
mod keys;
mod lane;
mod migrate;
mod months;
mod peppers;
mod plans;
mod rotation;
mod row;
#[cfg(test)]
mod simulation;
mod time;
mod tokens;
mod usage;
mod write_lock;

use lane::Lane;
pub(in crate::store) use write_lock::WriteLock;

/// The open file, shared by the handles of all concerns.
struct Sqlite {
    path: Arc<Path>,
    writer: Lane,
    readers: Lane,
}

/// Opens the file, making it (readable by its owner only) and its folder when they are missing.
pub(super) async fn open(path: &Path) -> Result<Store> {
    let path: Arc<Path> = path.into();
    let writer = Lane::open(&path, lane::Access::Write, 1).await?;
    let readers = Lane::open(&path, lane::Access::Read, lane::READERS).await?;
    let sqlite = Arc::new(Sqlite { path, writer, readers });
    Ok(Store {
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
        migrations: sqlite,
    })
}
