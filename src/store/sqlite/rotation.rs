//! `nodes`, and the hashes of credentials while a pepper changes.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::lane::{LOOK_UP, REPORT, WRITE};
use super::{Sqlite, time};
use crate::model::id::ClientId;
use crate::model::key::HashKind;
use crate::store::Result;
use crate::store::rotation::{
    HashCounts, HashMove, KEPT_SECONDS, LIVE_SECONDS, MoveTarget, Moved, NodeRecord, RotationStore,
};

const COUNT: &str = "
    SELECT pepper_version, count(*)
    FROM (
        SELECT pepper_version FROM api_keys
        WHERE (revoked_at IS NULL OR replace(revoked_at, ' ', 'T') > ?1)
          AND (expires_at IS NULL OR replace(expires_at, ' ', 'T') > ?1)
        UNION ALL
        SELECT api_key_pepper_version FROM clients WHERE api_key_hash IS NOT NULL) AS credentials
    GROUP BY 1
    ORDER BY 1";

#[async_trait]
impl RotationStore for Sqlite {
    async fn announce(&self, node: &NodeRecord) -> Result<()> {
        let node = node.clone();
        let upsert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT INTO nodes (id, name, pepper, pepper_previous) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET seen_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
                params![node.id.to_string(), node.name, node.pepper, node.pepper_previous],
            )?;
            transaction.execute("DELETE FROM nodes WHERE seen_at < ?1", [ago(&transaction, KEPT_SECONDS)?])?;
            Ok(transaction.commit()?)
        };
        self.writer.run("announce node", WRITE, upsert).await
    }

    async fn leave(&self, id: Uuid) -> Result<()> {
        let delete = move |connection: &mut Connection| {
            connection.execute("DELETE FROM nodes WHERE id = ?1", [id.to_string()])?;
            Ok(())
        };
        self.writer.run("forget node", WRITE, delete).await
    }

    async fn unaware(&self, fingerprint: &str) -> Result<Vec<String>> {
        let fingerprint = fingerprint.to_owned();
        let read = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name FROM nodes
                 WHERE seen_at > ?2 AND pepper <> ?1 AND pepper_previous IS NOT ?1 ORDER BY name",
            )?;
            let names = statement.query_map(params![fingerprint, ago(connection, LIVE_SECONDS)?], |row| row.get(0))?;
            Ok(names.collect::<rusqlite::Result<Vec<String>>>()?)
        };
        self.readers.run("list nodes", LOOK_UP, read).await
    }

    async fn move_hashes(&self, moves: &[HashMove], target: &MoveTarget) -> Result<Moved> {
        let (moves, target) = (moves.to_vec(), target.clone());
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let blocked: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM nodes
                 WHERE seen_at > ?1 AND pepper <> ?2 AND (?3 OR pepper_previous IS NOT ?2))",
                params![ago(&transaction, LIVE_SECONDS)?, target.fingerprint, target.everywhere_current],
                |row| row.get(0),
            )?;
            if blocked {
                return Ok(Moved::Blocked);
            }
            let mut rows = 0;
            for one in &moves {
                // OR IGNORE: a row that has the new hash already stays the only one.
                let mut keys = transaction.prepare_cached(
                    "UPDATE api_keys
                         SET api_key_hash = ?2, hash_kind = 'hmac', pepper_version = ?3, rehashes = rehashes + 1
                         WHERE api_key_hash = ?1 AND hash_kind = ?4
                           AND NOT EXISTS (SELECT 1 FROM api_keys WHERE api_key_hash = ?2)",
                )?;
                let (old, new) = (one.old.to_hex(), one.new.to_hex());
                rows += keys.execute(params![old, new, target.version, one.kind.as_str()])?;
                if one.kind == HashKind::Hmac {
                    let mut clients = transaction.prepare_cached(
                        "UPDATE clients
                             SET api_key_hash = ?2, api_key_pepper_version = ?3, api_key_rehashes = api_key_rehashes + 1
                             WHERE api_key_hash = ?1
                               AND NOT EXISTS (SELECT 1 FROM clients WHERE api_key_hash = ?2)",
                    )?;
                    rows += clients.execute(params![old, new, target.version])?;
                }
            }
            transaction.commit()?;
            Ok(Moved::Rows(rows as u64))
        };
        self.writer.run("move hashes", WRITE, update).await
    }

    async fn note_client_pepper_version(&self, client: ClientId, version: i32) -> Result<()> {
        let update = move |connection: &mut Connection| {
            connection.execute(
                "UPDATE clients SET api_key_pepper_version = ?2
                 WHERE id = ?1 AND api_key_hash IS NOT NULL AND api_key_pepper_version IS NULL",
                params![client.to_string(), version],
            )?;
            Ok(())
        };
        self.writer.run("note pepper version", WRITE, update).await
    }

    async fn count_hashes(&self, now: Timestamp) -> Result<HashCounts> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(COUNT)?;
            let rows = statement.query_map([time::text(now)], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
            let counts: rusqlite::Result<Vec<_>> =
                rows.map(|row| row.map(|(version, count)| (version, count.unsigned_abs()))).collect();
            Ok(HashCounts::from(counts?))
        };
        self.reports.run("count hashes", REPORT, select).await
    }
}

/// The moment so many seconds ago, in the form of the columns. By the database's clock, as
/// `seen_at` is.
fn ago(connection: &Connection, seconds: u32) -> rusqlite::Result<String> {
    let modifier = format!("-{seconds} seconds");
    connection.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ?1)", [modifier], |row| row.get(0))
}
