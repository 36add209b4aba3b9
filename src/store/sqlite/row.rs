//! Rows of `clients` and `api_keys` into the model.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::FromSql;
use uuid::Uuid;

use super::time;
use crate::model::client::Client;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::ApiKey;
use crate::store::columns;
use crate::store::{Result, StoreError};

/// The columns of [`client`], of `clients` under the alias `c`.
pub(super) const CLIENT: &str =
    "c.id, c.name, c.status, c.rate, c.burst, c.plan_id, c.metadata, c.created_at, c.updated_at";

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

    /// The next value, JSON of the shape of `T`.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self, column: &'static str) -> Result<T> {
        let text: String = self.take(column)?;
        serde_json::from_str(&text).map_err(|error| StoreError::corrupt(self.table, column, error.to_string()))
    }
}

/// Reads [`CLIENT`].
pub(super) fn client(row: &mut Columns<'_, '_>) -> Result<Client> {
    row.table("clients");
    Ok(Client {
        id: ClientId(row.id("id")?),
        name: row.take("name")?,
        status: columns::status(&row.take::<String>("status")?)?,
        rate: columns::rate("clients", row.take::<Option<String>>("rate")?.as_deref())?,
        burst: columns::burst("clients", row.take("burst")?)?,
        plan_id: row.id_or_null("plan_id")?,
        metadata: columns::metadata("clients", row.json("metadata")?)?,
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
