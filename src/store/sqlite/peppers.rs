//! `peppers`

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::Sqlite;
use super::lane::{LOOK_UP, WRITE};
use super::row::Columns;
use crate::store::{PepperRecord, PepperStore, Result};

#[async_trait]
impl PepperStore for Sqlite {
    async fn list(&self) -> Result<Vec<PepperRecord>> {
        let select = move |connection: &mut Connection| {
            let mut statement =
                connection.prepare_cached("SELECT version, fingerprint, retired_at FROM peppers ORDER BY version")?;
            let mut rows = statement.query([])?;
            let mut peppers = Vec::new();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("peppers", row);
                peppers.push(PepperRecord {
                    version: row.take("version")?,
                    fingerprint: row.take("fingerprint")?,
                    retired_at: row.time_or_null("retired_at")?,
                });
            }
            Ok(peppers)
        };
        self.readers.run("list peppers", LOOK_UP, select).await
    }

    async fn trust(&self, fingerprint: &str) -> Result<i32> {
        let fingerprint = fingerprint.to_owned();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let known = transaction
                .query_row("SELECT version FROM peppers WHERE fingerprint = ?1", [&fingerprint], |row| row.get(0))
                .optional()?;
            let version = match known {
                Some(version) => version,
                None => transaction.query_row(
                    "INSERT INTO peppers (version, fingerprint)
                     SELECT coalesce(max(version), 0) + 1, ?1 FROM peppers RETURNING version",
                    [&fingerprint],
                    |row| row.get(0),
                )?,
            };
            transaction.commit()?;
            Ok(version)
        };
        self.writer.run("trust pepper", WRITE, insert).await
    }
}
