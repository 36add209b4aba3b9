//! `api_keys`, and look-ups of credentials.

use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, ToSql, TransactionBehavior, params};

use super::erasure::refuse_erased;
use super::error::Failure;
use super::lane::{LOOK_UP, MIGRATE, REPORT, WRITE};
use super::row::{CLIENT, Columns, KEY, client, key};
use super::trail::note;
use super::{Sqlite, time};
use crate::model::audit::Note;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, CredentialRecord, ImportedKey, KeyChange, KeyHash, NewApiKey, NotRotated, Rotation};
use crate::store::trail::{Pen, import_note};
use crate::store::{KeyStore, Page, Result, StoreError, preferred};

#[async_trait]
impl KeyStore for Sqlite {
    async fn create(&self, new: NewApiKey) -> Result<ApiKey> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            refuse_erased(&transaction, new.client_id)?;
            let id: String = transaction.query_row(
                "INSERT INTO api_keys (client_id, name, key_id, api_key_hash, pepper_version, scopes, rate, burst,
                     allowed_addresses, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) RETURNING id",
                params![
                    new.client_id.to_string(),
                    new.name,
                    new.key_id,
                    new.hash.to_hex(),
                    new.pepper_version,
                    serde_json::json!(new.scopes).to_string(),
                    new.rate.map(|rate| rate.to_string()),
                    new.burst.map(std::num::NonZeroU32::get),
                    serde_json::json!(new.allowed_addresses).to_string(),
                    new.expires_at.map(time::text),
                ],
                |row| row.get(0),
            )?;
            let made = one(&transaction, "k.id = ?1", &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            note(&transaction, &pen, Note::of("key.create", None, Some(&made)))?;
            transaction.commit()?;
            Ok(made)
        };
        self.writer.run("create key", WRITE, insert).await
    }

    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>> {
        let hashes = hashes.to_vec();
        self.readers.run("find key by hash", LOOK_UP, move |connection| credential(connection, &hashes)).await
    }

    async fn find(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        self.readers.run("find key", LOOK_UP, move |connection| one(connection, "k.id = ?1", &id.to_string())).await
    }

    async fn find_by_key_id(&self, key_id: &str) -> Result<Option<ApiKey>> {
        let key_id = key_id.to_owned();
        self.readers
            .run("find key by key_id", LOOK_UP, move |connection| one(connection, "k.key_id = ?1", &key_id))
            .await
    }

    async fn list(&self, of: Option<ClientId>, after: Option<ApiKeyId>, limit: u32) -> Result<Page<ApiKey>> {
        let select = move |connection: &mut Connection| {
            let filter = if of.is_some() { "k.client_id = ?3 AND" } else { "?3 IS NULL AND" };
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {KEY} FROM api_keys k
                 WHERE {filter} (replace(k.created_at, ' ', 'T'), k.id) > (
                     CASE WHEN ?1 IS NULL THEN '' ELSE
                         (SELECT replace(created_at, ' ', 'T') FROM api_keys WHERE id = ?1) END,
                     coalesce(?1, ''))
                 ORDER BY replace(k.created_at, ' ', 'T'), k.id
                 LIMIT ?2"
            ))?;
            let (after, of) = (after.map(|id| id.to_string()), of.map(|id| id.to_string()));
            let mut rows = statement.query(params![after, i64::from(limit) + 1, of])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(key(&mut Columns::of("api_keys", row))?);
            }
            Ok(Page::cut(keys, limit))
        };
        self.reports.run("list keys", REPORT, select).await
    }

    async fn working(&self, client: ClientId, at: Timestamp, limit: u32) -> Result<Page<ApiKey>> {
        let select = move |connection: &mut Connection| {
            // Times that people wrote have other forms, which no text can be compared with: SQLite reads
            // them, to the millisecond, and passes on what it cannot read for the error that names it.
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {KEY} FROM api_keys k
                 WHERE k.client_id = ?1 AND k.revoked_at IS NULL
                   AND (k.expires_at IS NULL OR coalesce(julianday(k.expires_at) >= julianday(?2), TRUE))
                 ORDER BY replace(k.created_at, ' ', 'T') DESC, k.id DESC"
            ))?;
            let mut rows = statement.query(params![client.to_string(), time::text(at)])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                let key = key(&mut Columns::of("api_keys", row))?;
                if key.defect(at).is_none() {
                    keys.push(key);
                }
                if keys.len() > limit as usize {
                    break;
                }
            }
            Ok(Page::cut(keys, limit))
        };
        self.reports.run("list working keys", REPORT, select).await
    }

    async fn revoke(&self, id: ApiKeyId, at: Timestamp) -> Result<Option<ApiKey>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = id.to_string();
            let before = one(&transaction, "k.id = ?1", &id)?;
            // One revoked for a later time is revoked now; one revoked already keeps its time.
            transaction.execute(
                "UPDATE api_keys SET revoked_at = ?2
                 WHERE id = ?1 AND (revoked_at IS NULL OR replace(revoked_at, ' ', 'T') > ?2)",
                params![id, time::text(at)],
            )?;
            let revoked = one(&transaction, "k.id = ?1", &id)?;
            note(&transaction, &pen, Note::of("key.revoke", before.as_ref(), revoked.as_ref()))?;
            transaction.commit()?;
            Ok(revoked)
        };
        self.writer.run("revoke key", WRITE, update).await
    }

    async fn update(&self, id: ApiKeyId, change: KeyChange) -> Result<Option<ApiKey>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = id.to_string();
            let Some(before) = one(&transaction, "k.id = ?1", &id)? else { return Ok(None) };
            if change.only_if.is_some_and(|read| !before.is_still(&read)) {
                return Err(StoreError::Changed.into());
            }
            transaction.execute(
                "UPDATE api_keys SET
                     name = coalesce(?2, name),
                     scopes = coalesce(?3, scopes),
                     rate = CASE WHEN ?4 THEN ?5 ELSE rate END,
                     burst = CASE WHEN ?6 THEN ?7 ELSE burst END,
                     allowed_addresses = coalesce(?8, allowed_addresses),
                     expires_at = CASE WHEN ?9 THEN ?10 ELSE expires_at END
                 WHERE id = ?1",
                params![
                    id,
                    change.name,
                    change.scopes.map(|scopes| serde_json::json!(scopes).to_string()),
                    change.rate.is_some(),
                    change.rate.flatten().map(|rate| rate.to_string()),
                    change.burst.is_some(),
                    change.burst.flatten().map(std::num::NonZeroU32::get),
                    change.allowed_addresses.map(|ranges| serde_json::json!(ranges).to_string()),
                    change.expires_at.is_some(),
                    change.expires_at.flatten().map(time::text),
                ],
            )?;
            let changed = one(&transaction, "k.id = ?1", &id)?;
            note(&transaction, &pen, Note::of("key.update", Some(&before), changed.as_ref()))?;
            transaction.commit()?;
            Ok(changed)
        };
        self.writer.run("update key", WRITE, update).await
    }

    async fn rotate(&self, id: ApiKeyId, by: Rotation) -> Result<std::result::Result<ApiKey, NotRotated>> {
        let pen = self.pen.clone();
        self.writer.run("rotate key", WRITE, move |connection| rotate(connection, &pen, id, &by)).await
    }

    async fn known_hashes(&self, hashes: &[KeyHash]) -> Result<Vec<KeyHash>> {
        let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT api_key_hash FROM api_keys WHERE api_key_hash IN (SELECT value FROM json_each(?1))",
            )?;
            let mut rows = statement.query([serde_json::json!(wanted).to_string()])?;
            let mut known = Vec::new();
            while let Some(row) = rows.next()? {
                // What matched is one of those asked for, so it reads back.
                known.extend(KeyHash::from_hex(&row.get::<_, String>(0)?));
            }
            Ok(known)
        };
        self.reports.run("find known hashes", REPORT, select).await
    }

    async fn import(&self, keys: Vec<ImportedKey>) -> Result<u64> {
        let pen = self.pen.clone();
        self.writer.run("import keys", MIGRATE, move |connection| import(connection, &pen, &keys)).await
    }

    async fn note_pepper_version(&self, id: ApiKeyId, version: i32) -> Result<()> {
        let update = move |connection: &mut Connection| {
            connection.execute(
                "UPDATE api_keys SET pepper_version = ?2 WHERE id = ?1 AND pepper_version IS NULL",
                params![id.to_string(), version],
            )?;
            Ok(())
        };
        self.writer.run("note pepper version", WRITE, update).await
    }
}

fn rotate(
    connection: &mut Connection,
    pen: &Pen,
    id: ApiKeyId,
    by: &Rotation,
) -> std::result::Result<std::result::Result<ApiKey, NotRotated>, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let old = id.to_string();
    let Some(key) = one(&transaction, "k.id = ?1", &old)? else { return Ok(Err(NotRotated::Unknown)) };
    if let Some(refusal) = key.rotation_refusal(by.at) {
        return Ok(Err(refusal));
    }
    let made: String = transaction.query_row(
        "INSERT INTO api_keys (client_id, name, key_id, api_key_hash, pepper_version, scopes, rate, burst,
             allowed_addresses, expires_at)
         SELECT client_id, name, ?2, ?3, ?4, scopes, rate, burst, allowed_addresses, coalesce(?5, expires_at)
         FROM api_keys WHERE id = ?1 RETURNING id",
        params![old, by.key_id, by.hash.to_hex(), by.pepper_version, by.expires_at.map(time::text)],
        |row| row.get(0),
    )?;
    let old_until = key.expires_at.map_or(by.old_until, |already| already.min(by.old_until));
    let revoked_at = (by.old_until <= by.at).then_some(by.at);
    transaction.execute(
        "UPDATE api_keys SET replaced_by = ?2, expires_at = ?3, revoked_at = ?4 WHERE id = ?1",
        params![old, made, time::text(old_until), revoked_at.map(time::text)],
    )?;
    let successor = one(&transaction, "k.id = ?1", &made)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let ended = one(&transaction, "k.id = ?1", &old)?;
    note(&transaction, pen, Note::of("key.rotate", Some(&key), ended.as_ref()))?;
    note(&transaction, pen, Note::of("key.create", None, Some(&successor)))?;
    transaction.commit()?;
    Ok(Ok(successor))
}

fn import(connection: &mut Connection, pen: &Pen, keys: &[ImportedKey]) -> std::result::Result<u64, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')";
    let mut insert = transaction.prepare(&format!(
        "INSERT INTO api_keys (client_id, name, key_id, api_key_hash, hash_kind, pepper_version, scopes, expires_at,
             created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, coalesce(?9, {now}))"
    ))?;
    for client in keys.iter().map(|key| key.client_id).collect::<BTreeSet<_>>() {
        refuse_erased(&transaction, client)?;
    }
    for key in keys {
        insert.execute(params![
            key.client_id.to_string(),
            key.name,
            key.key_id,
            key.hash.to_hex(),
            key.hash_kind.as_str(),
            key.pepper_version,
            serde_json::json!(key.scopes).to_string(),
            key.expires_at.map(time::text),
            key.created_at.map(time::text),
        ])?;
    }
    drop(insert);
    note(&transaction, pen, Some(import_note(keys)))?;
    transaction.commit()?;
    Ok(keys.len() as u64)
}

fn one(
    connection: &Connection,
    condition: &'static str,
    value: &dyn ToSql,
) -> std::result::Result<Option<ApiKey>, Failure> {
    let mut statement = connection.prepare_cached(&format!("SELECT {KEY} FROM api_keys k WHERE {condition}"))?;
    let found = statement.query_row([value], |row| Ok(key(&mut Columns::of("api_keys", row)))).optional()?;
    Ok(found.transpose()?)
}

fn credential(connection: &Connection, hashes: &[KeyHash]) -> std::result::Result<Option<CredentialRecord>, Failure> {
    let mut statement = connection.prepare_cached(&format!(
        "WITH wanted (hash) AS (SELECT value FROM json_each(?1)),
              hit (client_id, key_row, hash, pepper_version) AS (
                  SELECT client_id, id, api_key_hash, pepper_version FROM api_keys
                  WHERE api_key_hash IN (SELECT hash FROM wanted)
                  UNION ALL
                  SELECT id, NULL, api_key_hash, api_key_pepper_version FROM clients
                  WHERE api_key_hash IN (SELECT hash FROM wanted))
         SELECT hit.key_row IS NOT NULL, hit.hash, hit.pepper_version, {CLIENT}, {KEY}
         FROM hit JOIN clients c ON c.id = hit.client_id LEFT JOIN api_keys k ON k.id = hit.key_row"
    ))?;
    let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
    let mut rows = statement.query([serde_json::json!(wanted).to_string()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut row = Columns::of("api_keys", row);
        let of_key: bool = row.take("id")?;
        let matched: String = row.take("api_key_hash")?;
        let pepper_version = row.take("pepper_version")?;
        // What matched is one of those asked for, so it reads back.
        let Some(matched) = KeyHash::from_hex(&matched) else { continue };
        let client = client(&mut row)?;
        let key = if of_key { Some(key(&mut row)?) } else { None };
        found.push(CredentialRecord { client, key, matched, pepper_version });
    }
    Ok(preferred(found, hashes))
}
