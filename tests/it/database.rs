//! A PostgreSQL database for tests that are not async: they run a whole program beside it.

use tokio::runtime::Runtime;
use tokio_postgres::Row;

use crate::postgres::{Database, PrivatePostgres, connect};

/// A database of its own; dropped with the test.
pub(crate) struct TestDatabase {
    runtime: Runtime,
    url: String,
    database: Option<Database>,
}

impl TestDatabase {
    /// Makes one on the shared server.
    pub(crate) fn create() -> Self {
        let runtime = runtime();
        let database = runtime.block_on(Database::create());
        Self { runtime, url: database.url.clone(), database: Some(database) }
    }

    /// The superuser's database of a server that is the test's own.
    pub(crate) fn of(server: &PrivatePostgres) -> Self {
        Self { runtime: runtime(), url: server.url().to_owned(), database: None }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Runs statements, as `psql` would.
    pub(crate) fn execute(&self, sql: &str) {
        self.runtime.block_on(async { connect(&self.url).await.batch_execute(sql).await.unwrap() });
    }

    /// What is said of a statement that must be refused.
    pub(crate) fn refusal(&self, sql: &str) -> String {
        let refused = self.runtime.block_on(async { connect(&self.url).await.batch_execute(sql).await.unwrap_err() });
        refused.as_db_error().map_or_else(|| refused.to_string(), |said| said.message().to_owned())
    }

    /// Runs a query.
    pub(crate) fn query(&self, sql: &str) -> Vec<Row> {
        self.runtime.block_on(async { connect(&self.url).await.query(sql, &[]).await.unwrap() })
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Some(database) = self.database.take() {
            self.runtime.block_on(database.remove());
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
