//! Rows of `clients` and `api_keys` into the model.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::model::client::{Allowance, Client};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::ApiKey;
use crate::model::plan::Plan;
use crate::store::columns;
use crate::store::{Result, StoreError};

/// The columns of [`client`], of `clients` under the alias `c`.
pub(super) const CLIENT: &str =
    "c.id, c.name, c.status, c.rate, c.burst, c.plan_id, c.quota, c.concurrency, c.metadata, c.created_at, c.updated_at,
     (SELECT to_jsonb(p) FROM plans p WHERE p.id = c.plan_id)";

/// The columns of [`plan`], of `plans` under the alias `p`.
pub(super) const PLAN: &str = "p.id, p.name, p.policies, p.concurrency, p.created_at, p.updated_at";

/// The columns of [`key`], of `api_keys` under the alias `k`.
pub(super) const KEY: &str = "k.id, k.client_id, k.name, k.key_id, k.hash_kind, k.pepper_version, k.scopes, k.rate, k.burst, \
     k.allowed_addresses, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.replaced_by";

/// A row read from left to right, so that a mistake names its table and column.
pub(super) struct Columns<'r> {
    row: &'r Row,
    next: usize,
    table: &'static str,
}

impl<'r> Columns<'r> {
    /// Starts at the first column, which is `table`'s.
    pub(super) fn of(table: &'static str, row: &'r Row) -> Self {
        Self { row, next: 0, table }
    }

    /// Goes on with columns of another table.
    pub(super) fn table(&mut self, table: &'static str) {
        self.table = table;
    }

    /// The next value.
    pub(super) fn take<T: FromSql<'r>>(&mut self, column: &'static str) -> Result<T> {
        let value = self.row.try_get(self.next);
        self.next += 1;
        value.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            StoreError::corrupt(self.table, column, cause.unwrap_or_else(|| error.to_string()))
        })
    }
}

/// Reads [`CLIENT`].
pub(super) fn client(row: &mut Columns<'_>) -> Result<Client> {
    row.table("clients");
    let mut client = Client {
        id: ClientId(row.take("id")?),
        name: row.take("name")?,
        status: columns::status(row.take("status")?)?,
        rate: columns::rate("clients", row.take("rate")?)?,
        burst: columns::burst("clients", row.take("burst")?)?,
        plan_id: row.take("plan_id")?,
        allowance: Allowance {
            quota: columns::quota(row.take("quota")?)?,
            concurrency: columns::concurrency("clients", row.take("concurrency")?)?,
            plan: None,
        },
        metadata: columns::metadata("clients", row.take("metadata")?)?,
        created_at: row.take("created_at")?,
        updated_at: row.take("updated_at")?,
    };
    if let Some(value) = row.take::<Option<serde_json::Value>>("plan_id")? {
        client.allowance.plan = Some(Arc::new(columns::plan_of_client(&value, |text| text.parse().ok())?));
    }
    Ok(client)
}

/// Reads [`PLAN`].
pub(super) fn plan(row: &mut Columns<'_>) -> Result<Plan> {
    Ok(Plan {
        id: row.take("id")?,
        name: row.take("name")?,
        policies: columns::policies(row.take("policies")?)?,
        concurrency: columns::concurrency("plans", row.take("concurrency")?)?,
        created_at: row.take("created_at")?,
        updated_at: row.take("updated_at")?,
    })
}

/// Reads [`KEY`].
pub(super) fn key(row: &mut Columns<'_>) -> Result<ApiKey> {
    row.table("api_keys");
    Ok(ApiKey {
        id: ApiKeyId(row.take("id")?),
        client_id: ClientId(row.take("client_id")?),
        name: row.take("name")?,
        key_id: row.take("key_id")?,
        hash_kind: columns::hash_kind(row.take("hash_kind")?)?,
        pepper_version: row.take("pepper_version")?,
        scopes: columns::scopes("api_keys", row.take("scopes")?)?,
        rate: columns::rate("api_keys", row.take("rate")?)?,
        burst: columns::burst("api_keys", row.take("burst")?)?,
        allowed_addresses: columns::addresses("api_keys", &row.take::<Vec<String>>("allowed_addresses")?)?,
        created_at: row.take("created_at")?,
        expires_at: row.take("expires_at")?,
        revoked_at: row.take("revoked_at")?,
        last_used_at: row.take("last_used_at")?,
        replaced_by: row.take::<Option<uuid::Uuid>>("replaced_by")?.map(ApiKeyId),
    })
}

/// All rows, each read by `read`.
pub(super) fn all<T>(
    table: &'static str,
    rows: &[Row],
    read: impl Fn(&mut Columns<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    rows.iter().map(|row| read(&mut Columns::of(table, row))).collect()
}
