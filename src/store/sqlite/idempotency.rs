//! `idempotency_keys`

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};

use super::lane::WRITE;
use super::row::Columns;
use super::{Sqlite, time};
use crate::store::columns;
use crate::store::idempotency::{Claim, IdempotencyKey, IdempotencyStore, StoredAnswer};
use crate::store::{Result, StoreError};

#[async_trait]
impl IdempotencyStore for Sqlite {
    async fn claim(&self, key: &IdempotencyKey) -> Result<Claim> {
        let key = key.clone();
        let claim = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let new = transaction.execute(
                "INSERT INTO idempotency_keys (scope, key, request_hash) VALUES (?1, ?2, ?3)
                 ON CONFLICT (scope, key) DO NOTHING",
                params![key.scope, key.key, key.request_hash],
            )? == 1;
            if new {
                transaction.commit()?;
                return Ok(Claim::New);
            }
            let known = transaction.query_row(
                "SELECT request_hash, status, response, created_at FROM idempotency_keys WHERE scope = ?1 AND key = ?2",
                params![key.scope, key.key],
                |row| Ok(known(&key, &mut Columns::of("idempotency_keys", row))),
            )??;
            Ok(known)
        };
        self.writer.run("claim idempotency key", WRITE, claim).await
    }

    async fn complete(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<()> {
        let (key, answer) = (key.clone(), answer.clone());
        let update = move |connection: &mut Connection| {
            connection.execute(
                "UPDATE idempotency_keys SET status = ?3, response = ?4
                 WHERE scope = ?1 AND key = ?2 AND status IS NULL",
                params![key.scope, key.key, answer.status, answer.body],
            )?;
            Ok(())
        };
        self.writer.run("keep answer", WRITE, update).await
    }

    async fn release(&self, key: &IdempotencyKey) -> Result<()> {
        let key = key.clone();
        let delete = move |connection: &mut Connection| {
            connection.execute(
                "DELETE FROM idempotency_keys WHERE scope = ?1 AND key = ?2 AND status IS NULL",
                params![key.scope, key.key],
            )?;
            Ok(())
        };
        self.writer.run("release idempotency key", WRITE, delete).await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        let delete = move |connection: &mut Connection| {
            let deleted =
                connection.execute("DELETE FROM idempotency_keys WHERE created_at < ?1", [time::text(before)])?;
            Ok(deleted as u64)
        };
        self.writer.run("prune idempotency keys", WRITE, delete).await
    }
}

fn known(key: &IdempotencyKey, row: &mut Columns<'_, '_>) -> Result<Claim> {
    if row.take::<String>("request_hash")? != key.request_hash {
        return Ok(Claim::Mismatch);
    }
    let Some(status) = row.take::<Option<i64>>("status")? else {
        row.take::<Option<String>>("response")?;
        return Ok(Claim::Running(row.time("created_at")?));
    };
    let body = row.take::<Option<String>>("response")?.unwrap_or_default();
    Ok::<_, StoreError>(Claim::Answered(StoredAnswer {
        status: columns::http_status("idempotency_keys", status)?,
        body,
    }))
}
