//! `journals`

use async_trait::async_trait;
use uuid::Uuid;

use super::Postgres;
use super::pool::WORK;
use super::row::{Columns, all};
use crate::store::Result;
use crate::store::journals::{JournalRecord, JournalReport, JournalStore};

#[async_trait]
impl JournalStore for Postgres {
    async fn report(&self, report: &JournalReport) -> Result<Option<i64>> {
        let statement = "
            WITH before AS (SELECT beat FROM journals WHERE id = $1)
            INSERT INTO journals (id, node, clear_until, beat) VALUES ($1, $2, $3, $4)
            ON CONFLICT (id) DO UPDATE SET clear_until = excluded.clear_until, beat = excluded.beat, reported_at = now()
            RETURNING (SELECT beat FROM before)";
        let mut lease = self.work.lease("report journal", WORK).await?;
        let rows = lease.rows(statement, &[&report.id, &report.node, &report.clear_until, &report.beat]).await?;
        Columns::of("journals", &rows[0]).take("beat")
    }

    async fn forget(&self, id: Uuid) -> Result<()> {
        let mut lease = self.work.lease("forget journal", WORK).await?;
        lease.execute("DELETE FROM journals WHERE id = $1", &[&id]).await?;
        Ok(())
    }

    async fn journals(&self) -> Result<Vec<JournalRecord>> {
        let statement = "SELECT id, node, clear_until, reported_at FROM journals ORDER BY node, id";
        let mut lease = self.work.lease("list journals", WORK).await?;
        all("journals", &lease.rows(statement, &[]).await?, |row| {
            Ok(JournalRecord {
                id: row.take("id")?,
                node: row.take("node")?,
                clear_until: row.take("clear_until")?,
                reported_at: row.take("reported_at")?,
            })
        })
    }

    /// From the name of the log that is being written: the control file tells of a promotion only
    /// when the next checkpoint is done.
    async fn timeline(&self) -> Result<Option<String>> {
        let statement = "SELECT CASE WHEN NOT pg_is_in_recovery()
            THEN (SELECT system_identifier FROM pg_control_system()) || '/'
                || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";
        let mut lease = self.work.lease("read timeline", WORK).await?;
        let rows = lease.rows(statement, &[]).await?;
        Columns::of("pg_walfile_name", &rows[0]).take("timeline")
    }
}
