//! Where clients, keys and usage live: one object-safe trait a concern, one folder a database.
//!
//! Owns: the only SQL in the program. Refuses to own: product rules (whether a key is good,
//! what a limit means), which belong to `auth`, `limit` and `metering`.
//!
//! To add a store: a folder beside `sqlite/` that implements the traits below, an arm in
//! [`open`], a folder under `migrations/`. The contract suite (`tests/it/store_contract.rs`)
//! runs on every store and says what was forgotten.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub mod audit;
pub mod audit_trail;
pub mod changes;
mod columns;
pub mod erasure;
mod error;
pub mod events;
pub mod idempotency;
pub mod journals;
mod last_used;
pub mod legacy;
pub mod migrate;
pub mod months;
pub mod operators;
pub mod plans;
mod postgres;
pub mod rotation;
pub mod scratch;
mod sqlite;
pub mod tokens;
mod trail;

pub use error::{Source, StoreError};

use crate::config::store::StoreConfig;
use crate::model::audit::Author;
use crate::model::client::{Client, ClientChange, NewClient};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, CredentialRecord, ImportedKey, KeyChange, KeyHash, NewApiKey, NotRotated, Rotation};
use crate::model::usage::{RejectedCount, UsageEvent};

/// The answer of a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An open store: a handle per concern. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// `clients`
    pub clients: Arc<dyn ClientStore>,
    /// `api_keys`
    pub keys: Arc<dyn KeyStore>,
    /// `usage_events` and `usage_hourly`
    pub usage: Arc<dyn UsageStore>,
    /// `peppers`
    pub peppers: Arc<dyn PepperStore>,
    /// `changes`
    pub changes: Arc<dyn ChangeStore>,
    /// Raw keys in `clients.api_key`; none where no older database can be adopted.
    pub legacy: Option<Arc<dyn legacy::LegacyStore>>,
    /// `nodes`, and hashes while a pepper changes
    pub rotation: Arc<dyn rotation::RotationStore>,
    /// `verification_tokens` and `refresh_tokens`
    pub tokens: Arc<dyn tokens::TokenStore>,
    /// `plans`
    pub plans: Arc<dyn plans::PlanStore>,
    /// Single rows of `usage_events`
    pub events: Arc<dyn events::EventStore>,
    /// What quotas are counted from
    pub quotas: Arc<dyn plans::QuotaStore>,
    /// `journals`
    pub journals: Arc<dyn journals::JournalStore>,
    /// Closed months
    pub months: Arc<dyn months::MonthStore>,
    /// Whether the books balance
    pub audit: Arc<dyn audit::AuditStore>,
    /// `octroi_migrations`
    pub migrations: Arc<dyn MigrationStore>,
    /// `operators` and their sessions
    pub operators: Arc<dyn operators::OperatorStore>,
    /// `admin_tokens`
    pub admin_tokens: Arc<dyn operators::AdminTokenStore>,
    /// `audit`: who changed what
    pub trail: Arc<dyn audit_trail::AuditTrail>,
    /// Clients whose data go, and went
    pub erasure: Arc<dyn erasure::ErasureStore>,
    /// `idempotency_keys`
    pub idempotency: Arc<dyn idempotency::IdempotencyStore>,
    /// What other handles are made of.
    place: Arc<dyn Place>,
}

/// A database that handles are made of.
trait Place: Send + Sync {
    /// A handle whose changes are `author`'s.
    fn held_by(&self, author: Author) -> Store;
}

impl Store {
    /// A handle whose changes are `author`'s: each writes its row of the audit in its own
    /// transaction. The store as [`open`] gives it acts for the gateway itself.
    #[must_use]
    pub fn acting_as(&self, author: Author) -> Self {
        self.place.held_by(author)
    }
}

/// Opens the store that `config.url` names. Connects lazily: an unreachable server shows at the
/// first call, as [`StoreError::Unavailable`], not here.
///
/// # Errors
/// An address that cannot be understood, or a file that cannot be created.
pub async fn open(config: &StoreConfig) -> Result<Store> {
    match &config.url {
        crate::config::store::StoreUrl::Sqlite(path) => sqlite::open(path).await,
        crate::config::store::StoreUrl::Postgres(address) => postgres::open(address).await,
    }
}

/// A page of a list, by cursor.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows, oldest first.
    pub items: Vec<T>,
    /// Whether more follow the last of them.
    pub more: bool,
}

impl<T> Page<T> {
    /// A page of rows of which one more than `limit` was asked for.
    fn cut(mut items: Vec<T>, limit: u32) -> Self {
        let limit = limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        Self { items, more }
    }
}

/// Of the rows that matched, the one that counts: a key before a client's legacy hash, since only
/// a key can be revoked; then in the order of the hashes asked for.
fn preferred(found: Vec<CredentialRecord>, hashes: &[KeyHash]) -> Option<CredentialRecord> {
    let place = |record: &CredentialRecord| hashes.iter().position(|hash| *hash == record.matched);
    found.into_iter().min_by_key(|record| (record.key.is_none(), place(record)))
}

/// Clients.
#[async_trait]
pub trait ClientStore: Send + Sync {
    /// Makes a client.
    async fn create(&self, client: NewClient) -> Result<Client>;
    /// The client with this id.
    async fn find(&self, id: ClientId) -> Result<Option<Client>>;
    /// Those of these clients that are there, each once, in no order. For lists that have ids and show
    /// names; no request waits for it.
    async fn find_many(&self, ids: &[ClientId]) -> Result<Vec<Client>>;
    /// All clients of this name: names are not unique.
    async fn find_by_name(&self, name: &str) -> Result<Vec<Client>>;
    /// Clients in order of (created_at, id), after the one named; after an unknown one, none.
    async fn list(&self, after: Option<ClientId>, limit: u32) -> Result<Page<Client>>;
    /// Changes a client; none: there is no such client.
    async fn update(&self, id: ClientId, change: ClientChange) -> Result<Option<Client>>;
}

/// Keys.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Stores a key. A hash that is there already is a conflict.
    async fn create(&self, key: NewApiKey) -> Result<ApiKey>;
    /// The key, or the client's legacy hash, that matches any of the hashes (one per live
    /// pepper, and the plain one), with its client. One query. A key comes before a legacy hash, then the order of
    /// the hashes decides.
    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>>;
    /// The key with this row id.
    async fn find(&self, id: ApiKeyId) -> Result<Option<ApiKey>>;
    /// The key with this public id.
    async fn find_by_key_id(&self, key_id: &str) -> Result<Option<ApiKey>>;
    /// Keys in order of (created_at, id), of one client or of all, after the one named; after an
    /// unknown one, none.
    async fn list(&self, client: Option<ClientId>, after: Option<ApiKeyId>, limit: u32) -> Result<Page<ApiKey>>;
    /// The keys of a client that work at `at`, newest first.
    async fn working(&self, client: ClientId, at: Timestamp, limit: u32) -> Result<Page<ApiKey>>;
    /// Changes what stands beside a key's text; none: there is no such key.
    async fn update(&self, id: ApiKeyId, change: KeyChange) -> Result<Option<ApiKey>>;
    /// Revokes a key; one revoked already keeps its time, one to be revoked later is revoked at
    /// `at`. None: there is no such key.
    async fn revoke(&self, id: ApiKeyId, at: Timestamp) -> Result<Option<ApiKey>>;
    /// Makes a successor that has everything of the key `id` but its text, names it in
    /// `replaced_by`, and ends the old key as `rotation` says: all or nothing. A key that does not
    /// work at `rotation.at`, or has a successor, stays as it is.
    async fn rotate(&self, id: ApiKeyId, rotation: Rotation) -> Result<std::result::Result<ApiKey, NotRotated>>;
    /// Those of `hashes` that are a key's already.
    async fn known_hashes(&self, hashes: &[KeyHash]) -> Result<Vec<KeyHash>>;
    /// Stores keys that were made elsewhere, all or none; returns how many. A hash that is there
    /// already is a conflict.
    async fn import(&self, keys: Vec<ImportedKey>) -> Result<u64>;
    /// Notes which pepper a row's hash was found to be made with, unless that is known. Not a
    /// change in the sense of the feed.
    async fn note_pepper_version(&self, id: ApiKeyId, version: i32) -> Result<()>;
}

/// Usage.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Inserts the events that are not there yet and adds exactly those to the hourly rollups,
    /// in one atomic step. Returns how many were new. Repeating a batch changes nothing. Moves
    /// `api_keys.last_used_at` of their keys forward, coarsely and as far as it can.
    ///
    /// Hours of a closed month take nothing more: what comes for them is an adjustment
    /// ([`months`]). Events from before the mark of retention are not taken: then the others are,
    /// and the answer is [`StoreError::PastRetention`].
    async fn record(&self, events: &[UsageEvent]) -> Result<u64>;
    /// Adds refusals to the hourly rollups.
    async fn add_rejected(&self, counts: &[RejectedCount]) -> Result<()>;
    /// Sums from the rollups, all of them: for questions whose answer is known to be short.
    async fn sums(&self, query: &UsageQuery) -> Result<Vec<UsageSum>>;
    /// A page of the same, in the order of the values of `query.by` as text: after these values, of
    /// which there are as many. `query.by` is not empty.
    async fn sums_page(&self, query: &UsageQuery, after: Option<&[String]>, limit: u32) -> Result<Page<UsageSum>>;
}

/// A column usage can be summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the column it names")]
pub enum UsageColumn {
    Client,
    Key,
    Route,
    Status,
    Outcome,
    Hour,
    Day,
    Month,
}

/// Which usage, summed how. Both times are whole hours.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// From this hour on.
    pub from: Timestamp,
    /// Up to this hour, not including it.
    pub to: Timestamp,
    /// Only this client's.
    pub client: Option<ClientId>,
    /// One row for each combination of these; none: one row in all.
    pub by: Vec<UsageColumn>,
}

/// One sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// The values of `UsageQuery::by`, in its order, as text: ids hyphenated, times RFC 3339 UTC
    /// to the second (`2026-11-22T20:00:00Z`; a day or month by its first hour), statuses decimal.
    pub by: Vec<String>,
    /// Events.
    pub requests: u64,
    /// Units.
    pub units: u64,
    /// Body bytes from callers.
    pub bytes_in: u64,
    /// Body bytes to callers.
    pub bytes_out: u64,
    /// Time spent, in microseconds.
    pub duration_us: u64,
    /// Refusals; not among `requests`.
    pub rejected: u64,
    /// Those that would have been refused, had their route not observed; they are among `requests`.
    pub would_reject: u64,
}

impl UsageSum {
    /// Both together; what they are summed by is the first one's.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.units, other.units),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.duration_us, other.duration_us),
            (&mut self.rejected, other.rejected),
            (&mut self.would_reject, other.would_reject),
        ];
        for (amount, part) in pairs {
            *amount = amount.saturating_add(part);
        }
        self
    }
}

/// Pepper fingerprints, trusted on first use.
#[async_trait]
pub trait PepperStore: Send + Sync {
    /// All that were ever seen, by version.
    async fn list(&self) -> Result<Vec<PepperRecord>>;
    /// Adds a fingerprint under the next free version, unless it is there; returns its version.
    async fn trust(&self, fingerprint: &str) -> Result<i32>;
}

/// A row of `peppers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PepperRecord {
    /// Its number; keys name it.
    pub version: i32,
    /// What identifies it without giving it away.
    pub fingerprint: String,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
}

/// The feed of changes that processes follow, so that a revocation reaches all of them.
#[async_trait]
pub trait ChangeStore: Send + Sync {
    /// A reader that starts now: what was committed before it was made is not reported.
    async fn follow(&self) -> Result<Box<dyn ChangeReader>>;
    /// Deletes change rows older than `before`; returns how many.
    async fn prune(&self, before: Timestamp) -> Result<u64>;
}

/// A position in the feed.
#[async_trait]
pub trait ChangeReader: Send {
    /// Everything committed since the last call. Repeats are allowed, omissions are not.
    async fn poll(&mut self) -> Result<Vec<changes::Change>>;
}

/// Migrations.
#[async_trait]
pub trait MigrationStore: Send + Sync {
    /// Every known migration and when it was applied; also those applied that we do not know.
    async fn status(&self) -> Result<Vec<migrate::MigrationStatus>>;
    /// Applies what is pending, in order, one transaction each, under a lock against a second
    /// runner. With `dry_run` it only says what it would apply.
    async fn up(&self, dry_run: bool) -> Result<Vec<migrate::MigrationStatus>>;
    /// The applied ones whose text differs from ours.
    async fn verify(&self) -> Result<Vec<migrate::Difference>>;
}
