//! `changes`: the feed.
//!
//! Numbers are handed out before transactions commit, so a reader that kept only the highest
//! `seq` would step over a transaction still running. This one keeps the *horizon*: the oldest
//! transaction that was running when it last looked. Everything below is settled and was seen;
//! every row at or above is read again, and those reported already are left out. No lock is
//! taken, so nothing can hold up an emergency revocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::pool::{Connections, LOOK_UP, WORK};
use super::row::Columns;
use super::{Postgres, pool};
use crate::store::changes::{Change, MOST_CHANGES, push_row};
use crate::store::{ChangeReader, ChangeStore, Result, StoreError};

/// The horizon of now, and what is settled above it. One statement, so one snapshot.
const START: &str = "
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text, c.seq, c.xid::text
    FROM (VALUES (1)) AS always
    LEFT JOIN changes c ON c.xid >= pg_snapshot_xmin(pg_current_snapshot())";

/// The horizon of now, and the rows above the one of last time that were not reported yet.
const POLL: &str = "
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text, c.seq, c.xid::text, c.kind, c.client_id, c.api_key_id
    FROM (VALUES (1)) AS always
    LEFT JOIN (
        SELECT * FROM changes WHERE xid >= $1::text::xid8 AND seq <> ALL ($2) ORDER BY seq LIMIT $3
    ) AS c ON true";

#[async_trait]
impl ChangeStore for Postgres {
    async fn follow(&self) -> Result<Box<dyn ChangeReader>> {
        let connections = Arc::clone(&self.look_ups);
        let position = Position::of_now(&mut connections.lease("follow changes", LOOK_UP).await?).await?;
        Ok(Box::new(Reader { connections, position }))
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("prune changes", WORK).await?;
        lease.execute("DELETE FROM changes WHERE changed_at < $1", &[&before]).await
    }
}

struct Reader {
    connections: Arc<Connections>,
    position: Position,
}

#[async_trait]
impl ChangeReader for Reader {
    async fn poll(&mut self) -> Result<Vec<Change>> {
        let mut lease = self.connections.lease("poll changes", LOOK_UP).await?;
        let reported: Vec<i64> = self.position.reported.keys().copied().collect();
        let most = i64::from(MOST_CHANGES) + 1;
        let rows = lease.rows(POLL, &[&self.position.horizon.to_string(), &reported, &most]).await?;
        let mut changes = Vec::new();
        let mut next = Position { horizon: self.position.horizon, reported: BTreeMap::new() };
        for row in &rows {
            let mut row = Columns::of("changes", row);
            let Some((seq, xid)) = next.read(&mut row)? else { continue };
            let kind: Option<&str> = row.take("kind")?;
            push_row(&mut changes, kind.unwrap_or_default(), row.take("client_id")?, row.take("api_key_id")?);
            next.reported.insert(seq, xid);
        }
        // Transaction numbers that fall mean another server's history (a restored dump, a
        // fail-over that lost commits): what this reader remembers says nothing about it.
        if rows.len() > usize::from(MOST_CHANGES) || next.horizon < self.position.horizon {
            self.position = Position::of_now(&mut lease).await?;
            return Ok(vec![Change::All]);
        }
        next.reported.append(&mut self.position.reported);
        next.reported.retain(|_, xid| *xid >= next.horizon);
        self.position = next;
        Ok(changes)
    }
}

/// Where a reader stands.
struct Position {
    /// No transaction below was running.
    horizon: u64,
    /// Rows at or above that were reported, with their transactions.
    reported: BTreeMap<i64, u64>,
}

impl Position {
    /// Everything committed so far counts as reported.
    async fn of_now(lease: &mut pool::Lease) -> Result<Self> {
        let rows: Vec<Row> = lease.rows(START, &[]).await?;
        let mut position = Self { horizon: 0, reported: BTreeMap::new() };
        for row in &rows {
            if let Some((seq, xid)) = position.read(&mut Columns::of("changes", row))? {
                position.reported.insert(seq, xid);
            }
        }
        Ok(position)
    }

    /// Reads the horizon, and number and transaction of the row if there is one.
    fn read(&mut self, row: &mut Columns<'_>) -> Result<Option<(i64, u64)>> {
        self.horizon = transaction(row.take("xid")?)?;
        let seq: Option<i64> = row.take("seq")?;
        let xid: Option<&str> = row.take("xid")?;
        match (seq, xid) {
            (Some(seq), Some(xid)) => Ok(Some((seq, transaction(xid)?))),
            _ => Ok(None),
        }
    }
}

fn transaction(text: &str) -> Result<u64> {
    text.parse().map_err(|_| StoreError::corrupt("changes", "xid", format!("`{text}` is no transaction")))
}
