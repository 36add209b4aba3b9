//! `journals`

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use uuid::Uuid;

use super::lane::{REPORT, WRITE};
use super::row::Columns;
use super::{Sqlite, time};
use crate::store::Result;
use crate::store::journals::{JournalRecord, JournalReport, JournalStore};

#[async_trait]
impl JournalStore for Sqlite {
    async fn report(&self, report: &JournalReport) -> Result<Option<i64>> {
        let report = report.clone();
        let write = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = report.id.to_string();
            let before = transaction
                .prepare_cached("SELECT beat FROM journals WHERE id = ?1")?
                .query_row([&id], |row| row.get(0))
                .optional()?;
            transaction
                .prepare_cached(
                    "INSERT INTO journals (id, node, clear_until, beat) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE SET clear_until = excluded.clear_until, beat = excluded.beat,
                         reported_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
                )?
                .execute(params![id, report.node, time::text(report.clear_until), report.beat])?;
            transaction.commit()?;
            Ok(before)
        };
        self.writer.run("report journal", WRITE, write).await
    }

    async fn forget(&self, id: Uuid) -> Result<()> {
        let delete = move |connection: &mut Connection| {
            connection.execute("DELETE FROM journals WHERE id = ?1", [id.to_string()])?;
            Ok(())
        };
        self.writer.run("forget journal", WRITE, delete).await
    }

    async fn journals(&self) -> Result<Vec<JournalRecord>> {
        let select = |connection: &mut Connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, node, clear_until, reported_at FROM journals ORDER BY node, id")?;
            let mut rows = statement.query([])?;
            let mut journals = Vec::new();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("journals", row);
                journals.push(JournalRecord {
                    id: row.id("id")?,
                    node: row.take("node")?,
                    clear_until: row.time("clear_until")?,
                    reported_at: row.time("reported_at")?,
                });
            }
            Ok(journals)
        };
        self.reports.run("list journals", REPORT, select).await
    }

    async fn timeline(&self) -> Result<Option<String>> {
        Ok(None)
    }
}
