//! `verification_tokens` and `refresh_tokens`.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{LOOK_UP, WRITE};
use super::row::{CLIENT, Columns, KEY, client, key};
use super::{Sqlite, time};
use crate::model::id::TokenId;
use crate::model::issued::{NewRefreshToken, NewToken, RefreshRecord, TokenOrigin, TokenRecord};
use crate::model::key::KeyHash;
use crate::store::columns;
use crate::store::tokens::{TokenStore, elapsed, nonce, nonce_text};
use crate::store::{Result, StoreError};

#[async_trait]
impl TokenStore for Sqlite {
    async fn issue(&self, token: NewToken, refresh: Option<NewRefreshToken>) -> Result<()> {
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_token(&transaction, &token)?;
            refresh.iter().try_for_each(|refresh| insert_refresh(&transaction, refresh))?;
            Ok(transaction.commit()?)
        };
        self.writer.run("issue token", WRITE, insert).await
    }

    async fn find(&self, id: TokenId) -> Result<Option<TokenRecord>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT t.jti, t.subject, t.scopes, t.audience, t.issued_at, t.expires_at, t.revoked_at,
                     t.api_key_id IS NOT NULL, c.api_key_hash IS NOT NULL, {CLIENT}, {KEY}
                 FROM verification_tokens t JOIN clients c ON c.id = t.client_id
                     LEFT JOIN api_keys k ON k.id = t.api_key_id AND k.client_id = t.client_id
                 WHERE t.jti = ?1 AND (t.api_key_id IS NULL OR k.id IS NOT NULL)"
            ))?;
            let found = statement.query_row([id.to_string()], |row| Ok(token_record(row))).optional()?;
            Ok(found.transpose()?)
        };
        self.readers.run("find token", LOOK_UP, select).await
    }

    async fn revoke(&self, id: TokenId, at: Timestamp) -> Result<bool> {
        let update = move |connection: &mut Connection| {
            let revoked = connection.execute(
                "UPDATE verification_tokens SET revoked_at = ?2 WHERE jti = ?1 AND revoked_at IS NULL",
                params![id.to_string(), time::text(at)],
            )?;
            Ok(revoked > 0)
        };
        self.writer.run("revoke token", WRITE, update).await
    }

    async fn find_refresh(&self, hash: KeyHash) -> Result<Option<RefreshRecord>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT r.id, r.family_id, r.nonce, r.scopes, r.audience, r.issued_at, r.expires_at,
                     (julianday('now') - julianday(r.used_at)) * 86400.0, r.revoked_at, {CLIENT}, {KEY}
                 FROM refresh_tokens r JOIN clients c ON c.id = r.client_id
                     JOIN api_keys k ON k.id = r.api_key_id AND k.client_id = r.client_id
                 WHERE r.token_hash = ?1"
            ))?;
            let found = statement.query_row([hash.to_hex()], |row| Ok(refresh_record(row))).optional()?;
            Ok(found.transpose()?)
        };
        self.readers.run("find refresh token", LOOK_UP, select).await
    }

    async fn rotate(&self, used: Uuid, successor: NewRefreshToken, token: NewToken) -> Result<bool> {
        let exchange = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let was_fresh = transaction.execute(
                "UPDATE refresh_tokens SET used_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), successor_id = ?2
                 WHERE id = ?1 AND used_at IS NULL AND revoked_at IS NULL",
                params![used.to_string(), successor.id.to_string()],
            )? == 1;
            if was_fresh {
                insert_refresh(&transaction, &successor)?;
                insert_token(&transaction, &token)?;
                transaction.commit()?;
            }
            Ok(was_fresh)
        };
        self.writer.run("rotate refresh token", WRITE, exchange).await
    }

    async fn issue_beside(&self, used: Uuid, token: NewToken) -> Result<bool> {
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let holds: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM refresh_tokens WHERE id = ?1 AND revoked_at IS NULL)",
                [used.to_string()],
                |row| row.get(0),
            )?;
            if holds {
                insert_token(&transaction, &token)?;
                transaction.commit()?;
            }
            Ok(holds)
        };
        self.writer.run("issue token", WRITE, insert).await
    }

    async fn revoke_family(&self, family: Uuid, at: Timestamp) -> Result<u64> {
        let update = move |connection: &mut Connection| {
            // One writer at a time: nothing is made meanwhile.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (family, at) = (family.to_string(), time::text(at));
            transaction.execute(
                "UPDATE verification_tokens SET revoked_at = ?2
                 WHERE family_id = ?1 AND revoked_at IS NULL AND expires_at > ?2",
                params![family, at],
            )?;
            let revoked = transaction.execute(
                "UPDATE refresh_tokens SET revoked_at = ?2 WHERE family_id = ?1 AND revoked_at IS NULL",
                params![family, at],
            )?;
            transaction.commit()?;
            Ok(revoked as u64)
        };
        self.writer.run("revoke token family", WRITE, update).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let delete = move |connection: &mut Connection| {
            let mut deleted = 0;
            for (table, id) in [("verification_tokens", "jti"), ("refresh_tokens", "id")] {
                let statement = format!(
                    "DELETE FROM {table} WHERE {id} IN (SELECT {id} FROM {table} WHERE expires_at < ?1 LIMIT ?2)"
                );
                deleted += connection.execute(&statement, params![time::text(before), limit])?;
            }
            Ok(deleted as u64)
        };
        self.writer.run("prune tokens", WRITE, delete).await
    }
}

fn insert_token(connection: &Connection, token: &NewToken) -> std::result::Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO verification_tokens (jti, client_id, api_key_id, family_id, subject, scopes, audience,
                 issued_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            token.id.to_string(),
            token.grant.client_id.to_string(),
            token.grant.api_key_id.map(|key| key.to_string()),
            token.family_id.map(|family| family.to_string()),
            token.subject,
            serde_json::json!(token.grant.scopes).to_string(),
            token.grant.audience,
            time::text(token.issued_at),
            time::text(token.expires_at),
        ])?;
    Ok(())
}

fn insert_refresh(connection: &Connection, token: &NewRefreshToken) -> std::result::Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO refresh_tokens (id, client_id, api_key_id, family_id, token_hash, nonce, parent_id, scopes,
                 audience, issued_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            token.id.to_string(),
            token.grant.client_id.to_string(),
            token.grant.api_key_id.map(|key| key.to_string()),
            token.family_id.to_string(),
            token.hash.to_hex(),
            nonce_text(token.nonce),
            token.parent_id.map(|parent| parent.to_string()),
            serde_json::json!(token.grant.scopes).to_string(),
            token.grant.audience,
            time::text(token.issued_at),
            time::text(token.expires_at),
        ])?;
    Ok(())
}

fn token_record(row: &Row<'_>) -> Result<TokenRecord> {
    const TABLE: &str = "verification_tokens";
    let mut row = Columns::of(TABLE, row);
    let id = TokenId(row.id("jti")?);
    let subject = row.take("subject")?;
    let scopes = columns::scopes(TABLE, row.json("scopes")?)?;
    let audience = row.take("audience")?;
    let (issued_at, expires_at) = (row.time("issued_at")?, row.time("expires_at")?);
    let revoked_at = row.time_or_null("revoked_at")?;
    let (of_key, present): (bool, bool) = (row.take("api_key_id")?, row.take("api_key_hash")?);
    let client = client(&mut row)?;
    let origin = if of_key { TokenOrigin::Key(Box::new(key(&mut row)?)) } else { TokenOrigin::LegacyHash { present } };
    Ok(TokenRecord { id, subject, scopes, audience, issued_at, expires_at, revoked_at, client, origin })
}

fn refresh_record(row: &Row<'_>) -> std::result::Result<RefreshRecord, StoreError> {
    const TABLE: &str = "refresh_tokens";
    let mut row = Columns::of(TABLE, row);
    Ok(RefreshRecord {
        id: row.id("id")?,
        family_id: row.id("family_id")?,
        nonce: nonce(&row.take::<String>("nonce")?)?,
        scopes: columns::scopes(TABLE, row.json("scopes")?)?,
        audience: row.take("audience")?,
        issued_at: row.time("issued_at")?,
        expires_at: row.time("expires_at")?,
        used_for: row.take::<Option<f64>>("used_at")?.map(elapsed),
        revoked_at: row.time_or_null("revoked_at")?,
        client: client(&mut row)?,
        key: key(&mut row)?,
    })
}
