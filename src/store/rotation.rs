//! What a change of pepper needs: which processes live and what they know, moving a hash from one
//! pepper to the other, and counting what is left.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Result;
use crate::model::id::ClientId;
use crate::model::key::{HashKind, KeyHash};

/// A process that serves.
#[derive(Clone, Debug)]
pub struct NodeRecord {
    /// Of the process, not of the machine.
    pub id: Uuid,
    /// The machine's name.
    pub name: String,
    /// The current pepper's fingerprint.
    pub pepper: String,
    /// The other one's.
    pub pepper_previous: Option<String>,
}

/// The same raw key's hash in two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashMove {
    /// How what is stored was made: under another pepper, or without one (imports).
    pub kind: HashKind,
    /// What is stored.
    pub old: KeyHash,
    /// What takes its place.
    pub new: KeyHash,
}

/// The pepper that hashes are moved to.
#[derive(Clone, Debug)]
pub struct MoveTarget {
    /// Its number.
    pub version: i32,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whether every live process must have it as its current one. Else it is enough that each
    /// knows it.
    pub everywhere_current: bool,
}

/// What became of an attempt to move hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many rows were changed.
    Rows(u64),
    /// Nothing was: a live process would not find them any more.
    Blocked,
}

/// How many credentials were hashed under which pepper. Only those that still open something: not
/// revoked, not expired; a client's own legacy hash counts as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashCounts {
    /// By the pepper's version, rising.
    pub by_version: Vec<(i32, u64)>,
    /// Those that came in by SQL and were not used yet.
    pub unknown: u64,
}

/// Changes of pepper.
#[async_trait]
pub trait RotationStore: Send + Sync {
    /// Says that a process lives and what it knows. Forgets processes that are long gone.
    async fn announce(&self, node: &NodeRecord) -> Result<()>;
    /// Says that a process ends.
    async fn leave(&self, id: Uuid) -> Result<()>;
    /// Names of live processes that do not know the pepper of this fingerprint: to them, what is
    /// hashed with it is unknown.
    async fn unaware(&self, fingerprint: &str) -> Result<Vec<String>>;
    /// Replaces hashes, of keys and of clients, in one atomic step with the look at the live
    /// processes. Not a change in the sense of the feed. A hash that is gone, and one whose new
    /// form is there already, are left out.
    async fn move_hashes(&self, moves: &[HashMove], target: &MoveTarget) -> Result<Moved>;
    /// Notes which pepper a client's own legacy hash was found to be made with, unless that is
    /// known. Not a change in the sense of the feed.
    async fn note_client_pepper_version(&self, client: ClientId, version: i32) -> Result<()>;
    /// Counts credentials by the pepper they need.
    async fn count_hashes(&self, now: Timestamp) -> Result<HashCounts>;
}

/// So long after it was last seen a process counts as live.
pub(super) const LIVE_SECONDS: u32 = 30;

/// So long after it was last seen its row is deleted.
pub(super) const KEPT_SECONDS: u32 = 3_600;

impl From<Vec<(Option<i32>, u64)>> for HashCounts {
    fn from(rows: Vec<(Option<i32>, u64)>) -> Self {
        let unknown = rows.iter().filter(|(version, _)| version.is_none()).map(|(_, count)| count).sum();
        let by_version = rows.into_iter().filter_map(|(version, count)| Some((version?, count))).collect();
        Self { by_version, unknown }
    }
}
