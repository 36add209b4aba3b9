//! `changes`: the feed.
//!
//! SQLite has one writer at a time, so `seq` rises in the order of commits and a reader only
//! keeps the last it saw. `PRAGMA data_version` tells without touching a table whether another
//! connection committed anything since, which makes an idle poll almost free.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use uuid::Uuid;

use super::error::Failure;
use super::lane::{Access, LOOK_UP, Lane, WRITE};
use super::{Sqlite, time};
use crate::store::changes::{Change, MOST_CHANGES, push_row};
use crate::store::{ChangeReader, ChangeStore, Result};

#[async_trait]
impl ChangeStore for Sqlite {
    async fn follow(&self) -> Result<Box<dyn ChangeReader>> {
        // A connection of its own: `data_version` counts what *others* committed.
        let lane = Lane::open(&Arc::clone(&self.path), Access::Read, 1).await?;
        let position = lane
            .run("follow changes", LOOK_UP, |connection| {
                let data_version = data_version(connection)?;
                Ok(Position { data_version, last: newest(connection)? })
            })
            .await?;
        Ok(Box::new(Reader { lane, position }))
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        let delete = move |connection: &mut Connection| {
            let deleted = connection
                .execute("DELETE FROM changes WHERE replace(changed_at, ' ', 'T') < ?1", [time::text(before)])?;
            Ok(deleted as u64)
        };
        self.writer.run("prune changes", WRITE, delete).await
    }
}

struct Reader {
    lane: Lane,
    position: Position,
}

#[derive(Clone, Copy)]
struct Position {
    data_version: i64,
    last: i64,
}

#[async_trait]
impl ChangeReader for Reader {
    async fn poll(&mut self) -> Result<Vec<Change>> {
        let from = self.position;
        // The position moves only when the answer arrives: an answer lost to a time-out is
        // given again.
        let (position, changes) =
            self.lane.run("poll changes", LOOK_UP, move |connection| changes_since(connection, from)).await?;
        self.position = position;
        Ok(changes)
    }
}

fn changes_since(connection: &mut Connection, from: Position) -> std::result::Result<(Position, Vec<Change>), Failure> {
    // Read before the rows: a commit in between is seen again, not missed.
    let data_version = data_version(connection)?;
    if data_version == from.data_version {
        return Ok((from, Vec::new()));
    }
    let newest = newest(connection)?;
    if newest < from.last {
        // An older copy was restored into the file: nothing remembered can be trusted.
        return Ok((Position { data_version, last: newest }, vec![Change::All]));
    }
    let mut statement = connection.prepare_cached(
        // What happened to one again and again is told once: nobody's many changes void everybody's.
        "SELECT max(seq), kind, client_id, api_key_id FROM changes WHERE seq > ?1
         GROUP BY kind, client_id, api_key_id ORDER BY 1 LIMIT ?2",
    )?;
    let mut rows = statement.query((from.last, i64::from(MOST_CHANGES) + 1))?;
    let mut last = from.last;
    let mut changes = Vec::new();
    let mut read = 0_u32;
    while let Some(row) = rows.next()? {
        read += 1;
        last = row.get(0)?;
        let kind: String = row.get(1)?;
        let id = |text: Option<String>| text.and_then(|text| Uuid::parse_str(&text).ok());
        push_row(&mut changes, &kind, id(row.get(2)?), id(row.get(3)?));
    }
    if read > u32::from(MOST_CHANGES) {
        return Ok((Position { data_version, last: newest.max(last) }, vec![Change::All]));
    }
    Ok((Position { data_version, last }, changes))
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// The highest number ever given, also when its row was pruned.
fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .query_row("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes'", [], |row| row.get(0))
}
