//! `clients`

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::Sqlite;
use super::erasure::refuse_erased;
use super::error::Failure;
use super::lane::{LOOK_UP, REPORT, WRITE};
use super::row::{CLIENT, Columns, client};
use super::trail::note;
use crate::model::audit::Note;
use crate::model::client::{Client, ClientChange, ClientStatus, NewClient};
use crate::model::id::ClientId;
use crate::store::trail::client_note;
use crate::store::{ClientStore, Page, Result, StoreError};

#[async_trait]
impl ClientStore for Sqlite {
    async fn create(&self, new: NewClient) -> Result<Client> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id: String = transaction.query_row(
                "INSERT INTO clients (name, rate, burst, metadata, plan_id, quota, concurrency)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id",
                params![
                    new.name,
                    new.rate.map(|rate| rate.to_string()),
                    new.burst.map(std::num::NonZeroU32::get),
                    new.metadata.to_string(),
                    new.plan_id.map(|id| id.to_string()),
                    new.quota.map(|quota| quota.to_string()),
                    new.concurrency.map(std::num::NonZeroU32::get),
                ],
                |row| row.get(0),
            )?;
            let made = by_id(&transaction, &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            note(&transaction, &pen, Note::of("client.create", None, Some(&made)))?;
            transaction.commit()?;
            Ok(made)
        };
        self.writer.run("create client", WRITE, insert).await
    }

    async fn find(&self, id: ClientId) -> Result<Option<Client>> {
        self.readers.run("find client", LOOK_UP, move |connection| by_id(connection, &id.to_string())).await
    }

    async fn find_many(&self, ids: &[ClientId]) -> Result<Vec<Client>> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {CLIENT} FROM clients c WHERE c.id IN (SELECT value FROM json_each(?1))"
            ))?;
            all(&mut statement.query([serde_json::json!(ids).to_string()])?)
        };
        self.reports.run("find clients", REPORT, select).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Client>> {
        let name = name.to_owned();
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {CLIENT} FROM clients c WHERE c.name = ?1 ORDER BY replace(c.created_at, ' ', 'T'), c.id"
            ))?;
            all(&mut statement.query([name])?)
        };
        self.readers.run("find client by name", LOOK_UP, select).await
    }

    async fn list(&self, after: Option<ClientId>, limit: u32) -> Result<Page<Client>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {CLIENT} FROM clients c
                 WHERE (replace(c.created_at, ' ', 'T'), c.id) > (
                     CASE WHEN ?1 IS NULL THEN '' ELSE
                         (SELECT replace(created_at, ' ', 'T') FROM clients WHERE id = ?1) END,
                     coalesce(?1, ''))
                 ORDER BY replace(c.created_at, ' ', 'T'), c.id
                 LIMIT ?2"
            ))?;
            let after = after.map(|id| id.to_string());
            Ok(Page::cut(all(&mut statement.query(params![after, i64::from(limit) + 1])?)?, limit))
        };
        self.reports.run("list clients", REPORT, select).await
    }

    async fn update(&self, id: ClientId, change: ClientChange) -> Result<Option<Client>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = id.to_string();
            let Some(before) = by_id(&transaction, &id)? else { return Ok(None) };
            if change.only_if.is_some_and(|read| !before.is_still(&read)) {
                return Err(StoreError::Changed.into());
            }
            refuse_erased(&transaction, before.id)?;
            transaction.execute(
                "UPDATE clients SET
                     name = coalesce(?2, name),
                     status = coalesce(?3, status),
                     rate = CASE WHEN ?4 THEN ?5 ELSE rate END,
                     burst = CASE WHEN ?6 THEN ?7 ELSE burst END,
                     metadata = coalesce(?8, metadata),
                     plan_id = CASE WHEN ?9 THEN ?10 ELSE plan_id END,
                     quota = CASE WHEN ?11 THEN ?12 ELSE quota END,
                     concurrency = CASE WHEN ?13 THEN ?14 ELSE concurrency END,
                     updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
                 WHERE id = ?1",
                params![
                    id,
                    change.name,
                    change.status.map(ClientStatus::as_str),
                    change.rate.is_some(),
                    change.rate.flatten().map(|rate| rate.to_string()),
                    change.burst.is_some(),
                    change.burst.flatten().map(std::num::NonZeroU32::get),
                    change.metadata.map(|metadata| metadata.to_string()),
                    change.plan_id.is_some(),
                    change.plan_id.flatten().map(|id| id.to_string()),
                    change.quota.is_some(),
                    change.quota.flatten().map(|quota| quota.to_string()),
                    change.concurrency.is_some(),
                    change.concurrency.flatten().map(std::num::NonZeroU32::get),
                ],
            )?;
            let changed = by_id(&transaction, &id)?;
            note(&transaction, &pen, client_note(&before, changed.as_ref()))?;
            transaction.commit()?;
            Ok(changed)
        };
        self.writer.run("update client", WRITE, update).await
    }
}

pub(super) fn by_id(connection: &Connection, id: &str) -> std::result::Result<Option<Client>, Failure> {
    let mut statement = connection.prepare_cached(&format!("SELECT {CLIENT} FROM clients c WHERE c.id = ?1"))?;
    let found = statement.query_row([id], |row| Ok(client(&mut Columns::of("clients", row)))).optional()?;
    Ok(found.transpose()?)
}

fn all(rows: &mut rusqlite::Rows<'_>) -> std::result::Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    while let Some(row) = rows.next()? {
        clients.push(client(&mut Columns::of("clients", row))?);
    }
    Ok(clients)
}
