//! Reads the tables as an auditor would: with a database client, not with the gateway's code.

use std::path::{Path, PathBuf};

use crate::database::TestDatabase;

/// An event as the table holds it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) request_id: String,
    pub(crate) status: Option<i64>,
    pub(crate) outcome: String,
    pub(crate) reason: Option<String>,
    pub(crate) bytes_in: i64,
    pub(crate) bytes_out: i64,
}

/// The tables of one store.
pub(crate) enum Books<'a> {
    Sqlite(PathBuf),
    Postgres(&'a TestDatabase),
}

const EVENTS: &str = "SELECT request_id, CAST(status AS bigint), outcome, CAST(bytes_out AS bigint), reason, CAST(bytes_in AS bigint) \
                      FROM usage_events";
const ROLLUP: &str = "SELECT CAST(COALESCE(SUM(requests), 0) AS bigint) FROM usage_hourly WHERE outcome <> 'rejected'";

impl<'a> Books<'a> {
    pub(crate) fn sqlite(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }

    pub(crate) fn postgres(database: &'a TestDatabase) -> Self {
        Self::Postgres(database)
    }

    /// Runs a statement, as an operator would.
    pub(crate) fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).expect("the database opens");
                connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout can be set");
                connection.execute_batch(sql).expect("the statement runs");
            }
            Self::Postgres(database) => database.execute(sql),
        }
    }

    /// The first column of a query, which is text.
    pub(crate) fn text(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).expect("the database opens");
                let mut statement = connection.prepare(sql).expect("the query is one");
                let rows = statement.query_map([], |row| row.get(0)).expect("readable");
                rows.map(|row| row.expect("readable")).collect()
            }
            Self::Postgres(database) => database.query(sql).iter().map(|row| row.get(0)).collect(),
        }
    }

    /// Every event.
    pub(crate) fn events(&self) -> Vec<Event> {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).expect("the database opens");
                let mut statement = connection.prepare(EVENTS).expect("the table is there");
                let rows = statement.query_map([], |row| {
                    Ok(Event {
                        request_id: row.get(0)?,
                        status: row.get(1)?,
                        outcome: row.get(2)?,
                        bytes_out: row.get(3)?,
                        reason: row.get(4)?,
                        bytes_in: row.get(5)?,
                    })
                });
                rows.expect("readable").map(|row| row.expect("readable")).collect()
            }
            Self::Postgres(database) => {
                let read = |row: &tokio_postgres::Row| Event {
                    request_id: row.get(0),
                    status: row.get(1),
                    outcome: row.get(2),
                    bytes_out: row.get(3),
                    reason: row.get(4),
                    bytes_in: row.get(5),
                };
                database.query(EVENTS).iter().map(read).collect()
            }
        }
    }

    /// Requests in the hourly rollups, refusals apart.
    pub(crate) fn rollup_requests(&self) -> u64 {
        let sum: i64 = match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).expect("the database opens");
                connection.query_row(ROLLUP, [], |row| row.get(0)).expect("the table is there")
            }
            Self::Postgres(database) => database.query(ROLLUP)[0].get(0),
        };
        u64::try_from(sum).expect("a count")
    }
}
