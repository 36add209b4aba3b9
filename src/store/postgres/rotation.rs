//! `nodes`, and the hashes of credentials while a pepper changes. Ages are measured on the server's
//! clock, which all processes share.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::pool::{Params, WORK};
use super::row::{Columns, all};
use crate::model::id::ClientId;
use crate::store::rotation::{
    HashCounts, HashMove, KEPT_SECONDS, LIVE_SECONDS, MoveTarget, Moved, NodeRecord, RotationStore,
};
use crate::store::{Result, StoreError};

/// A row that another process holds is waited for, rows in the order of their ids, so that moves
/// never wait in a circle: another's move, or a note of a key's last use, which itself waits for
/// nobody. After the wait a row that was moved meanwhile fits no more.
const MOVE: &str = "
    WITH batch (old, new, kind) AS (SELECT * FROM unnest($1::text[], $2::text[], $7::text[])),
    blocked AS (
        SELECT FROM nodes
        WHERE seen_at > now() - $6 * interval '1 second' AND pepper <> $4
          AND ($5 OR pepper_previous IS DISTINCT FROM $4)),
    of_keys AS (
        SELECT k.id, batch.new FROM api_keys k JOIN batch ON k.api_key_hash = batch.old AND k.hash_kind = batch.kind
        WHERE NOT EXISTS (SELECT FROM blocked)
          AND NOT EXISTS (SELECT FROM api_keys other WHERE other.api_key_hash = batch.new)
        ORDER BY k.id FOR UPDATE OF k),
    of_clients AS (
        SELECT c.id, batch.new FROM clients c JOIN batch ON c.api_key_hash = batch.old AND batch.kind = 'hmac'
        WHERE NOT EXISTS (SELECT FROM blocked)
          AND NOT EXISTS (SELECT FROM clients other WHERE other.api_key_hash = batch.new)
        ORDER BY c.id FOR UPDATE OF c),
    keys AS (
        UPDATE api_keys k SET api_key_hash = of_keys.new, hash_kind = 'hmac', pepper_version = $3, rehashes = rehashes + 1
        FROM of_keys WHERE k.id = of_keys.id RETURNING 1),
    owners AS (
        UPDATE clients c SET api_key_hash = of_clients.new, api_key_pepper_version = $3,
            api_key_rehashes = api_key_rehashes + 1
        FROM of_clients WHERE c.id = of_clients.id RETURNING 1)
    SELECT (SELECT count(*) FROM keys) + (SELECT count(*) FROM owners), EXISTS (SELECT FROM blocked)";

const COUNT: &str = "
    SELECT pepper_version, count(*)
    FROM (
        SELECT pepper_version FROM api_keys
        WHERE (revoked_at IS NULL OR revoked_at > $1) AND (expires_at IS NULL OR expires_at > $1)
        UNION ALL
        SELECT api_key_pepper_version FROM clients WHERE api_key_hash IS NOT NULL) AS credentials
    GROUP BY 1
    ORDER BY 1";

#[async_trait]
impl RotationStore for Postgres {
    async fn announce(&self, node: &NodeRecord) -> Result<()> {
        let statement = "INSERT INTO nodes (id, name, pepper, pepper_previous) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET seen_at = now()";
        let values: Params<'_> = &[&node.id, &node.name, &node.pepper, &node.pepper_previous];
        let mut lease = self.work.lease("announce node", WORK).await?;
        lease.execute(statement, values).await?;
        let prune = "DELETE FROM nodes WHERE seen_at < now() - $1 * interval '1 second'";
        lease.execute(prune, &[&f64::from(KEPT_SECONDS)]).await?;
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<()> {
        let mut lease = self.work.lease("forget node", WORK).await?;
        lease.execute("DELETE FROM nodes WHERE id = $1", &[&id]).await?;
        Ok(())
    }

    async fn unaware(&self, fingerprint: &str) -> Result<Vec<String>> {
        let statement = "SELECT name FROM nodes
             WHERE seen_at > now() - $2 * interval '1 second' AND pepper <> $1 AND pepper_previous IS DISTINCT FROM $1
             ORDER BY name";
        let mut lease = self.work.lease("list nodes", WORK).await?;
        let rows = lease.rows(statement, &[&fingerprint, &f64::from(LIVE_SECONDS)]).await?;
        all("nodes", &rows, |row| row.take("name"))
    }

    async fn move_hashes(&self, moves: &[HashMove], target: &MoveTarget) -> Result<Moved> {
        let (old, new): (Vec<String>, Vec<String>) =
            moves.iter().map(|one| (one.old.to_hex(), one.new.to_hex())).unzip();
        let kinds: Vec<&str> = moves.iter().map(|one| one.kind.as_str()).collect();
        let live = f64::from(LIVE_SECONDS);
        let values: Params<'_> =
            &[&old, &new, &target.version, &target.fingerprint, &target.everywhere_current, &live, &kinds];
        let mut lease = self.work.lease("move hashes", WORK).await?;
        let rows = lease.rows(MOVE, values).await?;
        let mut row = Columns::of("api_keys", &rows[0]);
        let moved: i64 = row.take("api_key_hash")?;
        Ok(if row.take("seen_at")? { Moved::Blocked } else { Moved::Rows(moved.unsigned_abs()) })
    }

    async fn note_client_pepper_version(&self, client: ClientId, version: i32) -> Result<()> {
        let statement = "UPDATE clients SET api_key_pepper_version = $2
             WHERE id = $1 AND api_key_hash IS NOT NULL AND api_key_pepper_version IS NULL";
        let mut lease = self.work.lease("note pepper version", WORK).await?;
        lease.execute(statement, &[&client.0, &version]).await?;
        Ok(())
    }

    async fn count_hashes(&self, now: Timestamp) -> Result<HashCounts> {
        let mut lease = self.work.lease("count hashes", WORK).await?;
        let rows = lease.rows(COUNT, &[&now]).await?;
        let counts = all("api_keys", &rows, |row| {
            let version: Option<i32> = row.take("pepper_version")?;
            let count: i64 = row.take("count")?;
            Ok::<_, StoreError>((version, count.unsigned_abs()))
        })?;
        Ok(counts.into())
    }
}
