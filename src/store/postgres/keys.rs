//! `api_keys`, and look-ups of credentials.

use async_trait::async_trait;
use jiff::Timestamp;

use super::Postgres;
use super::erasure::refuse_erased;
use super::pool::{LOOK_UP, Lease, MIGRATE, Params, WORK};
use super::row::{CLIENT, Columns, KEY, all, client, key};
use super::trail::note;
use crate::model::audit::Note;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, CredentialRecord, ImportedKey, KeyChange, KeyHash, NewApiKey, NotRotated, Rotation};
use crate::store::trail::{Pen, import_note};
use crate::store::{KeyStore, Page, Result, StoreError, preferred};

#[async_trait]
impl KeyStore for Postgres {
    async fn create(&self, new: NewApiKey) -> Result<ApiKey> {
        let statement = format!(
            "INSERT INTO api_keys AS k (client_id, name, key_id, api_key_hash, pepper_version, scopes, rate, burst,
                 allowed_addresses, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {KEY}"
        );
        let scopes: Vec<&str> = new.scopes.iter().collect();
        let hash = new.hash.to_hex();
        let rate = new.rate.map(|rate| rate.to_string());
        let burst = new.burst.map(|burst| i64::from(burst.get()));
        let addresses: Vec<String> = new.allowed_addresses.iter().collect();
        let values: Params<'_> = &[
            &new.client_id.0,
            &new.name,
            &new.key_id,
            &hash,
            &new.pepper_version,
            &scopes,
            &rate,
            &burst,
            &addresses,
            &new.expires_at,
        ];
        let mut lease = self.work.lease("create key", WORK).await?;
        lease.begin().await?;
        refuse_erased(&mut lease, &[new.client_id]).await?;
        let rows = lease.rows(&statement, values).await?;
        let made = key(&mut Columns::of("api_keys", &rows[0]))?;
        note(&mut lease, &self.pen, Note::of("key.create", None, Some(&made))).await?;
        lease.commit().await?;
        Ok(made)
    }

    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>> {
        let statement = format!(
            "WITH hit (client_id, key_row, hash, pepper_version) AS (
                 SELECT client_id, id, api_key_hash, pepper_version FROM api_keys WHERE api_key_hash = ANY ($1)
                 UNION ALL
                 SELECT id, NULL, api_key_hash, api_key_pepper_version FROM clients WHERE api_key_hash = ANY ($1))
             SELECT hit.key_row IS NOT NULL, hit.hash, hit.pepper_version, {CLIENT}, {KEY}
             FROM hit JOIN clients c ON c.id = hit.client_id LEFT JOIN api_keys k ON k.id = hit.key_row"
        );
        let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
        let mut lease = self.look_ups.lease("find key by hash", LOOK_UP).await?;
        let rows = lease.rows(&statement, &[&wanted]).await?;
        let found = all("api_keys", &rows, credential)?;
        Ok(preferred(found.into_iter().flatten().collect(), hashes))
    }

    async fn find(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        let mut lease = self.look_ups.lease("find key", LOOK_UP).await?;
        by_id(&mut lease, id, "").await
    }

    async fn find_by_key_id(&self, key_id: &str) -> Result<Option<ApiKey>> {
        let mut lease = self.look_ups.lease("find key by key_id", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {KEY} FROM api_keys k WHERE k.key_id = $1"), &[&key_id]).await
    }

    async fn list(&self, of: Option<ClientId>, after: Option<ApiKeyId>, limit: u32) -> Result<Page<ApiKey>> {
        // Two texts, so that each has a plan that fits.
        let filter = if of.is_some() { "k.client_id = $3" } else { "$3::uuid IS NULL" };
        let statement = format!(
            "SELECT {KEY} FROM api_keys k
             WHERE {filter} AND (k.created_at, k.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM api_keys WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY k.created_at, k.id
             LIMIT $2"
        );
        let values: Params<'_> = &[&after.map(|id| id.0), &(i64::from(limit) + 1), &of.map(|id| id.0)];
        let mut lease = self.work.lease("list keys", WORK).await?;
        let rows = lease.rows(&statement, values).await?;
        Ok(Page::cut(all("api_keys", &rows, key)?, limit))
    }

    async fn working(&self, client: ClientId, at: Timestamp, limit: u32) -> Result<Page<ApiKey>> {
        let statement = format!(
            "SELECT {KEY} FROM api_keys k
             WHERE k.client_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2)
             ORDER BY k.created_at DESC, k.id DESC
             LIMIT $3"
        );
        let mut lease = self.work.lease("list working keys", WORK).await?;
        let rows = lease.rows(&statement, &[&client.0, &at, &(i64::from(limit) + 1)]).await?;
        Ok(Page::cut(all("api_keys", &rows, key)?, limit))
    }

    async fn revoke(&self, id: ApiKeyId, at: Timestamp) -> Result<Option<ApiKey>> {
        // One revoked for a later time is revoked now; one revoked already keeps its time.
        let statement =
            format!("UPDATE api_keys AS k SET revoked_at = least(k.revoked_at, $2) WHERE k.id = $1 RETURNING {KEY}");
        let mut lease = self.work.lease("revoke key", WORK).await?;
        lease.begin().await?;
        let before = by_id(&mut lease, id, "FOR UPDATE").await?;
        let revoked = one(&mut lease, &statement, &[&id.0, &at]).await?;
        note(&mut lease, &self.pen, Note::of("key.revoke", before.as_ref(), revoked.as_ref())).await?;
        lease.commit().await?;
        Ok(revoked)
    }

    async fn update(&self, id: ApiKeyId, change: KeyChange) -> Result<Option<ApiKey>> {
        let statement = format!(
            "UPDATE api_keys AS k SET
                 name = coalesce($2, k.name),
                 scopes = coalesce($3, k.scopes),
                 rate = CASE WHEN $4::boolean THEN $5 ELSE k.rate END,
                 burst = CASE WHEN $6::boolean THEN $7 ELSE k.burst END,
                 allowed_addresses = coalesce($8, k.allowed_addresses),
                 expires_at = CASE WHEN $9::boolean THEN $10 ELSE k.expires_at END
             WHERE k.id = $1 RETURNING {KEY}"
        );
        let scopes: Option<Vec<String>> = change.scopes.map(|scopes| scopes.iter().map(ToOwned::to_owned).collect());
        let rate = change.rate.flatten().map(|rate| rate.to_string());
        let burst = change.burst.flatten().map(|burst| i64::from(burst.get()));
        let ranges: Option<Vec<String>> = change.allowed_addresses.map(|ranges| ranges.iter().collect());
        let expires_at = change.expires_at.flatten();
        let values: Params<'_> = &[
            &id.0,
            &change.name,
            &scopes,
            &change.rate.is_some(),
            &rate,
            &change.burst.is_some(),
            &burst,
            &ranges,
            &change.expires_at.is_some(),
            &expires_at,
        ];
        let mut lease = self.work.lease("update key", WORK).await?;
        lease.begin().await?;
        let before = by_id(&mut lease, id, "FOR UPDATE").await?;
        if let (Some(read), Some(before)) = (&change.only_if, &before)
            && !before.is_still(read)
        {
            lease.roll_back().await?;
            return Err(StoreError::Changed);
        }
        let changed = one(&mut lease, &statement, values).await?;
        note(&mut lease, &self.pen, Note::of("key.update", before.as_ref(), changed.as_ref())).await?;
        lease.commit().await?;
        Ok(changed)
    }

    async fn rotate(&self, id: ApiKeyId, by: Rotation) -> Result<std::result::Result<ApiKey, NotRotated>> {
        let mut lease = self.work.lease("rotate key", WORK).await?;
        let hash = by.hash.to_hex();
        let values: Params<'_> = &[&id.0, &by.at, &by.key_id, &hash, &by.pepper_version, &by.expires_at, &by.old_until];
        lease.begin().await?;
        // The lock makes of two rotations that meet a first and a second, and the second finds its
        // conditions gone.
        let old = by_id(&mut lease, id, "FOR UPDATE").await?;
        let Some(successor) = one(&mut lease, &rotate_statement(), values).await? else {
            lease.roll_back().await?;
            let refusal = old.and_then(|old| old.rotation_refusal(by.at));
            return Ok(Err(refusal.unwrap_or(NotRotated::Unknown)));
        };
        let ended = by_id(&mut lease, id, "").await?;
        note(&mut lease, &self.pen, Note::of("key.rotate", old.as_ref(), ended.as_ref())).await?;
        note(&mut lease, &self.pen, Note::of("key.create", None, Some(&successor))).await?;
        lease.commit().await?;
        Ok(Ok(successor))
    }

    async fn known_hashes(&self, hashes: &[KeyHash]) -> Result<Vec<KeyHash>> {
        let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
        let mut lease = self.work.lease("find known hashes", WORK).await?;
        let rows = lease.rows("SELECT api_key_hash FROM api_keys WHERE api_key_hash = ANY ($1)", &[&wanted]).await?;
        // What matched is one of those asked for, so it reads back.
        Ok(all("api_keys", &rows, |row| Ok(KeyHash::from_hex(row.take("api_key_hash")?)))?
            .into_iter()
            .flatten()
            .collect())
    }

    async fn import(&self, keys: Vec<ImportedKey>) -> Result<u64> {
        let mut lease = self.work.lease("import keys", MIGRATE).await?;
        lease.begin().await?;
        lease.batch("SET LOCAL statement_timeout = 0").await?;
        let imported = import(&mut lease, &self.pen, &keys).await?;
        lease.commit().await?;
        Ok(imported)
    }

    async fn note_pepper_version(&self, id: ApiKeyId, version: i32) -> Result<()> {
        let statement = "UPDATE api_keys SET pepper_version = $2 WHERE id = $1 AND pepper_version IS NULL";
        let mut lease = self.work.lease("note pepper version", WORK).await?;
        lease.execute(statement, &[&id.0, &version]).await?;
        Ok(())
    }
}

/// The successor, and the end of the old key, where it can be rotated.
fn rotate_statement() -> String {
    format!(
        "WITH old AS (
             SELECT * FROM api_keys
             WHERE id = $1 AND replaced_by IS NULL AND revoked_at IS NULL
                 AND (expires_at IS NULL OR expires_at > $2::timestamptz)),
         k AS (
             INSERT INTO api_keys (client_id, name, key_id, api_key_hash, pepper_version, scopes, rate, burst,
                 allowed_addresses, expires_at)
             SELECT client_id, name, $3::text, $4::text, $5::integer, scopes, rate, burst, allowed_addresses,
                 coalesce($6::timestamptz, expires_at)
             FROM old
             RETURNING *),
         ended AS (
             UPDATE api_keys AS ending SET replaced_by = k.id, expires_at = least(ending.expires_at, $7::timestamptz),
                 revoked_at = CASE WHEN $7 <= $2 THEN $2 END
             FROM k WHERE ending.id = $1)
         SELECT {KEY} FROM k"
    )
}

/// One statement, however many there are: one row in the feed.
async fn import(lease: &mut Lease, pen: &Pen, keys: &[ImportedKey]) -> Result<u64> {
    let clients: Vec<_> = keys.iter().map(|key| key.client_id).collect();
    refuse_erased(lease, &clients).await?;
    let clients: Vec<_> = clients.iter().map(|id| id.0).collect();
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    let key_ids: Vec<_> = keys.iter().map(|key| key.key_id.as_deref()).collect();
    let hashes: Vec<_> = keys.iter().map(|key| key.hash.to_hex()).collect();
    let kinds: Vec<_> = keys.iter().map(|key| key.hash_kind.as_str()).collect();
    let versions: Vec<_> = keys.iter().map(|key| key.pepper_version).collect();
    // An array of arrays has one width; scopes have no blanks.
    let scopes: Vec<_> = keys.iter().map(|key| key.scopes.to_string()).collect();
    let ends: Vec<_> = keys.iter().map(|key| key.expires_at).collect();
    let starts: Vec<_> = keys.iter().map(|key| key.created_at).collect();
    let values: Params<'_> = &[&clients, &names, &key_ids, &hashes, &kinds, &versions, &scopes, &ends, &starts];
    let imported = lease
        .execute(
            "INSERT INTO api_keys (client_id, name, key_id, api_key_hash, hash_kind, pepper_version, scopes,
                 expires_at, created_at)
             SELECT client_id, name, key_id, api_key_hash, hash_kind, pepper_version,
                 coalesce(string_to_array(nullif(scopes, ''), ' '), '{}'), expires_at, coalesce(created_at, now())
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[],
                 $8::timestamptz[], $9::timestamptz[])
                 AS imported (client_id, name, key_id, api_key_hash, hash_kind, pepper_version, scopes, expires_at,
                     created_at)",
            values,
        )
        .await?;
    note(lease, pen, Some(import_note(keys))).await?;
    Ok(imported)
}

async fn by_id(lease: &mut Lease, id: ApiKeyId, lock: &'static str) -> Result<Option<ApiKey>> {
    one(lease, &format!("SELECT {KEY} FROM api_keys k WHERE k.id = $1 {lock}"), &[&id.0]).await
}

async fn one(lease: &mut Lease, statement: &str, params: Params<'_>) -> Result<Option<ApiKey>> {
    let row = lease.row(statement, params).await?;
    row.map(|row| key(&mut Columns::of("api_keys", &row))).transpose()
}

fn credential(row: &mut Columns<'_>) -> Result<Option<CredentialRecord>> {
    let of_key: bool = row.take("id")?;
    // What matched is one of those asked for, so it reads back.
    let Some(matched) = KeyHash::from_hex(row.take("api_key_hash")?) else { return Ok(None) };
    let pepper_version = row.take("pepper_version")?;
    let client = client(row)?;
    let key = if of_key { Some(key(row)?) } else { None };
    Ok(Some(CredentialRecord { client, key, matched, pepper_version }))
}
