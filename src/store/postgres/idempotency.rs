//! `idempotency_keys`

use async_trait::async_trait;
use jiff::Timestamp;

use super::Postgres;
use super::pool::WORK;
use super::row::Columns;
use crate::store::columns;
use crate::store::idempotency::{Claim, IdempotencyKey, IdempotencyStore, StoredAnswer};
use crate::store::{Result, StoreError};

#[async_trait]
impl IdempotencyStore for Postgres {
    async fn claim(&self, key: &IdempotencyKey) -> Result<Claim> {
        let insert = "INSERT INTO idempotency_keys (scope, key, request_hash) VALUES ($1, $2, $3)
             ON CONFLICT (scope, key) DO NOTHING";
        let find = "SELECT request_hash, status, response, created_at FROM idempotency_keys
             WHERE scope = $1 AND key = $2";
        let mut lease = self.work.lease("claim idempotency key", WORK).await?;
        if lease.execute(insert, &[&key.scope, &key.key, &key.request_hash]).await? == 1 {
            return Ok(Claim::New);
        }
        // One that is released or pruned between the two statements: whoever asks again has it.
        let Some(row) = lease.row(find, &[&key.scope, &key.key]).await? else {
            let source = "the key was released meanwhile".into();
            return Err(StoreError::Unavailable { operation: "claim idempotency key", source });
        };
        known(key, &mut Columns::of("idempotency_keys", &row))
    }

    async fn complete(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<()> {
        let statement = "UPDATE idempotency_keys SET status = $3, response = $4
             WHERE scope = $1 AND key = $2 AND status IS NULL";
        let mut lease = self.work.lease("keep answer", WORK).await?;
        lease.execute(statement, &[&key.scope, &key.key, &i32::from(answer.status), &answer.body]).await?;
        Ok(())
    }

    async fn release(&self, key: &IdempotencyKey) -> Result<()> {
        let statement = "DELETE FROM idempotency_keys WHERE scope = $1 AND key = $2 AND status IS NULL";
        let mut lease = self.work.lease("release idempotency key", WORK).await?;
        lease.execute(statement, &[&key.scope, &key.key]).await?;
        Ok(())
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("prune idempotency keys", WORK).await?;
        lease.execute("DELETE FROM idempotency_keys WHERE created_at < $1", &[&before]).await
    }
}

fn known(key: &IdempotencyKey, row: &mut Columns<'_>) -> Result<Claim> {
    if row.take::<&str>("request_hash")? != key.request_hash {
        return Ok(Claim::Mismatch);
    }
    let Some(status) = row.take::<Option<i32>>("status")? else {
        row.take::<Option<String>>("response")?;
        return Ok(Claim::Running(row.take("created_at")?));
    };
    let body = row.take::<Option<String>>("response")?.unwrap_or_default();
    Ok(Claim::Answered(StoredAnswer { status: columns::http_status("idempotency_keys", status.into())?, body }))
}
