//! `audit`

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{REPORT, WRITE};
use super::row::Columns;
use super::{Sqlite, time};
use crate::model::audit::{AuditEntry, AuditFilter, Note};
use crate::model::id::ClientId;
use crate::store::audit_trail::AuditTrail;
use crate::store::columns;
use crate::store::trail::Pen;
use crate::store::{Page, Result};

#[async_trait]
impl AuditTrail for Sqlite {
    async fn list(&self, filter: &AuditFilter, before: Option<Uuid>, limit: u32) -> Result<Page<AuditEntry>> {
        let filter = filter.clone();
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, occurred_at, actor_kind, actor_id, actor_name, address, action, subject_kind, subject_id,
                     client_id, before, after, request_id
                 FROM audit
                 WHERE (?1 IS NULL OR id < ?1) AND (?3 IS NULL OR client_id = ?3)
                     AND (?4 IS NULL OR actor_name = ?4 OR actor_id = ?4)
                     AND (?5 IS NULL OR action = ?5 OR ?5 LIKE '%.' AND substr(action, 1, length(?5)) = ?5)
                     AND (?6 IS NULL OR subject_id = ?6)
                     AND (?7 IS NULL OR occurred_at >= ?7) AND (?8 IS NULL OR occurred_at < ?8)
                 ORDER BY id DESC LIMIT ?2",
            )?;
            let mut rows = statement.query(params![
                before.map(|id| id.to_string()),
                i64::from(limit) + 1,
                filter.client.map(|id| id.to_string()),
                filter.actor,
                filter.action,
                filter.subject,
                filter.from.map(time::text),
                filter.to.map(time::text),
            ])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                entries.push(entry(&mut Columns::of("audit", row))?);
            }
            Ok(Page::cut(entries, limit))
        };
        self.reports.run("list audit", REPORT, select).await
    }

    async fn record(&self, noted: Note) -> Result<()> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            note(&transaction, &pen, Some(noted))?;
            Ok(transaction.commit()?)
        };
        self.writer.run("write audit", WRITE, insert).await
    }
}

/// Writes a change into the audit, in the transaction of the change; none: nothing changed.
pub(super) fn note(connection: &Connection, pen: &Pen, note: Option<Note>) -> std::result::Result<(), Failure> {
    let Some(note) = note else { return Ok(()) };
    let entry = pen.entry(note);
    let mut statement = connection.prepare_cached(
        "INSERT INTO audit (id, occurred_at, actor_kind, actor_id, actor_name, address, action, subject_kind,
             subject_id, client_id, before, after, request_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    statement.execute(params![
        entry.id.to_string(),
        time::text(entry.occurred_at),
        entry.actor_kind.as_str(),
        entry.actor_id.to_string(),
        entry.actor_name,
        entry.address.map(|address| address.to_string()),
        entry.action,
        entry.subject_kind,
        entry.subject_id,
        entry.client_id.map(|id| id.to_string()),
        entry.before.map(|value| value.to_string()),
        entry.after.map(|value| value.to_string()),
        entry.request_id,
    ])?;
    Ok(())
}

fn entry(row: &mut Columns<'_, '_>) -> Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.id("id")?,
        occurred_at: row.time("occurred_at")?,
        actor_kind: columns::actor_kind(&row.take::<String>("actor_kind")?)?,
        actor_id: row.id("actor_id")?,
        actor_name: row.take("actor_name")?,
        address: columns::address("audit", row.take::<Option<String>>("address")?.as_deref())?,
        action: row.take("action")?,
        subject_kind: row.take("subject_kind")?,
        subject_id: row.take("subject_id")?,
        client_id: row.id_or_null("client_id")?.map(ClientId),
        before: row.json_or_null("before")?,
        after: row.json_or_null("after")?,
        request_id: row.take("request_id")?,
    })
}
