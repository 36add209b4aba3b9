//! A store of each kind, empty, with a way around it: raw SQL, as an operator would write it.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;

use crate::postgres::{self, Database};
use octroi::config::store::{StoreConfig, StoreUrl};
use octroi::model::secret::SecretText;
use octroi::store::{self, Store};

/// An empty store that one test owns.
pub(crate) struct Place {
    url: StoreUrl,
    kind: Kind,
}

enum Kind {
    Sqlite { path: PathBuf, _folder: tempfile::TempDir },
    Postgres(Database),
}

impl Place {
    /// A file in a folder that does not exist yet.
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/on/demand/octroi.db");
        Self { url: StoreUrl::Sqlite(path.clone()), kind: Kind::Sqlite { path, _folder: folder } }
    }

    /// A database on the shared server.
    pub(crate) async fn postgres() -> Self {
        let database = Database::create().await;
        Self { url: StoreUrl::Postgres(SecretText::new(database.url.clone())), kind: Kind::Postgres(database) }
    }

    /// A handle as another process would have it. No tables yet.
    pub(crate) async fn open(&self) -> Store {
        open(self.url.clone()).await
    }

    /// A handle, with all migrations applied.
    pub(crate) async fn migrated(&self) -> Store {
        let store = self.open().await;
        store.migrations.up(false).await.unwrap();
        store
    }

    /// Runs SQL on a connection of its own; the first value of each row, as text.
    pub(crate) async fn sql(&self, text: &str) -> Result<Vec<String>, String> {
        match &self.kind {
            Kind::Sqlite { path, .. } => sqlite(path, text).map_err(|error| error.to_string()),
            Kind::Postgres(database) => {
                let client = postgres::connect(&database.url).await;
                let messages = client.simple_query(text).await.map_err(|error| match error.as_db_error() {
                    Some(said) => said.message().to_owned(),
                    None => error.to_string(),
                })?;
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
                    _ => None,
                });
                Ok(rows.collect())
            }
        }
    }

    /// Runs SQL that must work.
    pub(crate) async fn must(&self, text: &str) -> Vec<String> {
        self.sql(text).await.unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The address, for PostgreSQL.
    pub(crate) fn postgres_url(&self) -> Option<&str> {
        match &self.kind {
            Kind::Sqlite { .. } => None,
            Kind::Postgres(database) => Some(&database.url),
        }
    }

    /// The file, for SQLite.
    pub(crate) fn sqlite_path(&self) -> Option<&std::path::Path> {
        match &self.kind {
            Kind::Sqlite { path, .. } => Some(path),
            Kind::Postgres(_) => None,
        }
    }

    /// The folder of this store's migrations.
    pub(crate) fn dialect(&self) -> &'static str {
        match self.kind {
            Kind::Sqlite { .. } => "sqlite",
            Kind::Postgres(_) => "postgres",
        }
    }

    /// Removes what was made.
    pub(crate) async fn remove(self) {
        if let Kind::Postgres(database) = self.kind {
            database.remove().await;
        }
    }
}

/// Opens a store by its address alone.
pub(crate) async fn open(url: StoreUrl) -> Store {
    let config = StoreConfig { url, migrate: false, start_timeout: Duration::from_secs(30) };
    store::open(&config).await.unwrap()
}

fn sqlite(path: &std::path::Path, text: &str) -> rusqlite::Result<Vec<String>> {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut found = Vec::new();
    let mut batch = rusqlite::Batch::new(&connection, text);
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.push(match row.get::<_, rusqlite::types::Value>(0)? {
                rusqlite::types::Value::Null => String::new(),
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Real(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Blob(_) => panic!("no column of ours holds a blob"),
            });
        }
    }
    Ok(found)
}

/// Makes a test of each function, on each store: `on_both!(name, …)`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let place = $crate::stores::Place::sqlite();
                super::$name(&place).await;
                place.remove().await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let place = $crate::stores::Place::postgres().await;
                super::$name(&place).await;
                place.remove().await;
            })*
        }
    };
}
pub(crate) use on_both;
