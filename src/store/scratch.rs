//! A place of its own beside a store, for a proof that kills and cuts: on the same disk or server,
//! touching nothing that is there, and removed afterwards.
//!
//! On PostgreSQL a schema, on SQLite a file in the same folder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Result, StoreError, postgres, sqlite};
use crate::config::store::StoreUrl;
use crate::model::secret::SecretText;

/// The place.
pub struct Scratch {
    url: StoreUrl,
    /// PostgreSQL: by which the schema is dropped, and its name.
    schema: Option<(SecretText, String)>,
    name: String,
}

impl Scratch {
    /// Makes one called `name` (letters, digits, underscores) beside what `url` names.
    ///
    /// # Errors
    /// The server is away, or its user may not make a schema.
    pub async fn make(url: &StoreUrl, name: &str) -> Result<Self> {
        match url {
            StoreUrl::Sqlite(path) => {
                let path = path.with_file_name(format!("{name}.db"));
                Ok(Self { name: path.display().to_string(), url: StoreUrl::Sqlite(path), schema: None })
            }
            StoreUrl::Postgres(address) => {
                postgres::make_schema(address, name).await?;
                let inside = postgres::inside_schema(address, name);
                let schema = Some((address.clone(), name.to_owned()));
                Ok(Self { url: StoreUrl::Postgres(inside), schema, name: format!("the schema {name}") })
            }
        }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// What it is, in words.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// The server is away; the files cannot be removed.
    pub async fn remove(&self) -> Result<()> {
        match (&self.url, &self.schema) {
            (StoreUrl::Sqlite(path), _) => remove_files(path)
                .map_err(|error| StoreError::Unavailable { operation: "remove a file", source: error.into() }),
            (_, Some((address, name))) => postgres::drop_schema(address, name).await,
            _ => Ok(()),
        }
    }
}

fn remove_files(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Where a PostgreSQL server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerPlace {
    /// A host and its port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// Where the (first) server of a URL listens, and a URL that goes to `near` instead, as its
/// certificate is still judged by the host's own name.
///
/// # Errors
/// The URL cannot be read.
pub fn detour(address: &SecretText, near: SocketAddr) -> Result<(ServerPlace, SecretText)> {
    postgres::detour(address, near)
}

/// Holds the write lock of a SQLite file, as a backup or another program would, until dropped.
pub struct WriteLock(#[expect(dead_code, reason = "held, not used")] sqlite::WriteLock);

impl WriteLock {
    /// Takes it right behind the next writer, if one comes soon.
    ///
    /// # Errors
    /// Somebody else holds it for too long.
    pub fn take(path: &Path) -> Result<Self> {
        sqlite::WriteLock::take(path).map(Self)
    }
}
