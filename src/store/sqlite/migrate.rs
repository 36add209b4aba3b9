//! Runs the migrations of `migrations/sqlite`.
//!
//! A file begins and commits its own transaction, so two runners cannot share a lock around it.
//! They need none: the one that comes second fails at a table that exists, changes nothing,
//! looks at the ledger again and finds the work done.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::Sqlite;
use super::error::Failure;
use super::lane::{LOOK_UP, MIGRATE};
use super::row::Columns;
use crate::store::migrate::{self, Applied, Difference, Migration, MigrationStatus, SQLITE};
use crate::store::{MigrationStore, Result, StoreError};

#[async_trait]
impl MigrationStore for Sqlite {
    async fn status(&self) -> Result<Vec<MigrationStatus>> {
        let applied = self.readers.run("migration status", LOOK_UP, |connection| ledger(connection)).await?;
        Ok(migrate::status(SQLITE, &applied))
    }

    async fn up(&self, dry_run: bool) -> Result<Vec<MigrationStatus>> {
        let apply = move |connection: &mut Connection| {
            let before = ledger(connection)?;
            let pending = migrate::pending(SQLITE, &before);
            if dry_run {
                return Ok(migrate::announced(&pending));
            }
            for migration in &pending {
                apply(connection, migration)?;
            }
            fill_checksums(connection)?;
            Ok(migrate::done(&pending, &ledger(connection)?))
        };
        self.writer.run("migrate", MIGRATE, apply).await
    }

    async fn verify(&self) -> Result<Vec<Difference>> {
        let applied = self.readers.run("verify migrations", LOOK_UP, |connection| ledger(connection)).await?;
        Ok(migrate::differences(SQLITE, &applied))
    }
}

fn apply(connection: &Connection, migration: &Migration) -> std::result::Result<(), Failure> {
    // The table first, the ledger second: both come with one commit, so a table that another
    // runner made in between is never taken for a stranger's.
    let in_the_way = match migration.table {
        Some(table) if table_exists(connection, table)? => Some(table),
        Some(_) | None => None,
    };
    if is_applied(connection, migration)? {
        return Ok(());
    }
    if let Some(table) = in_the_way {
        return Err(StoreError::Conflict(migration.table_in_the_way(table)).into());
    }
    let Err(error) = connection.execute_batch(migration.text) else { return Ok(()) };
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    if is_applied(connection, migration)? { Ok(()) } else { Err(error.into()) }
}

fn is_applied(connection: &Connection, migration: &Migration) -> std::result::Result<bool, Failure> {
    Ok(ledger(connection)?.iter().any(|row| row.version == migration.version))
}

fn fill_checksums(connection: &Connection) -> std::result::Result<(), Failure> {
    for migration in SQLITE {
        connection.execute(
            "UPDATE octroi_migrations SET checksum = ?2 WHERE version = ?1 AND name = ?3 AND checksum IS NULL",
            params![migration.version, migration.checksum(), migration.name],
        )?;
    }
    Ok(())
}

fn table_exists(connection: &Connection, table: &str) -> std::result::Result<bool, Failure> {
    let found = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?1", [table], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

fn ledger(connection: &Connection) -> std::result::Result<Vec<Applied>, Failure> {
    if !table_exists(connection, "octroi_migrations")? {
        return Ok(Vec::new());
    }
    let mut statement =
        connection.prepare("SELECT version, name, checksum, applied_at FROM octroi_migrations ORDER BY version")?;
    let mut rows = statement.query([])?;
    let mut applied = Vec::new();
    while let Some(row) = rows.next()? {
        let mut row = Columns::of("octroi_migrations", row);
        applied.push(Applied {
            version: row.take("version")?,
            name: row.take("name")?,
            checksum: row.take("checksum")?,
            applied_at: row.time("applied_at")?,
        });
    }
    Ok(applied)
}
