//! `audit`

use async_trait::async_trait;
use uuid::Uuid;

use super::Postgres;
use super::pool::{Lease, Params, WORK};
use super::row::{Columns, all};
use crate::model::audit::{AuditEntry, AuditFilter, Note};
use crate::model::id::ClientId;
use crate::store::audit_trail::AuditTrail;
use crate::store::columns;
use crate::store::trail::Pen;
use crate::store::{Page, Result};

#[async_trait]
impl AuditTrail for Postgres {
    async fn list(&self, filter: &AuditFilter, before: Option<Uuid>, limit: u32) -> Result<Page<AuditEntry>> {
        let statement = "SELECT id, occurred_at, actor_kind, actor_id, actor_name, address, action, subject_kind,
                 subject_id, client_id, before, after, request_id
             FROM audit
             WHERE ($1::uuid IS NULL OR id < $1) AND ($3::uuid IS NULL OR client_id = $3)
                 AND ($4::text IS NULL OR actor_name = $4 OR actor_id::text = $4)
                 AND ($5::text IS NULL OR action = $5 OR right($5, 1) = '.' AND starts_with(action, $5))
                 AND ($6::text IS NULL OR subject_id = $6)
                 AND ($7::timestamptz IS NULL OR occurred_at >= $7) AND ($8::timestamptz IS NULL OR occurred_at < $8)
             ORDER BY id DESC LIMIT $2";
        let client = filter.client.map(|id| id.0);
        let limit_and_one = i64::from(limit) + 1;
        let values: Params<'_> = &[
            &before,
            &limit_and_one,
            &client,
            &filter.actor,
            &filter.action,
            &filter.subject,
            &filter.from,
            &filter.to,
        ];
        let mut lease = self.work.lease("list audit", WORK).await?;
        let rows = lease.rows(statement, values).await?;
        Ok(Page::cut(all("audit", &rows, entry)?, limit))
    }

    async fn record(&self, noted: Note) -> Result<()> {
        let mut lease = self.work.lease("write audit", WORK).await?;
        note(&mut lease, &self.pen, Some(noted)).await
    }
}

/// Writes a change into the audit, in the transaction of the change; none: nothing changed.
pub(super) async fn note(lease: &mut Lease, pen: &Pen, note: Option<Note>) -> Result<()> {
    let Some(note) = note else { return Ok(()) };
    let statement = "INSERT INTO audit (id, occurred_at, actor_kind, actor_id, actor_name, address, action,
             subject_kind, subject_id, client_id, before, after, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let entry = pen.entry(note);
    let (kind, address) = (entry.actor_kind.as_str(), entry.address.map(|address| address.to_string()));
    let client = entry.client_id.map(|id| id.0);
    let values: Params<'_> = &[
        &entry.id,
        &entry.occurred_at,
        &kind,
        &entry.actor_id,
        &entry.actor_name,
        &address,
        &entry.action,
        &entry.subject_kind,
        &entry.subject_id,
        &client,
        &entry.before,
        &entry.after,
        &entry.request_id,
    ];
    lease.execute(statement, values).await?;
    Ok(())
}

fn entry(row: &mut Columns<'_>) -> Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.take("id")?,
        occurred_at: row.take("occurred_at")?,
        actor_kind: columns::actor_kind(row.take("actor_kind")?)?,
        actor_id: row.take("actor_id")?,
        actor_name: row.take("actor_name")?,
        address: columns::address("audit", row.take("address")?)?,
        action: row.take("action")?,
        subject_kind: row.take("subject_kind")?,
        subject_id: row.take("subject_id")?,
        client_id: row.take::<Option<Uuid>>("client_id")?.map(ClientId),
        before: row.take("before")?,
        after: row.take("after")?,
        request_id: row.take("request_id")?,
    })
}
