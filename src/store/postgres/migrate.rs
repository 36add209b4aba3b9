//! Runs the migrations of `migrations/postgres`.
//!
//! Under a lock that each file takes as well, so that a runner waits for `psql` and the other
//! way round. It belongs to the session: a runner that dies releases it.

use async_trait::async_trait;

use super::Postgres;
use super::pool::{LOOK_UP, Lease, MIGRATE};
use super::row::{Columns, all};
use crate::store::migrate::{self, Applied, Difference, Migration, MigrationStatus, POSTGRES};
use crate::store::{MigrationStore, Result, StoreError};

/// The number that the files lock: "octroi" in ASCII.
const LOCK: i64 = 122_472_946_102_121;

/// The oldest server that has what the files use (`xid8`, `gen_random_uuid`): 13.
const OLDEST_SERVER: i32 = 130_000;

#[async_trait]
impl MigrationStore for Postgres {
    async fn status(&self) -> Result<Vec<MigrationStatus>> {
        let mut lease = self.look_ups.lease("migration status", LOOK_UP).await?;
        Ok(migrate::status(POSTGRES, &ledger(&mut lease).await?))
    }

    async fn up(&self, dry_run: bool) -> Result<Vec<MigrationStatus>> {
        let mut lease = self.work.lease("migrate", MIGRATE).await?;
        let done = if dry_run {
            Ok(migrate::announced(&migrate::pending(POSTGRES, &ledger(&mut lease).await?)))
        } else {
            run(&mut lease).await
        };
        // Its time-out is off, it holds the lock, and a failed file left a transaction open.
        lease.discard();
        done
    }

    async fn verify(&self) -> Result<Vec<Difference>> {
        let mut lease = self.look_ups.lease("verify migrations", LOOK_UP).await?;
        Ok(migrate::differences(POSTGRES, &ledger(&mut lease).await?))
    }
}

async fn run(lease: &mut Lease) -> Result<Vec<MigrationStatus>> {
    lease.batch("SET statement_timeout = 0").await?;
    refuse_old_server(lease).await?;
    lease.rows("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let before = ledger(lease).await?;
    let pending = migrate::pending(POSTGRES, &before);
    // All of them before the first: nothing is changed when one cannot be applied.
    for migration in pending.iter().filter(|migration| !adopts(migration)) {
        refuse_table_in_the_way(lease, migration).await?;
    }
    for migration in &pending {
        lease.batch(migration.text).await?;
    }
    let after = ledger(lease).await?;
    for migration in POSTGRES.iter().filter(|one| after.iter().any(|row| row.version == one.version)) {
        lease
            .execute(
                "UPDATE octroi_migrations SET checksum = $2 WHERE version = $1 AND name = $3 AND checksum IS NULL",
                &[&migration.version, &migration.checksum(), &migration.name],
            )
            .await?;
    }
    Ok(migrate::done(&pending, &after))
}

/// Whether the file itself decides about a table that is there: it completes an older `clients`.
fn adopts(migration: &Migration) -> bool {
    migration.table == Some("clients")
}

async fn refuse_old_server(lease: &mut Lease) -> Result<()> {
    let rows = lease.rows("SELECT current_setting('server_version_num')::integer", &[]).await?;
    let version: i32 = Columns::of("pg_settings", &rows[0]).take("setting")?;
    if version >= OLDEST_SERVER {
        return Ok(());
    }
    let message = format!("the server is PostgreSQL {}; Octroi needs 13 or newer", version / 10_000);
    Err(StoreError::Refused { operation: "migrate", source: message.into() })
}

async fn refuse_table_in_the_way(lease: &mut Lease, migration: &Migration) -> Result<()> {
    let Some(table) = migration.table else { return Ok(()) };
    let rows = lease.rows("SELECT to_regclass($1::text) IS NOT NULL", &[&table]).await?;
    if Columns::of("pg_class", &rows[0]).take("relname")? {
        return Err(StoreError::Conflict(migration.table_in_the_way(table)));
    }
    Ok(())
}

async fn ledger(lease: &mut Lease) -> Result<Vec<Applied>> {
    let rows = lease.rows("SELECT to_regclass('octroi_migrations') IS NOT NULL", &[]).await?;
    if !Columns::of("pg_class", &rows[0]).take::<bool>("relname")? {
        return Ok(Vec::new());
    }
    let rows =
        lease.rows("SELECT version, name, checksum, applied_at FROM octroi_migrations ORDER BY version", &[]).await?;
    all("octroi_migrations", &rows, |row| {
        Ok(Applied {
            version: row.take("version")?,
            name: row.take("name")?,
            checksum: row.take("checksum")?,
            applied_at: row.take("applied_at")?,
        })
    })
}
