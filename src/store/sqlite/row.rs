//! Rows of `clients` and `api_keys` into the model.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::FromSql;
use uuid::Uuid;

use super::time;
use crate::model::client::{Allowance, Client};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::ApiKey;
use crate::model::plan::Plan;
use crate::store::columns;
use crate::store::{Result, StoreError};

/// The columns of [`client`], of `clients` under the alias `c`.
pub(super) const CLIENT: &str =
    "c.id, c.name, c.status, c.rate, c.burst, c.plan_id, c.quota, c.concurrency, c.metadata, c.created_at, c.updated_at,
     (SELECT json_object('id', p.id, 'name', p.name, 'policies', json(p.policies), 'concurrency', p.concurrency,
          'created_at', p.created_at, 'updated_at', p.updated_at) FROM plans p WHERE p.id = c.plan_id)";

/// The columns of [`plan`], of `plans` under the alias `p`.
pub(super) const PLAN: &str = "p.id, p.name, p.policies, p.concurrency, p.created_at, p.updated_at";

/// The columns of [`key`], of `api_keys` under the alias `k`.
pub(super) const KEY: &str = "k.id, k.client_id, k.name, k.key_id, k.hash_kind, k.pepper_version, k.scopes, k.rate, k.burst, \
     k.allowed_addresses, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.replaced_by";

/// A row read from left to right, so that a mistake names its table and column.
pub(super) struct Columns<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
    table: &'static str,
}

impl<'r, 's> Columns<'r, 's> {
    /// Starts at the first column, which is `table`'s.
    pub(super) fn of(table: &'static str, row: &'r Row<'s>) -> Self {
        Self { row, next: 0, table }
    }

    /// Goes on with columns of another table.
    pub(super) fn table(&mut self, table: &'static str) {
        self.table = table;
    }

    /// The next value, as its type.
    pub(super) fn take<T: FromSql>(&mut self, column: &'static str) -> Result<T> {
        let value = self.row.get(self.next);
        self.next += 1;
        value.map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }

    /// The next value, an id.
    pub(super) fn id(&mut self, column: &'static str) -> Result<Uuid> {
        let text: String = self.take(column)?;
        Uuid::parse_str(&text).map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }

    /// The next value, an id or null.
    pub(super) fn id_or_null(&mut self, column: &'static str) -> Result<Option<Uuid>> {
        let text: Option<String> = self.take(column)?;
        let id = text.map(|text| Uuid::parse_str(&text)).transpose();
        id.map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }

    /// The next value, a time.
    pub(super) fn time(&mut self, column: &'static str) -> Result<Timestamp> {
        self.time_or_null(column)?.ok_or_else(|| StoreError::corrupt(self.table, column, "null"))
    }

    /// The next value, a time or null.
    pub(super) fn time_or_null(&mut self, column: &'static str) -> Result<Option<Timestamp>> {
        let Some(text) = self.take::<Option<String>>(column)? else { return Ok(None) };
        let moment = time::parse(&text);
        moment.map(Some).ok_or_else(|| StoreError::corrupt(self.table, column, format!("`{text}` is not a time")))
    }

    /// The next value, JSON or null.
    pub(super) fn json_or_null(&mut self, column: &'static str) -> Result<Option<serde_json::Value>> {
        let Some(text) = self.take::<Option<String>>(column)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }

    /// The next value, JSON of the shape of `T`.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self, column: &'static str) -> Result<T> {
        let text: String = self.take(column)?;
        serde_json::from_str(&text).map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }
}

/// Reads [`CLIENT`].
pub(super) fn client(row: &mut Columns<'_, '_>) -> Result<Client> {
    row.table("clients");
    let mut client = Client {
        id: ClientId(row.id("id")?),
        name: row.take("name")?,
        status: columns::status(&row.take::<String>("status")?)?,
        rate: columns::rate("clients", row.take::<Option<String>>("rate")?.as_deref())?,
        burst: columns::burst("clients", row.take("burst")?)?,
        plan_id: row.id_or_null("plan_id")?,
        allowance: Allowance {
            quota: columns::quota(row.take::<Option<String>>("quota")?.as_deref())?,
            concurrency: columns::concurrency("clients", row.take("concurrency")?)?,
            plan: None,
        },
        metadata: columns::metadata("clients", row.json("metadata")?)?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    };
    if let Some(text) = row.take::<Option<String>>("plan_id")? {
        let value = serde_json::from_str::<serde_json::Value>(&text);
        let value = value.map_err(|error| StoreError::corrupt("plans", "policies", error.to_string()))?;
        client.allowance.plan = Some(Arc::new(columns::plan_of_client(&value, time::parse)?));
    }
    Ok(client)
}

/// Reads [`PLAN`].
pub(super) fn plan(row: &mut Columns<'_, '_>) -> Result<Plan> {
    Ok(Plan {
        id: row.id("id")?,
        name: row.take("name")?,
        policies: columns::policies(row.json("policies")?)?,
        concurrency: columns::concurrency("plans", row.take("concurrency")?)?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// Reads [`KEY`].
pub(super) fn key(row: &mut Columns<'_, '_>) -> Result<ApiKey> {
    row.table("api_keys");
    Ok(ApiKey {
        id: ApiKeyId(row.id("id")?),
        client_id: ClientId(row.id("client_id")?),
        name: row.take("name")?,
        key_id: row.take("key_id")?,
        hash_kind: columns::hash_kind(&row.take::<String>("hash_kind")?)?,
        pepper_version: row.take("pepper_version")?,
        scopes: columns::scopes("api_keys", row.json("scopes")?)?,
        rate: columns::rate("api_keys", row.take::<Option<String>>("rate")?.as_deref())?,
        burst: columns::burst("api_keys", row.take("burst")?)?,
        allowed_addresses: columns::addresses("api_keys", &row.json::<Vec<String>>("allowed_addresses")?)?,
        created_at: row.time("created_at")?,
        expires_at: row.time_or_null("expires_at")?,
        revoked_at: row.time_or_null("revoked_at")?,
        last_used_at: row.time_or_null("last_used_at")?,
        replaced_by: row.id_or_null("replaced_by")?.map(ApiKeyId),
    })
}
