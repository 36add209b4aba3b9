//! `verification_tokens` and `refresh_tokens`.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Postgres;
use super::pool::{LOOK_UP, Lease, Params, WORK};
use super::row::{CLIENT, Columns, KEY, client, key};
use crate::model::access::Scopes;
use crate::model::id::TokenId;
use crate::model::issued::{NewRefreshToken, NewToken, RefreshRecord, TokenOrigin, TokenRecord};
use crate::model::key::KeyHash;
use crate::store::tokens::{TokenStore, elapsed, nonce, nonce_text};
use crate::store::{Result, columns};

/// Both rows of a grant in one statement: nothing is half done, and nothing waits for a second
/// round trip. `$1` is the refresh token that is used up, or null for a new family; where it was
/// used or revoked already, nothing is inserted.
const EXCHANGE: &str = "
    WITH used AS (
        UPDATE refresh_tokens SET used_at = clock_timestamp(), successor_id = $11
        WHERE id = $1 AND used_at IS NULL AND revoked_at IS NULL RETURNING 1),
    allowed AS (SELECT WHERE $1::uuid IS NULL OR EXISTS (SELECT FROM used)),
    token AS (
        INSERT INTO verification_tokens (jti, client_id, api_key_id, family_id, subject, scopes, audience, issued_at,
            expires_at)
        SELECT $2::uuid, $3::uuid, $4::uuid, $10::uuid, $5::text, $6::text[], $7::text, $8::timestamptz, $9::timestamptz
        FROM allowed RETURNING 1),
    refresh AS (
        INSERT INTO refresh_tokens (id, client_id, api_key_id, family_id, token_hash, nonce, parent_id, scopes,
            audience, issued_at, expires_at)
        SELECT $11::uuid, $3, $4, $10, $12::text, $13::text, $1, $14::text[], $15::text, $17::timestamptz, $16::timestamptz
        FROM allowed WHERE $11::uuid IS NOT NULL)
    SELECT FROM token";

#[async_trait]
impl TokenStore for Postgres {
    async fn issue(&self, token: NewToken, refresh: Option<NewRefreshToken>) -> Result<()> {
        self.exchange("issue token", None, refresh, token).await.map(drop)
    }

    async fn find(&self, id: TokenId) -> Result<Option<TokenRecord>> {
        let statement = format!(
            "SELECT t.jti, t.subject, t.scopes, t.audience, t.issued_at, t.expires_at, t.revoked_at,
                 t.api_key_id IS NOT NULL, c.api_key_hash IS NOT NULL, {CLIENT}, {KEY}
             FROM verification_tokens t JOIN clients c ON c.id = t.client_id
                 LEFT JOIN api_keys k ON k.id = t.api_key_id AND k.client_id = t.client_id
             WHERE t.jti = $1 AND (t.api_key_id IS NULL OR k.id IS NOT NULL)"
        );
        let mut lease = self.look_ups.lease("find token", LOOK_UP).await?;
        let row = lease.row(&statement, &[&id.0]).await?;
        row.map(|row| token_record(&row)).transpose()
    }

    async fn revoke(&self, id: TokenId, at: Timestamp) -> Result<bool> {
        let statement = "UPDATE verification_tokens SET revoked_at = $2 WHERE jti = $1 AND revoked_at IS NULL";
        let mut lease = self.work.lease("revoke token", WORK).await?;
        Ok(lease.execute(statement, &[&id.0, &at]).await? > 0)
    }

    async fn find_refresh(&self, hash: KeyHash) -> Result<Option<RefreshRecord>> {
        let statement = format!(
            "SELECT r.id, r.family_id, r.nonce, r.scopes, r.audience, r.issued_at, r.expires_at,
                 extract(epoch FROM clock_timestamp() - r.used_at)::float8, r.revoked_at, {CLIENT}, {KEY}
             FROM refresh_tokens r JOIN clients c ON c.id = r.client_id
                 JOIN api_keys k ON k.id = r.api_key_id AND k.client_id = r.client_id
             WHERE r.token_hash = $1"
        );
        let mut lease = self.look_ups.lease("find refresh token", LOOK_UP).await?;
        let row = lease.row(&statement, &[&hash.to_hex()]).await?;
        row.map(|row| refresh_record(&row)).transpose()
    }

    async fn rotate(&self, used: Uuid, successor: NewRefreshToken, token: NewToken) -> Result<bool> {
        self.exchange("rotate refresh token", Some(used), Some(successor), token).await
    }

    async fn issue_beside(&self, used: Uuid, token: NewToken) -> Result<bool> {
        // The lock holds back a revocation of the family until the token can be seen by it.
        let statement = "
            WITH used AS (SELECT FROM refresh_tokens WHERE id = $1 AND revoked_at IS NULL FOR SHARE)
            INSERT INTO verification_tokens (jti, client_id, api_key_id, family_id, subject, scopes, audience,
                issued_at, expires_at)
            SELECT $2::uuid, $3::uuid, $4::uuid, $5::uuid, $6::text, $7::text[], $8::text, $9::timestamptz,
                $10::timestamptz FROM used";
        let key = token.grant.api_key_id.map(|key| key.0);
        let values: Params<'_> = &[
            &used,
            &token.id.0,
            &token.grant.client_id.0,
            &key,
            &token.family_id,
            &token.subject,
            &names(&token.grant.scopes),
            &token.grant.audience,
            &token.issued_at,
            &token.expires_at,
        ];
        let mut lease = self.work.lease("issue token", WORK).await?;
        Ok(lease.execute(statement, values).await? > 0)
    }

    async fn revoke_family(&self, family: Uuid, at: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("revoke token family", WORK).await?;
        let revoked = revoke_whole(&mut lease, family, at).await;
        if revoked.is_err() {
            // With its transaction.
            lease.discard();
        }
        revoked
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut lease = self.work.lease("prune tokens", WORK).await?;
        let mut deleted = 0;
        for statement in [
            "DELETE FROM verification_tokens WHERE jti IN (
                 SELECT jti FROM verification_tokens WHERE expires_at < $1 LIMIT $2)",
            "DELETE FROM refresh_tokens WHERE id IN (SELECT id FROM refresh_tokens WHERE expires_at < $1 LIMIT $2)",
        ] {
            deleted += lease.execute(statement, &[&before, &i64::from(limit)]).await?;
        }
        Ok(deleted)
    }
}

impl Postgres {
    /// Whether anything was stored.
    async fn exchange(
        &self,
        operation: &'static str,
        used: Option<Uuid>,
        refresh: Option<NewRefreshToken>,
        token: NewToken,
    ) -> Result<bool> {
        let refresh = refresh.as_ref();
        let key = token.grant.api_key_id.map(|key| key.0);
        let scopes = names(&token.grant.scopes);
        let family_scopes = refresh.map(|refresh| names(&refresh.grant.scopes)).unwrap_or_default();
        let values: Params<'_> = &[
            &used,
            &token.id.0,
            &token.grant.client_id.0,
            &key,
            &token.subject,
            &scopes,
            &token.grant.audience,
            &token.issued_at,
            &token.expires_at,
            &token.family_id,
            &refresh.map(|refresh| refresh.id),
            &refresh.map(|refresh| refresh.hash.to_hex()),
            &refresh.map(|refresh| nonce_text(refresh.nonce)),
            &family_scopes,
            &refresh.and_then(|refresh| refresh.grant.audience.clone()),
            &refresh.map(|refresh| refresh.expires_at),
            &refresh.map(|refresh| refresh.issued_at),
        ];
        let mut lease = self.work.lease(operation, WORK).await?;
        Ok(!lease.rows(EXCHANGE, values).await?.is_empty())
    }
}

/// In one transaction: a family that ended by half would live on.
async fn revoke_whole(lease: &mut Lease, family: Uuid, at: Timestamp) -> Result<u64> {
    lease.batch("BEGIN").await?;
    let mut revoked = 0;
    loop {
        // An exchange that runs meanwhile holds its row: this waits for it, and finds what it
        // made in the next round. A round that finds nothing has seen all of them.
        let refresh = "UPDATE refresh_tokens SET revoked_at = $2 WHERE family_id = $1 AND revoked_at IS NULL";
        let now = lease.execute(refresh, &[&family, &at]).await?;
        let tokens = "UPDATE verification_tokens SET revoked_at = $2
             WHERE family_id = $1 AND revoked_at IS NULL AND expires_at > $2";
        lease.execute(tokens, &[&family, &at]).await?;
        if now == 0 {
            break;
        }
        revoked += now;
    }
    lease.batch("COMMIT").await?;
    Ok(revoked)
}

fn names(scopes: &Scopes) -> Vec<&str> {
    scopes.iter().collect()
}

fn token_record(row: &Row) -> Result<TokenRecord> {
    const TABLE: &str = "verification_tokens";
    let mut row = Columns::of(TABLE, row);
    let id = TokenId(row.take("jti")?);
    let subject = row.take("subject")?;
    let scopes = columns::scopes(TABLE, row.take("scopes")?)?;
    let audience = row.take("audience")?;
    let (issued_at, expires_at) = (row.take("issued_at")?, row.take("expires_at")?);
    let revoked_at = row.take("revoked_at")?;
    let (of_key, present): (bool, bool) = (row.take("api_key_id")?, row.take("api_key_hash")?);
    let client = client(&mut row)?;
    let origin = if of_key { TokenOrigin::Key(Box::new(key(&mut row)?)) } else { TokenOrigin::LegacyHash { present } };
    Ok(TokenRecord { id, subject, scopes, audience, issued_at, expires_at, revoked_at, client, origin })
}

fn refresh_record(row: &Row) -> Result<RefreshRecord> {
    const TABLE: &str = "refresh_tokens";
    let mut row = Columns::of(TABLE, row);
    Ok(RefreshRecord {
        id: row.take("id")?,
        family_id: row.take("family_id")?,
        nonce: nonce(row.take("nonce")?)?,
        scopes: columns::scopes(TABLE, row.take("scopes")?)?,
        audience: row.take("audience")?,
        issued_at: row.take("issued_at")?,
        expires_at: row.take("expires_at")?,
        used_for: row.take::<Option<f64>>("used_at")?.map(elapsed),
        revoked_at: row.take("revoked_at")?,
        client: client(&mut row)?,
        key: key(&mut row)?,
    })
}
