//! Erasing a client.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::clients;
use super::pool::{LOOK_UP, Lease, MIGRATE};
use super::row::{Columns, all};
use super::trail::note;
use crate::model::client::Client;
use crate::model::id::ClientId;
use crate::store::erasure::{ERASED, ERASED_FOR_GOOD, Erased, ErasureStore};
use crate::store::{Result, StoreError};

/// What is personal of the audit's rows: the trigger that lets it pass compares with the same function.
const MASK: &str = "
    UPDATE audit SET before = octroi_erased(before), after = octroi_erased(after),
        actor_name = CASE WHEN by_its_token THEN '[erased]' ELSE actor_name END,
        address = CASE WHEN by_its_token THEN NULL ELSE address END
    FROM (
        SELECT a.id, a.actor_kind = 'token' AND EXISTS (
            SELECT FROM admin_tokens t WHERE t.id = a.actor_id AND t.clients = ARRAY[$1::uuid]) AS by_its_token
        FROM audit a WHERE a.client_id = $1) AS shown
    WHERE audit.id = shown.id";

#[async_trait]
impl ErasureStore for Postgres {
    async fn erase(&self, client: ClientId, at: Timestamp) -> Result<Option<Client>> {
        let mut lease = self.work.lease("erase client", MIGRATE).await?;
        lease.begin().await?;
        lease.batch("SET LOCAL statement_timeout = 0").await?;
        let update = "UPDATE clients SET name = $2, status = 'suspended', metadata = '{}', api_key_hash = NULL,
                 api_key_pepper_version = NULL, updated_at = $3
             WHERE id = $1";
        if lease.execute(update, &[&client.0, &ERASED, &at]).await? == 0 {
            lease.roll_back().await?;
            return Ok(None);
        }
        erase_raw_key(&mut lease, client.0).await?;
        let erased = erase_credentials(&mut lease, client.0, at).await?;
        let known = "INSERT INTO erasures (client_id, erased_at) VALUES ($1, $2) ON CONFLICT (client_id) DO NOTHING";
        lease.execute(known, &[&client.0, &at]).await?;
        lease.execute(MASK, &[&client.0]).await?;
        // An answer that was kept may show it.
        let answers = "DELETE FROM idempotency_keys WHERE strpos(response, $1) > 0";
        lease.execute(answers, &[&client.to_string()]).await?;
        note(&mut lease, &self.pen, Some(erased.note(client))).await?;
        let after = clients::by_id(&mut lease, client, "").await?;
        lease.commit().await?;
        Ok(after)
    }

    async fn erased_at(&self, client: ClientId) -> Result<Option<Timestamp>> {
        let mut lease = self.look_ups.lease("find erasure", LOOK_UP).await?;
        let row = lease.row("SELECT erased_at FROM erasures WHERE client_id = $1", &[&client.0]).await?;
        row.map(|row| Columns::of("erasures", &row).take("erased_at")).transpose()
    }

    async fn erased_since(&self, at: Timestamp) -> Result<Vec<ClientId>> {
        let mut lease = self.look_ups.lease("list erasures", LOOK_UP).await?;
        let rows = lease.rows("SELECT client_id FROM erasures WHERE erased_at >= $1", &[&at]).await?;
        all("erasures", &rows, |row| Ok(ClientId(row.take("client_id")?)))
    }
}

/// That nothing is made for clients that were erased.
pub(super) async fn refuse_erased(lease: &mut Lease, clients: &[ClientId]) -> Result<()> {
    let clients: Vec<Uuid> = clients.iter().map(|id| id.0).collect();
    if lease.row("SELECT 1 FROM erasures WHERE client_id = ANY($1) LIMIT 1", &[&clients]).await?.is_some() {
        lease.roll_back().await?;
        return Err(StoreError::Conflict(ERASED_FOR_GOOD.to_owned()));
    }
    Ok(())
}

/// The raw key that an older application left, where there is such a column.
async fn erase_raw_key(lease: &mut Lease, client: Uuid) -> Result<()> {
    let column = "SELECT attnotnull FROM pg_attribute
         WHERE attrelid = to_regclass('clients') AND attname = 'api_key' AND attnum > 0 AND NOT attisdropped";
    let Some(row) = lease.row(column, &[]).await? else { return Ok(()) };
    if Columns::of("pg_attribute", &row).take::<bool>("attnotnull")? {
        let remedy = "clients.api_key must not be empty, so the raw key in it cannot be erased: finish the backfill \
                      first (octroi backfill finish)";
        return Err(StoreError::Conflict(remedy.to_owned()));
    }
    lease.execute("UPDATE clients SET api_key = NULL WHERE id = $1", &[&client]).await?;
    Ok(())
}

async fn erase_credentials(lease: &mut Lease, client: Uuid, at: Timestamp) -> Result<Erased> {
    lease.execute("DELETE FROM refresh_tokens WHERE client_id = $1", &[&client]).await?;
    lease.execute("DELETE FROM verification_tokens WHERE client_id = $1", &[&client]).await?;
    // A hash that no key has takes the place of each: of random bytes.
    let random = "encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex')";
    let keys = format!(
        "UPDATE api_keys SET name = $2, key_id = NULL, api_key_hash = {random}, hash_kind = 'hmac',
             pepper_version = NULL, allowed_addresses = '{{}}', revoked_at = coalesce(revoked_at, $3)
         WHERE client_id = $1"
    );
    let keys = lease.execute(&keys, &[&client, &ERASED, &at]).await?;
    // The public part of a text may not be empty, or another's.
    let tokens = format!(
        "UPDATE admin_tokens SET name = $2, token_id = 'erased_' || id, token_hash = {random},
             revoked_at = coalesce(revoked_at, $3)
         WHERE clients = ARRAY[$1::uuid]"
    );
    let tokens = lease.execute(&tokens, &[&client, &ERASED, &at]).await?;
    Ok(Erased { keys, tokens })
}
