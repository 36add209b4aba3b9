//! Erasing a client.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::clients::by_id;
use super::error::Failure;
use super::lane::{LOOK_UP, MIGRATE};
use super::row::Columns;
use super::trail::note;
use super::{Sqlite, time};
use crate::model::client::Client;
use crate::model::id::ClientId;
use crate::store::erasure::{ERASED, ERASED_FOR_GOOD, Erased, ErasureStore};
use crate::store::trail::Pen;
use crate::store::{Result, StoreError};

/// What is personal of the audit's rows: as the trigger that lets it pass has it.
const MASK: &str = "
    UPDATE audit SET
        before = json_replace(before, '$.name', '[erased]', '$.metadata', json('{}'), '$.key_id', NULL,
            '$.token_id', '[erased]', '$.allowed_addresses', json('[]')),
        after = json_replace(after, '$.name', '[erased]', '$.metadata', json('{}'), '$.key_id', NULL,
            '$.token_id', '[erased]', '$.allowed_addresses', json('[]')),
        actor_name = CASE WHEN actor_id IN (SELECT id FROM admin_tokens WHERE clients = ?2) AND actor_kind = 'token'
            THEN '[erased]' ELSE actor_name END,
        address = CASE WHEN actor_id IN (SELECT id FROM admin_tokens WHERE clients = ?2) AND actor_kind = 'token'
            THEN NULL ELSE address END
    WHERE client_id = ?1";

#[async_trait]
impl ErasureStore for Sqlite {
    async fn erase(&self, client: ClientId, at: Timestamp) -> Result<Option<Client>> {
        let pen = self.pen.clone();
        self.writer.run("erase client", MIGRATE, move |connection| erase(connection, &pen, client, at)).await
    }

    async fn erased_at(&self, client: ClientId) -> Result<Option<Timestamp>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached("SELECT erased_at FROM erasures WHERE client_id = ?1")?;
            let read = |row: &rusqlite::Row<'_>| Ok(Columns::of("erasures", row).time("erased_at"));
            Ok(statement.query_row([client.to_string()], read).optional()?.transpose()?)
        };
        self.readers.run("find erasure", LOOK_UP, select).await
    }

    async fn erased_since(&self, at: Timestamp) -> Result<Vec<ClientId>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached("SELECT client_id FROM erasures WHERE erased_at >= ?1")?;
            let mut rows = statement.query([time::text(at)])?;
            let mut clients = Vec::new();
            while let Some(row) = rows.next()? {
                clients.push(ClientId(Columns::of("erasures", row).id("client_id")?));
            }
            Ok(clients)
        };
        self.readers.run("list erasures", LOOK_UP, select).await
    }
}

/// Whether a client was erased.
fn is_erased(connection: &Connection, client: &str) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM erasures WHERE client_id = ?1)")?;
    statement.query_row([client], |row| row.get(0))
}

/// That nothing is made for a client that was erased.
pub(super) fn refuse_erased(connection: &Connection, client: ClientId) -> std::result::Result<(), Failure> {
    if is_erased(connection, &client.to_string())? {
        return Err(StoreError::Conflict(ERASED_FOR_GOOD.to_owned()).into());
    }
    Ok(())
}

fn erase(
    connection: &mut Connection,
    pen: &Pen,
    client: ClientId,
    at: Timestamp,
) -> std::result::Result<Option<Client>, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (id, now) = (client.to_string(), time::text(at));
    let changed = transaction.execute(
        "UPDATE clients SET name = ?2, status = 'suspended', metadata = '{}', api_key_hash = NULL,
             api_key_pepper_version = NULL, updated_at = ?3
         WHERE id = ?1",
        params![id, ERASED, now],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    let erased = erase_credentials(&transaction, &id, &now)?;
    transaction.execute("INSERT INTO erasures (client_id, erased_at) VALUES (?1, ?2)", params![id, now])?;
    transaction.execute(MASK, params![id, serde_json::json!([client]).to_string()])?;
    // An answer that was kept may show it.
    transaction.execute("DELETE FROM idempotency_keys WHERE instr(response, ?1) > 0", [&id])?;
    note(&transaction, pen, Some(erased.note(client)))?;
    let after = by_id(&transaction, &id)?;
    transaction.commit()?;
    Ok(after)
}

fn erase_credentials(transaction: &Transaction<'_>, id: &str, now: &str) -> std::result::Result<Erased, Failure> {
    transaction.execute("DELETE FROM refresh_tokens WHERE client_id = ?1", [id])?;
    transaction.execute("DELETE FROM verification_tokens WHERE client_id = ?1", [id])?;
    // A hash that no key has takes the place of each: random bytes.
    let keys = transaction.execute(
        "UPDATE api_keys SET name = ?2, key_id = NULL, api_key_hash = lower(hex(randomblob(32))), hash_kind = 'hmac',
             pepper_version = NULL, allowed_addresses = '[]', revoked_at = coalesce(revoked_at, ?3)
         WHERE client_id = ?1",
        params![id, ERASED, now],
    )?;
    // The public part of a text may not be empty, or another's.
    let tokens = transaction.execute(
        "UPDATE admin_tokens SET name = ?2, token_id = 'erased_' || id, token_hash = lower(hex(randomblob(32))),
             revoked_at = coalesce(revoked_at, ?3)
         WHERE clients = ?1",
        params![format!("[\"{id}\"]"), ERASED, now],
    )?;
    Ok(Erased { keys: keys as u64, tokens: tokens as u64 })
}
