//! Raw keys in `clients.api_key`, as an older application kept them.
//!
//! Only a database that was adopted has them (PostgreSQL). What is read here is a secret: it is
//! handed on as one, and only hashes go back to the database.

use async_trait::async_trait;

use super::Result;
use crate::model::id::ClientId;
use crate::model::key::KeyHash;
use crate::model::secret::SecretText;

/// What the keys are called that the backfill makes.
pub const MIGRATED_NAME: &str = "migrated-legacy";

/// A client's row at the moment it was read: a later write makes it another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowVersion {
    /// Whose row.
    pub client: ClientId,
    /// Which version of it.
    pub version: i64,
}

/// A raw key.
#[derive(Clone, Debug)]
pub struct RawKey {
    /// Where it was read.
    pub row: RowVersion,
    /// The key.
    pub text: SecretText,
}

/// The hashes of a raw key.
#[derive(Clone, Copy, Debug)]
pub struct MigratedKey {
    /// Where the raw key was read.
    pub row: RowVersion,
    /// Its hash under the current pepper, to be stored.
    pub hash: KeyHash,
    /// Its hash under the other live pepper. Where it is stored already, nothing is added.
    pub other: Option<KeyHash>,
}

/// Raw keys in `clients.api_key`.
#[async_trait]
pub trait LegacyStore: Send + Sync {
    /// Whether the column is there.
    async fn is_present(&self) -> Result<bool>;
    /// How many clients have a raw key.
    async fn count(&self) -> Result<u64>;
    /// Raw keys in the order of their clients' ids, after the one named.
    async fn raw_keys(&self, after: Option<ClientId>, limit: u32) -> Result<Vec<RawKey>>;
    /// Stores the hashes as keys named [`MIGRATED_NAME`], made when their clients were. Leaves out
    /// hashes that are there and rows that changed since they were read; returns how many were new.
    async fn migrate(&self, keys: &[MigratedKey], pepper_version: i32) -> Result<u64>;
    /// Those of `hashes` that are stored as keys, and whose they are.
    async fn owners(&self, hashes: &[KeyHash]) -> Result<Vec<(KeyHash, ClientId)>>;
    /// Lets the column be empty, and empties it where it holds an empty text.
    async fn allow_absence(&self) -> Result<()>;
    /// Forgets the raw keys of these rows, unless they changed since they were read; returns how
    /// many were forgotten.
    async fn forget(&self, rows: &[RowVersion]) -> Result<u64>;
}
