//! `operators` and `operator_sessions`

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{LOOK_UP, REPORT, WRITE};
use super::row::Columns;
use super::trail::note;
use super::{Sqlite, time};
use crate::model::admin::{NewOperator, NewSession, Operator, OperatorChange, PasswordHash, Session};
use crate::model::audit::Note;
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

type Done<T> = std::result::Result<T, Failure>;

#[async_trait]
impl OperatorStore for Sqlite {
    async fn create(&self, new: NewOperator) -> Result<Operator> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let made = insert_operator(&transaction, &pen, &new)?;
            transaction.commit()?;
            Ok(made)
        };
        self.writer.run("create operator", WRITE, insert).await
    }

    async fn create_first(&self, new: NewOperator) -> Result<Option<Operator>> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if transaction.query_row("SELECT EXISTS (SELECT 1 FROM operators)", [], |row| row.get(0))? {
                return Ok(None);
            }
            let made = insert_operator(&transaction, &pen, &new)?;
            transaction.commit()?;
            Ok(Some(made))
        };
        self.writer.run("create first operator", WRITE, insert).await
    }

    async fn find(&self, id: Uuid) -> Result<Option<Operator>> {
        self.readers.run("find operator", LOOK_UP, move |connection| by_id(connection, &id.to_string())).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Option<Operator>> {
        let name = name.to_owned();
        let select = move |connection: &mut Connection| one(connection, "o.name = ?1", params![name]);
        self.readers.run("find operator by name", LOOK_UP, select).await
    }

    async fn find_by_identity(&self, issuer: &str, subject: &str) -> Result<Option<Operator>> {
        let (issuer, subject) = (issuer.to_owned(), subject.to_owned());
        let select = move |connection: &mut Connection| {
            one(connection, "o.issuer = ?1 AND o.subject = ?2", params![issuer, subject])
        };
        self.readers.run("find operator by identity", LOOK_UP, select).await
    }

    async fn password(&self, id: Uuid) -> Result<Option<PasswordHash>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached("SELECT password_hash FROM operators WHERE id = ?1")?;
            let hash: Option<Option<String>> = statement.query_row([id.to_string()], |row| row.get(0)).optional()?;
            Ok(hash.flatten().map(PasswordHash))
        };
        self.readers.run("find password", LOOK_UP, select).await
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Operator>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {OPERATOR} FROM operators o
                 WHERE (replace(o.created_at, ' ', 'T'), o.id) > (
                     CASE WHEN ?1 IS NULL THEN '' ELSE
                         (SELECT replace(created_at, ' ', 'T') FROM operators WHERE id = ?1) END,
                     coalesce(?1, ''))
                 ORDER BY replace(o.created_at, ' ', 'T'), o.id
                 LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![after.map(|id| id.to_string()), i64::from(limit) + 1])?;
            let mut operators = Vec::new();
            while let Some(row) = rows.next()? {
                operators.push(operator(&mut Columns::of("operators", row))?);
            }
            Ok(Page::cut(operators, limit))
        };
        self.reports.run("list operators", REPORT, select).await
    }

    async fn update(&self, id: Uuid, change: OperatorChange, at: Timestamp) -> Result<Option<Operator>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| update(connection, &pen, id, &change, at);
        self.writer.run("update operator", WRITE, update).await
    }

    async fn begin_session(&self, new: NewSession) -> Result<Session> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| begin_session(connection, &pen, new);
        self.writer.run("begin session", WRITE, insert).await
    }

    async fn find_session(&self, id: Uuid) -> Result<Option<(Session, Operator)>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {SESSION}, {OPERATOR} FROM operator_sessions s JOIN operators o ON o.id = s.operator_id
                 WHERE s.id = ?1"
            ))?;
            let read = |row: &rusqlite::Row<'_>| {
                let mut row = Columns::of("operator_sessions", row);
                Ok(session(&mut row).and_then(|session| Ok((session, operator(&mut row)?))))
            };
            Ok(statement.query_row([id.to_string()], read).optional()?.transpose()?)
        };
        self.readers.run("find session", LOOK_UP, select).await
    }

    async fn sessions(&self, operator: Uuid, now: Timestamp) -> Result<Vec<Session>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {SESSION} FROM operator_sessions s
                 WHERE s.operator_id = ?1 AND s.revoked_at IS NULL AND s.expires_at > ?2
                 ORDER BY s.created_at DESC, s.id"
            ))?;
            let mut rows = statement.query(params![operator.to_string(), time::text(now)])?;
            let mut sessions = Vec::new();
            while let Some(row) = rows.next()? {
                sessions.push(session(&mut Columns::of("operator_sessions", row))?);
            }
            Ok(sessions)
        };
        self.reports.run("list sessions", REPORT, select).await
    }

    async fn note_session(&self, id: Uuid, at: Timestamp) -> Result<()> {
        let update = move |connection: &mut Connection| {
            connection.execute(
                "UPDATE operator_sessions SET last_seen_at = max(last_seen_at, ?2) WHERE id = ?1",
                params![id.to_string(), time::text(at)],
            )?;
            Ok(())
        };
        self.writer.run("note session", WRITE, update).await
    }

    async fn end_session(&self, id: Uuid, at: Timestamp) -> Result<bool> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let ended = transaction.execute(
                "UPDATE operator_sessions SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                params![id.to_string(), time::text(at)],
            )?;
            if ended == 1 {
                note(&transaction, &pen, Some(session_note(SESSION_ENDED, id)))?;
            }
            transaction.commit()?;
            Ok(ended == 1)
        };
        self.writer.run("end session", WRITE, update).await
    }

    async fn end_sessions(&self, operator: Uuid, at: Timestamp) -> Result<u64> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let ended = end_sessions(&transaction, operator, None, at)?;
            if ended > 0 {
                note(&transaction, &pen, Some(session_note(SESSIONS_ENDED, operator)))?;
            }
            transaction.commit()?;
            Ok(ended)
        };
        self.writer.run("end sessions", WRITE, update).await
    }

    async fn prune_sessions(&self, before: Timestamp) -> Result<u64> {
        let delete = move |connection: &mut Connection| {
            let deleted = connection.execute(
                "DELETE FROM operator_sessions WHERE expires_at < ?1 OR revoked_at < ?1",
                [time::text(before)],
            )?;
            Ok(deleted as u64)
        };
        self.writer.run("prune sessions", WRITE, delete).await
    }
}

fn insert_operator(transaction: &Transaction<'_>, pen: &Pen, new: &NewOperator) -> Done<Operator> {
    let id: String = transaction.query_row(
        "INSERT INTO operators (name, role, clients, password_hash, issuer, subject)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        params![
            new.name,
            new.reach.role.as_str(),
            serde_json::json!(new.reach.clients).to_string(),
            new.password.as_ref().map(|hash| &hash.0),
            new.identity.as_ref().map(|(issuer, _)| issuer),
            new.identity.as_ref().map(|(_, subject)| subject),
        ],
        |row| row.get(0),
    )?;
    let made = by_id(transaction, &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    note(transaction, pen, Note::of("operator.create", None, Some(&made)))?;
    Ok(made)
}

fn update(
    connection: &mut Connection,
    pen: &Pen,
    id: Uuid,
    change: &OperatorChange,
    at: Timestamp,
) -> Done<Option<Operator>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let text = id.to_string();
    let Some(before) = by_id(&transaction, &text)? else { return Ok(None) };
    if change.only_if.as_deref().is_some_and(|read| !before.is_still(read)) {
        return Err(StoreError::Changed.into());
    }
    transaction.execute(
        "UPDATE operators SET
             role = coalesce(?2, role),
             clients = coalesce(?3, clients),
             disabled_at = CASE WHEN ?4 IS NULL THEN disabled_at WHEN ?4 THEN coalesce(disabled_at, ?5) END,
             password_hash = coalesce(?6, password_hash),
             updated_at = ?5
         WHERE id = ?1",
        params![
            text,
            change.reach.as_ref().map(|reach| reach.role.as_str()),
            change.reach.as_ref().map(|reach| serde_json::json!(reach.clients).to_string()),
            change.disabled,
            time::text(at),
            change.password.as_ref().map(|password| &password.hash.0),
        ],
    )?;
    let Some(after) = by_id(&transaction, &text)? else { return Ok(None) };
    let owners: i64 = transaction.query_row(
        "SELECT count(*) FROM operators WHERE role = 'owner' AND disabled_at IS NULL",
        [],
        |row| row.get(0),
    )?;
    if owners == 0 && before.role == Role::Owner && before.disabled_at.is_none() {
        return Err(StoreError::Conflict(LAST_OWNER.to_owned()).into());
    }
    if change.password.is_some() || after.disabled_at.is_some() {
        let keep = change.password.as_ref().and_then(|password| password.keep);
        end_sessions(&transaction, id, keep.filter(|_| after.disabled_at.is_none()), at)?;
    }
    for noted in change_notes(&before, &after, change) {
        note(&transaction, pen, Some(noted))?;
    }
    transaction.commit()?;
    Ok(Some(after))
}

fn begin_session(connection: &mut Connection, pen: &Pen, new: NewSession) -> Done<Session> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (operator, at) = (new.operator_id.to_string(), time::text(new.at));
    let id: String = transaction.query_row(
        "INSERT INTO operator_sessions (operator_id, address, created_at, last_seen_at, expires_at)
         VALUES (?1, ?2, ?3, ?3, ?4) RETURNING id",
        params![operator, new.address.map(|address| address.to_string()), at, time::text(new.expires_at)],
        |row| row.get(0),
    )?;
    transaction.execute("UPDATE operators SET last_login_at = ?2 WHERE id = ?1", params![operator, at])?;
    let select = format!("SELECT {SESSION} FROM operator_sessions s WHERE s.id = ?1");
    let read = |row: &rusqlite::Row<'_>| Ok(session(&mut Columns::of("operator_sessions", row)));
    let begun = transaction.prepare_cached(&select)?.query_row([&id], read)??;
    note(&transaction, pen, Some(session_note(SESSION_BEGUN, begun.id)))?;
    transaction.commit()?;
    Ok(begun)
}

fn end_sessions(transaction: &Transaction<'_>, operator: Uuid, keep: Option<Uuid>, at: Timestamp) -> Done<u64> {
    let ended = transaction.execute(
        "UPDATE operator_sessions SET revoked_at = ?2 WHERE operator_id = ?1 AND revoked_at IS NULL AND id IS NOT ?3",
        params![operator.to_string(), time::text(at), keep.map(|id| id.to_string())],
    )?;
    Ok(ended as u64)
}

fn by_id(connection: &Connection, id: &str) -> Done<Option<Operator>> {
    one(connection, "o.id = ?1", params![id])
}

fn one(connection: &Connection, condition: &'static str, values: &[&dyn rusqlite::ToSql]) -> Done<Option<Operator>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {OPERATOR} FROM operators o WHERE {condition}"))?;
    let found = statement.query_row(values, |row| Ok(operator(&mut Columns::of("operators", row)))).optional()?;
    Ok(found.transpose()?)
}

fn operator(row: &mut Columns<'_, '_>) -> Result<Operator> {
    row.table("operators");
    Ok(Operator {
        id: row.id("id")?,
        name: row.take("name")?,
        role: columns::role("operators", &row.take::<String>("role")?)?,
        clients: row.json("clients")?,
        has_password: row.take("password_hash")?,
        issuer: row.take("issuer")?,
        subject: row.take("subject")?,
        disabled_at: row.time_or_null("disabled_at")?,
        last_login_at: row.time_or_null("last_login_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn session(row: &mut Columns<'_, '_>) -> Result<Session> {
    Ok(Session {
        id: row.id("id")?,
        operator_id: row.id("operator_id")?,
        address: columns::address("operator_sessions", row.take::<Option<String>>("address")?.as_deref())?,
        created_at: row.time("created_at")?,
        last_seen_at: row.time("last_seen_at")?,
        expires_at: row.time("expires_at")?,
        revoked_at: row.time_or_null("revoked_at")?,
    })
}
