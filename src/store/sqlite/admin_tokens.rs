//! `admin_tokens`

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, ToSql, TransactionBehavior, params};
use uuid::Uuid;

use super::erasure::refuse_erased;
use super::error::Failure;
use super::lane::{LOOK_UP, REPORT, WRITE};
use super::row::Columns;
use super::trail::note;
use super::{Sqlite, time};
use crate::model::admin::{AdminToken, NewAdminToken};
use crate::model::audit::Note;
use crate::model::key::KeyHash;
use crate::store::columns;
use crate::store::operators::AdminTokenStore;
use crate::store::{Page, Result};

/// The columns of [`token`].
const TOKEN: &str =
    "t.id, t.name, t.token_id, t.role, t.clients, t.created_at, t.expires_at, t.revoked_at, t.last_used_at";

#[async_trait]
impl AdminTokenStore for Sqlite {
    async fn create(&self, new: NewAdminToken) -> Result<AdminToken> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for client in &new.reach.clients {
                refuse_erased(&transaction, *client)?;
            }
            let id: String = transaction.query_row(
                "INSERT INTO admin_tokens (name, token_id, token_hash, role, clients, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
                params![
                    new.name,
                    new.token_id,
                    new.hash.to_hex(),
                    new.reach.role.as_str(),
                    serde_json::json!(new.reach.clients).to_string(),
                    new.expires_at.map(time::text),
                ],
                |row| row.get(0),
            )?;
            let made = one(&transaction, "t.id = ?1", &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            note(&transaction, &pen, Note::of("token.create", None, Some(&made)))?;
            transaction.commit()?;
            Ok(made)
        };
        self.writer.run("create admin token", WRITE, insert).await
    }

    async fn find(&self, id: Uuid) -> Result<Option<AdminToken>> {
        let select = move |connection: &mut Connection| one(connection, "t.id = ?1", &id.to_string());
        self.readers.run("find admin token", LOOK_UP, select).await
    }

    async fn find_by_hash(&self, hash: &KeyHash) -> Result<Option<AdminToken>> {
        let hash = hash.to_hex();
        let select = move |connection: &mut Connection| one(connection, "t.token_hash = ?1", &hash);
        self.readers.run("find admin token by hash", LOOK_UP, select).await
    }

    async fn find_by_token_id(&self, token_id: &str) -> Result<Option<AdminToken>> {
        let token_id = token_id.to_owned();
        let select = move |connection: &mut Connection| one(connection, "t.token_id = ?1", &token_id);
        self.readers.run("find admin token by token_id", LOOK_UP, select).await
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<AdminToken>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {TOKEN} FROM admin_tokens t
                 WHERE (replace(t.created_at, ' ', 'T'), t.id) > (
                     CASE WHEN ?1 IS NULL THEN '' ELSE
                         (SELECT replace(created_at, ' ', 'T') FROM admin_tokens WHERE id = ?1) END,
                     coalesce(?1, ''))
                 ORDER BY replace(t.created_at, ' ', 'T'), t.id
                 LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![after.map(|id| id.to_string()), i64::from(limit) + 1])?;
            let mut tokens = Vec::new();
            while let Some(row) = rows.next()? {
                tokens.push(token(&mut Columns::of("admin_tokens", row))?);
            }
            Ok(Page::cut(tokens, limit))
        };
        self.reports.run("list admin tokens", REPORT, select).await
    }

    async fn revoke(&self, id: Uuid, at: Timestamp) -> Result<Option<AdminToken>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = id.to_string();
            let before = one(&transaction, "t.id = ?1", &id)?;
            transaction.execute(
                "UPDATE admin_tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                params![id, time::text(at)],
            )?;
            let after = one(&transaction, "t.id = ?1", &id)?;
            note(&transaction, &pen, Note::of("token.revoke", before.as_ref(), after.as_ref()))?;
            transaction.commit()?;
            Ok(after)
        };
        self.writer.run("revoke admin token", WRITE, update).await
    }

    async fn note_use(&self, id: Uuid, at: Timestamp) -> Result<()> {
        let update = move |connection: &mut Connection| {
            connection.execute(
                "UPDATE admin_tokens SET last_used_at = max(coalesce(last_used_at, ''), ?2) WHERE id = ?1",
                params![id.to_string(), time::text(at)],
            )?;
            Ok(())
        };
        self.writer.run("note use of admin token", WRITE, update).await
    }
}

fn one(
    connection: &Connection,
    condition: &'static str,
    value: &dyn ToSql,
) -> std::result::Result<Option<AdminToken>, Failure> {
    let mut statement = connection.prepare_cached(&format!("SELECT {TOKEN} FROM admin_tokens t WHERE {condition}"))?;
    let found = statement.query_row([value], |row| Ok(token(&mut Columns::of("admin_tokens", row)))).optional()?;
    Ok(found.transpose()?)
}

fn token(row: &mut Columns<'_, '_>) -> Result<AdminToken> {
    Ok(AdminToken {
        id: row.id("id")?,
        name: row.take("name")?,
        token_id: row.take("token_id")?,
        role: columns::role("admin_tokens", &row.take::<String>("role")?)?,
        clients: row.json("clients")?,
        created_at: row.time("created_at")?,
        expires_at: row.time_or_null("expires_at")?,
        revoked_at: row.time_or_null("revoked_at")?,
        last_used_at: row.time_or_null("last_used_at")?,
    })
}
