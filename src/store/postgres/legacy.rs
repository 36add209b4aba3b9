//! Raw keys in `clients.api_key`. They are selected, and never bound to a statement: what a server
//! logs of its statements holds hashes only.

use async_trait::async_trait;
use uuid::Uuid;

use super::Postgres;
use super::pool::{LOOK_UP, WORK};
use super::row::{Columns, all};
use crate::model::id::ClientId;
use crate::model::key::KeyHash;
use crate::model::secret::SecretText;
use crate::store::legacy::{LegacyStore, MIGRATED_NAME, MigratedKey, RawKey, RowVersion};
use crate::store::{Result, StoreError};

/// One statement a batch: its triggers write one row to `changes`, not one for each key.
/// `xmin` is the transaction that wrote a row's version; keys go in by hash, so that two runs
/// that meet wait for each other and never in a circle.
const MIGRATE: &str = "
    INSERT INTO api_keys (client_id, name, api_key_hash, pepper_version, created_at)
    SELECT c.id, $5, batch.hash, $6, c.created_at
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) AS batch (client, version, hash, other)
    JOIN clients c ON c.id = batch.client AND c.xmin::text::bigint = batch.version
    WHERE NOT EXISTS (SELECT FROM api_keys k WHERE k.api_key_hash = batch.other)
    ORDER BY batch.hash
    ON CONFLICT (api_key_hash) DO NOTHING";

const FORGET: &str = "
    UPDATE clients c SET api_key = NULL
    FROM unnest($1::uuid[], $2::bigint[]) AS batch (client, version)
    WHERE c.id = batch.client AND c.xmin::text::bigint = batch.version";

#[async_trait]
impl LegacyStore for Postgres {
    async fn is_present(&self) -> Result<bool> {
        let mut lease = self.look_ups.lease("look for raw keys", LOOK_UP).await?;
        let statement = "SELECT format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = to_regclass('clients') AND attname = 'api_key' AND attnum > 0 AND NOT attisdropped";
        let Some(row) = lease.row(statement, &[]).await? else { return Ok(false) };
        match Columns::of("pg_attribute", &row).take("atttypid")? {
            "text" => Ok(true),
            other => Err(StoreError::corrupt("clients", "api_key", format!("the column is {other} and must be text"))),
        }
    }

    async fn count(&self) -> Result<u64> {
        let mut lease = self.work.lease("count raw keys", WORK).await?;
        let rows = lease.rows("SELECT count(*) FROM clients WHERE api_key <> ''", &[]).await?;
        let count: i64 = Columns::of("clients", &rows[0]).take("api_key")?;
        Ok(count.unsigned_abs())
    }

    async fn raw_keys(&self, after: Option<ClientId>, limit: u32) -> Result<Vec<RawKey>> {
        let statement = "SELECT id, xmin::text::bigint, api_key FROM clients
             WHERE api_key <> '' AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2";
        let mut lease = self.work.lease("read raw keys", WORK).await?;
        let rows = lease.rows(statement, &[&after.map(|id| id.0), &i64::from(limit)]).await?;
        all("clients", &rows, |row| {
            Ok(RawKey {
                row: RowVersion { client: ClientId(row.take("id")?), version: row.take("xmin")? },
                text: SecretText::new(row.take("api_key")?),
            })
        })
    }

    async fn migrate(&self, keys: &[MigratedKey], pepper_version: i32) -> Result<u64> {
        let (clients, versions) = columns(keys.iter().map(|key| key.row));
        let hashes: Vec<String> = keys.iter().map(|key| key.hash.to_hex()).collect();
        let others: Vec<Option<String>> = keys.iter().map(|key| key.other.map(KeyHash::to_hex)).collect();
        let mut lease = self.work.lease("migrate raw keys", WORK).await?;
        lease.execute(MIGRATE, &[&clients, &versions, &hashes, &others, &MIGRATED_NAME, &pepper_version]).await
    }

    async fn owners(&self, hashes: &[KeyHash]) -> Result<Vec<(KeyHash, ClientId)>> {
        let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
        let mut lease = self.work.lease("find owners of keys", WORK).await?;
        let statement = "SELECT api_key_hash, client_id FROM api_keys WHERE api_key_hash = ANY ($1)";
        let rows = lease.rows(statement, &[&wanted]).await?;
        let found = all("api_keys", &rows, |row| {
            let hash = KeyHash::from_hex(row.take("api_key_hash")?);
            Ok((hash, ClientId(row.take("client_id")?)))
        })?;
        // What matched is one of those asked for, so it reads back.
        Ok(found.into_iter().filter_map(|(hash, client)| Some((hash?, client))).collect())
    }

    async fn allow_absence(&self) -> Result<()> {
        let mut lease = self.work.lease("let raw keys be absent", WORK).await?;
        lease.batch("ALTER TABLE clients ALTER COLUMN api_key DROP NOT NULL").await?;
        lease.batch("UPDATE clients SET api_key = NULL WHERE api_key = ''").await
    }

    async fn forget(&self, rows: &[RowVersion]) -> Result<u64> {
        let (clients, versions) = columns(rows.iter().copied());
        let mut lease = self.work.lease("forget raw keys", WORK).await?;
        lease.execute(FORGET, &[&clients, &versions]).await
    }
}

fn columns(rows: impl Iterator<Item = RowVersion>) -> (Vec<Uuid>, Vec<i64>) {
    rows.map(|row| (row.client.0, row.version)).unzip()
}
