//! `operators` and `operator_sessions`

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::pool::{LOOK_UP, Lease, Params, WORK};
use super::row::{Columns, all};
use super::trail::note;
use crate::model::admin::{NewOperator, NewSession, Operator, OperatorChange, PasswordHash, Session};
use crate::model::audit::Note;
use crate::model::id::ClientId;
use crate::model::operator::Role;
use crate::store::columns;
use crate::store::operators::{
    LAST_OWNER, OperatorStore, SESSION_BEGUN, SESSION_ENDED, SESSIONS_ENDED, change_notes, session_note,
};
use crate::store::trail::Pen;
use crate::store::{Page, Result, StoreError};

/// The columns of [`operator`].
const OPERATOR: &str = "o.id, o.name, o.role, o.clients, o.password_hash IS NOT NULL, o.issuer, o.subject, \
     o.disabled_at, o.last_login_at, o.created_at, o.updated_at";

/// The columns of [`session`].
const SESSION: &str = "s.id, s.operator_id, s.address, s.created_at, s.last_seen_at, s.expires_at, s.revoked_at";

#[async_trait]
impl OperatorStore for Postgres {
    async fn create(&self, new: NewOperator) -> Result<Operator> {
        let mut lease = self.work.lease("create operator", WORK).await?;
        lease.begin().await?;
        let made = insert_operator(&mut lease, &self.pen, &new).await?;
        lease.commit().await?;
        Ok(made)
    }

    async fn create_first(&self, new: NewOperator) -> Result<Option<Operator>> {
        let mut lease = self.work.lease("create first operator", WORK).await?;
        lease.begin().await?;
        // Of two that start at once, the second waits and finds the first one's.
        lease.batch("LOCK TABLE operators IN SHARE ROW EXCLUSIVE MODE").await?;
        if lease.row("SELECT 1 FROM operators LIMIT 1", &[]).await?.is_some() {
            lease.roll_back().await?;
            return Ok(None);
        }
        let made = insert_operator(&mut lease, &self.pen, &new).await?;
        lease.commit().await?;
        Ok(Some(made))
    }

    async fn find(&self, id: Uuid) -> Result<Option<Operator>> {
        let mut lease = self.look_ups.lease("find operator", LOOK_UP).await?;
        by_id(&mut lease, id, "").await
    }

    async fn find_by_name(&self, name: &str) -> Result<Option<Operator>> {
        let mut lease = self.look_ups.lease("find operator by name", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {OPERATOR} FROM operators o WHERE o.name = $1"), &[&name]).await
    }

    async fn find_by_identity(&self, issuer: &str, subject: &str) -> Result<Option<Operator>> {
        let statement = format!("SELECT {OPERATOR} FROM operators o WHERE o.issuer = $1 AND o.subject = $2");
        let mut lease = self.look_ups.lease("find operator by identity", LOOK_UP).await?;
        one(&mut lease, &statement, &[&issuer, &subject]).await
    }

    async fn password(&self, id: Uuid) -> Result<Option<PasswordHash>> {
        let mut lease = self.look_ups.lease("find password", LOOK_UP).await?;
        let row = lease.row("SELECT password_hash FROM operators WHERE id = $1", &[&id]).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Columns::of("operators", &row).take::<Option<String>>("password_hash")?.map(PasswordHash))
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Operator>> {
        let statement = format!(
            "SELECT {OPERATOR} FROM operators o
             WHERE (o.created_at, o.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM operators WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY o.created_at, o.id
             LIMIT $2"
        );
        let mut lease = self.work.lease("list operators", WORK).await?;
        let rows = lease.rows(&statement, &[&after, &(i64::from(limit) + 1)]).await?;
        Ok(Page::cut(all("operators", &rows, operator)?, limit))
    }

    async fn update(&self, id: Uuid, change: OperatorChange, at: Timestamp) -> Result<Option<Operator>> {
        let mut lease = self.work.lease("update operator", WORK).await?;
        lease.begin().await?;
        let Some(changed) = update(&mut lease, &self.pen, id, &change, at).await? else {
            lease.roll_back().await?;
            return Ok(None);
        };
        lease.commit().await?;
        Ok(Some(changed))
    }

    async fn begin_session(&self, new: NewSession) -> Result<Session> {
        let statement = format!(
            "INSERT INTO operator_sessions AS s (operator_id, address, created_at, last_seen_at, expires_at)
             VALUES ($1, $2, $3, $3, $4) RETURNING {SESSION}"
        );
        let address = new.address.map(|address| address.to_string());
        let mut lease = self.work.lease("begin session", WORK).await?;
        lease.begin().await?;
        let rows = lease.rows(&statement, &[&new.operator_id, &address, &new.at, &new.expires_at]).await?;
        let begun = session(&mut Columns::of("operator_sessions", &rows[0]))?;
        let signed_in = "UPDATE operators SET last_login_at = $2 WHERE id = $1";
        lease.execute(signed_in, &[&new.operator_id, &new.at]).await?;
        note(&mut lease, &self.pen, Some(session_note(SESSION_BEGUN, begun.id))).await?;
        lease.commit().await?;
        Ok(begun)
    }

    async fn find_session(&self, id: Uuid) -> Result<Option<(Session, Operator)>> {
        let statement = format!(
            "SELECT {SESSION}, {OPERATOR} FROM operator_sessions s JOIN operators o ON o.id = s.operator_id
             WHERE s.id = $1"
        );
        let mut lease = self.look_ups.lease("find session", LOOK_UP).await?;
        let Some(row) = lease.row(&statement, &[&id]).await? else { return Ok(None) };
        let mut row = Columns::of("operator_sessions", &row);
        Ok(Some((session(&mut row)?, operator(&mut row)?)))
    }

    async fn sessions(&self, operator: Uuid, now: Timestamp) -> Result<Vec<Session>> {
        let statement = format!(
            "SELECT {SESSION} FROM operator_sessions s
             WHERE s.operator_id = $1 AND s.revoked_at IS NULL AND s.expires_at > $2
             ORDER BY s.created_at DESC, s.id"
        );
        let mut lease = self.work.lease("list sessions", WORK).await?;
        all("operator_sessions", &lease.rows(&statement, &[&operator, &now]).await?, session)
    }

    async fn note_session(&self, id: Uuid, at: Timestamp) -> Result<()> {
        let statement = "UPDATE operator_sessions SET last_seen_at = greatest(last_seen_at, $2) WHERE id = $1";
        let mut lease = self.work.lease("note session", WORK).await?;
        lease.execute(statement, &[&id, &at]).await?;
        Ok(())
    }

    async fn end_session(&self, id: Uuid, at: Timestamp) -> Result<bool> {
        let statement = "UPDATE operator_sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
        let mut lease = self.work.lease("end session", WORK).await?;
        lease.begin().await?;
        let ended = lease.execute(statement, &[&id, &at]).await? == 1;
        if ended {
            note(&mut lease, &self.pen, Some(session_note(SESSION_ENDED, id))).await?;
        }
        lease.commit().await?;
        Ok(ended)
    }

    async fn end_sessions(&self, operator: Uuid, at: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("end sessions", WORK).await?;
        lease.begin().await?;
        let ended = end_sessions(&mut lease, operator, None, at).await?;
        if ended > 0 {
            note(&mut lease, &self.pen, Some(session_note(SESSIONS_ENDED, operator))).await?;
        }
        lease.commit().await?;
        Ok(ended)
    }

    async fn prune_sessions(&self, before: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("prune sessions", WORK).await?;
        lease.execute("DELETE FROM operator_sessions WHERE expires_at < $1 OR revoked_at < $1", &[&before]).await
    }
}

async fn insert_operator(lease: &mut Lease, pen: &Pen, new: &NewOperator) -> Result<Operator> {
    let statement = format!(
        "INSERT INTO operators AS o (name, role, clients, password_hash, issuer, subject)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING {OPERATOR}"
    );
    let clients: Vec<Uuid> = new.reach.clients.iter().map(|id| id.0).collect();
    let password = new.password.as_ref().map(|hash| hash.0.as_str());
    let (issuer, subject) = new.identity.clone().unzip();
    let values: Params<'_> = &[&new.name, &new.reach.role.as_str(), &clients, &password, &issuer, &subject];
    let rows = lease.rows(&statement, values).await?;
    let made = operator(&mut Columns::of("operators", &rows[0]))?;
    note(lease, pen, Note::of("operator.create", None, Some(&made))).await?;
    Ok(made)
}

async fn update(
    lease: &mut Lease,
    pen: &Pen,
    id: Uuid,
    change: &OperatorChange,
    at: Timestamp,
) -> Result<Option<Operator>> {
    const OWNERS: &str = "SELECT id FROM operators WHERE role = 'owner' AND disabled_at IS NULL ORDER BY id FOR UPDATE";
    // Two that take the last two owners away meet here: the second sees what the first has left.
    lease.rows(OWNERS, &[]).await?;
    let Some(before) = by_id(lease, id, "FOR UPDATE").await? else { return Ok(None) };
    if change.only_if.as_deref().is_some_and(|read| !before.is_still(read)) {
        return Err(StoreError::Changed);
    }
    let statement = format!(
        "UPDATE operators AS o SET
             role = coalesce($2, o.role),
             clients = coalesce($3, o.clients),
             disabled_at = CASE WHEN $4::boolean IS NULL THEN o.disabled_at WHEN $4 THEN coalesce(o.disabled_at, $5) END,
             password_hash = coalesce($6, o.password_hash),
             updated_at = $5
         WHERE o.id = $1 RETURNING {OPERATOR}"
    );
    let role = change.reach.as_ref().map(|reach| reach.role.as_str());
    let clients: Option<Vec<Uuid>> = change.reach.as_ref().map(|reach| reach.clients.iter().map(|id| id.0).collect());
    let password = change.password.as_ref().map(|password| password.hash.0.as_str());
    let values: Params<'_> = &[&id, &role, &clients, &change.disabled, &at, &password];
    let Some(after) = one(lease, &statement, values).await? else { return Ok(None) };
    if before.role == Role::Owner && before.disabled_at.is_none() && lease.rows(OWNERS, &[]).await?.is_empty() {
        return Err(StoreError::Conflict(LAST_OWNER.to_owned()));
    }
    if change.password.is_some() || after.disabled_at.is_some() {
        let keep = change.password.as_ref().and_then(|password| password.keep);
        end_sessions(lease, id, keep.filter(|_| after.disabled_at.is_none()), at).await?;
    }
    for noted in change_notes(&before, &after, change) {
        note(lease, pen, Some(noted)).await?;
    }
    Ok(Some(after))
}

async fn end_sessions(lease: &mut Lease, operator: Uuid, keep: Option<Uuid>, at: Timestamp) -> Result<u64> {
    let statement = "UPDATE operator_sessions SET revoked_at = $2
         WHERE operator_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $3";
    lease.execute(statement, &[&operator, &at, &keep]).await
}

async fn by_id(lease: &mut Lease, id: Uuid, lock: &'static str) -> Result<Option<Operator>> {
    one(lease, &format!("SELECT {OPERATOR} FROM operators o WHERE o.id = $1 {lock}"), &[&id]).await
}

async fn one(lease: &mut Lease, statement: &str, values: Params<'_>) -> Result<Option<Operator>> {
    let row = lease.row(statement, values).await?;
    row.map(|row| operator(&mut Columns::of("operators", &row))).transpose()
}

fn operator(row: &mut Columns<'_>) -> Result<Operator> {
    row.table("operators");
    Ok(Operator {
        id: row.take("id")?,
        name: row.take("name")?,
        role: columns::role("operators", row.take("role")?)?,
        clients: row.take::<Vec<Uuid>>("clients")?.into_iter().map(ClientId).collect(),
        has_password: row.take("password_hash")?,
        issuer: row.take("issuer")?,
        subject: row.take("subject")?,
        disabled_at: row.take("disabled_at")?,
        last_login_at: row.take("last_login_at")?,
        created_at: row.take("created_at")?,
        updated_at: row.take("updated_at")?,
    })
}

fn session(row: &mut Columns<'_>) -> Result<Session> {
    Ok(Session {
        id: row.take("id")?,
        operator_id: row.take("operator_id")?,
        address: columns::address("operator_sessions", row.take("address")?)?,
        created_at: row.take("created_at")?,
        last_seen_at: row.take("last_seen_at")?,
        expires_at: row.take("expires_at")?,
        revoked_at: row.take("revoked_at")?,
    })
}
