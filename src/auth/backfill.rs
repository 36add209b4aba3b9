//! Moves raw keys that an older application kept in `clients.api_key` into `api_keys`, as hashes.
//!
//! In batches, in the order of the clients' ids. Every step may be broken off and done again: what
//! is there already is left out, and a row that was written meanwhile is not the one that was
//! judged and is left for the next time. A running gateway sees a batch as one change.
//!
//! Raw keys stay in here; what comes out are hashes, numbers and ids of clients. A process that reads
//! them can write no core dump from then on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::crypto::core_dumps;
use crate::crypto::key_text::KeyText;
use crate::crypto::pepper::{KeyHashes, Peppers};
use crate::model::audit::Note;
use crate::model::id::ClientId;
use crate::model::key::KeyHash;
use crate::store::legacy::{LegacyStore, MigratedKey, RawKey, RowVersion};
use crate::store::{Result, Store};

/// Large enough that 100,000 keys are 20 changes to a running gateway, small enough for memory.
pub const BATCH: u32 = 5_000;

/// The largest batch.
pub const BATCH_MAX: u32 = 50_000;

/// What is said where there is nothing to do it with.
pub const NO_COLUMN: &str = "this store has no raw keys: its table \"clients\" has no column \"api_key\"";

/// The raw keys of a store; none: its table has no column for them.
///
/// # Errors
/// The store failed, or the column is of another kind.
pub async fn raw_keys(store: &Store) -> Result<Option<Arc<dyn LegacyStore>>> {
    let Some(legacy) = store.legacy.clone() else { return Ok(None) };
    Ok(legacy.is_present().await?.then_some(legacy))
}

/// What raw keys are hashed by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The live peppers.
    pub peppers: Peppers,
    /// The current one's number.
    pub pepper_version: i32,
    /// `auth.prefix`: what claims it must keep our rules.
    pub prefix: String,
}

/// What a backfill works with.
pub struct Backfill {
    legacy: Arc<dyn LegacyStore>,
    rules: Rules,
    /// Clients at a time.
    batch: u32,
}

/// How a raw key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RawKeyStanding)]
pub enum Standing {
    /// Its hash is a key of the same client.
    Migrated,
    /// Its hash is not there yet.
    Missing,
    /// Its hash is another client's key: two clients have the same raw key.
    BelongsToAnother,
    /// The gateway would refuse it unseen: not 8 to 256 visible characters, or claiming our prefix
    /// with wrong check digits.
    NotMigratable,
}

/// A raw key that is not a key of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RawKeyDifference)]
pub struct Difference {
    /// Whose.
    #[serde(rename = "client_id")]
    #[schema(value_type = uuid::Uuid)]
    pub client: ClientId,
    /// Why.
    #[serde(rename = "reason")]
    pub standing: Standing,
}

/// Raw keys, counted by how they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Clients with a raw key.
    pub clients: u64,
    /// Those whose key is migrated.
    pub migrated: u64,
    /// Those of them that this run migrated; in a dry run, would have.
    pub new: u64,
    /// Those yet to be migrated.
    pub missing: u64,
    /// All that are neither and never will be by themselves, and in a verification the missing too.
    pub differences: Vec<Difference>,
}

impl Totals {
    /// How many differences there are of a kind.
    #[must_use]
    pub fn count(&self, standing: Standing) -> u64 {
        count(&self.differences, standing)
    }
}

fn count(differences: &[Difference], standing: Standing) -> u64 {
    differences.iter().filter(|one| one.standing == standing).count() as u64
}

/// How many raw keys there are, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BackfillStatus)]
pub struct Status {
    /// Clients with a raw key.
    pub clients: u64,
    /// Those whose key is migrated.
    pub migrated: u64,
    /// Those yet to be migrated.
    pub remaining: u64,
    /// Those with the raw key of another client.
    pub belongs_to_another: u64,
    /// Those with a raw key that the gateway refuses unseen.
    pub not_migratable: u64,
}

impl From<&Totals> for Status {
    fn from(totals: &Totals) -> Self {
        Self {
            clients: totals.clients,
            migrated: totals.migrated,
            remaining: totals.missing,
            belongs_to_another: totals.count(Standing::BelongsToAnother),
            not_migratable: totals.count(Standing::NotMigratable),
        }
    }
}

/// What a run did, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BackfillRun)]
pub struct Ran {
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Keys that this run made; in a dry run, would have.
    pub new: u64,
    /// Keys that were there.
    pub already: u64,
    /// How it stands now.
    #[serde(flatten)]
    pub status: Status,
}

impl Ran {
    /// Of these totals.
    #[must_use]
    pub fn of(totals: &Totals, dry_run: bool) -> Self {
        let already = totals.migrated.saturating_sub(totals.new);
        Self { dry_run, new: totals.new, already, status: Status::from(totals) }
    }
}

/// Why raw keys are not to be forgotten yet, of so many clients that have one; none: they may be.
#[must_use]
pub fn refusal(clients: u64, differences: &[Difference]) -> Option<String> {
    let counted = |standing, words| {
        let count = count(differences, standing);
        (count > 0).then(|| format!("{count} {words}"))
    };
    let parts: Vec<String> = [
        counted(Standing::Missing, "not migrated yet (run `octroi backfill run`)"),
        counted(Standing::BelongsToAnother, "with the raw key of another client"),
        counted(Standing::NotMigratable, "with a raw key that the gateway refuses unseen"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!differences.is_empty()).then(|| {
        format!(
            "{} of {clients} clients have a raw key that is not a key of theirs: {}. `octroi backfill verify` names \
             them; where a client needs its raw key no longer, set its clients.api_key to null",
            differences.len(),
            parts.join(", ")
        )
    })
}

/// What became of the raw keys at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Nothing was forgotten: these are not keys of their clients.
    Refused(Totals),
    /// So many were forgotten; so many changed meanwhile and are left.
    Forgotten {
        /// Raw keys that are gone.
        forgotten: u64,
        /// Raw keys that are still there.
        left: u64,
    },
}

/// Is told how many clients were looked at.
pub type Progress<'p> = &'p mut (dyn FnMut(u64) + Send);

/// A raw key after a look at it, without it.
#[derive(Clone, Copy, Debug)]
struct Judged {
    row: RowVersion,
    hashes: Option<KeyHashes>,
    standing: Standing,
}

impl Backfill {
    /// One that reads these raw keys, so many clients at a time. From now on this process writes no core
    /// dump, whatever becomes of it.
    ///
    /// # Errors
    /// Core dumps cannot be switched off: then raw keys are not read.
    pub fn new(legacy: Arc<dyn LegacyStore>, rules: Rules, batch: u32) -> std::io::Result<Self> {
        core_dumps::forbid()?;
        Ok(Self { legacy, rules, batch })
    }

    /// How many raw keys there are.
    ///
    /// # Errors
    /// The store failed.
    pub async fn count(&self) -> Result<u64> {
        self.legacy.count().await
    }

    /// One row in the audit for a run (`backfill.run`, `backfill.finish`), before it begins: nothing is
    /// changed without it, wherever it is broken off.
    ///
    /// # Errors
    /// The store failed.
    pub async fn note(&self, action: &'static str, store: &Store) -> Result<()> {
        let raw_keys = self.count().await?;
        store.trail.record(Note::of_run(action, "store", json!({ "raw_keys": raw_keys }))).await
    }

    /// Migrates what is missing; with `dry_run` only says what it would.
    ///
    /// # Errors
    /// The store failed; what was done stays done, and a second run goes on.
    pub async fn run(&self, dry_run: bool, progress: Progress<'_>) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut would_be_there = HashSet::new();
        let mut after = None;
        while let Some(mut batch) = self.read(after).await? {
            after = batch.last().map(|one| one.row.client);
            let keys: Vec<MigratedKey> = batch.iter().filter_map(Judged::missing_key).collect();
            if dry_run {
                for one in batch.iter_mut().filter(|one| one.standing == Standing::Missing) {
                    let new = one.hashes.is_some_and(|hashes| would_be_there.insert(hashes.current()));
                    one.standing = if new { Standing::Migrated } else { Standing::BelongsToAnother };
                    totals.new += u64::from(new);
                }
            } else if !keys.is_empty() {
                totals.new += self.legacy.migrate(&keys, self.rules.pepper_version).await?;
                self.judge(&mut batch).await?;
            }
            totals.add(&batch, false);
            progress(totals.clients);
        }
        Ok(totals)
    }

    /// Looks whether every raw key's hash is a key of its client.
    ///
    /// # Errors
    /// The store failed.
    pub async fn verify(&self, progress: Progress<'_>) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut after = None;
        while let Some(batch) = self.read(after).await? {
            after = batch.last().map(|one| one.row.client);
            totals.add(&batch, true);
            progress(totals.clients);
        }
        Ok(totals)
    }

    /// Forgets the raw keys, if all are migrated; each is looked at once more just before.
    ///
    /// # Errors
    /// The store failed; what was forgotten is gone, and a second run goes on.
    pub async fn finish(&self, progress: Progress<'_>) -> Result<Finished> {
        let verified = self.verify(&mut |_| ()).await?;
        if !verified.differences.is_empty() {
            return Ok(Finished::Refused(verified));
        }
        self.legacy.allow_absence().await?;
        let mut forgotten = 0;
        let mut after = None;
        while let Some(batch) = self.read(after).await? {
            after = batch.last().map(|one| one.row.client);
            let migrated = batch.iter().filter(|one| one.standing == Standing::Migrated);
            forgotten += self.legacy.forget(&migrated.map(|one| one.row).collect::<Vec<_>>()).await?;
            progress(forgotten);
        }
        Ok(Finished::Forgotten { forgotten, left: self.legacy.count().await? })
    }

    /// The next batch, judged; none when there are no more.
    async fn read(&self, after: Option<ClientId>) -> Result<Option<Vec<Judged>>> {
        let raw = self.legacy.raw_keys(after, self.batch).await?;
        if raw.is_empty() {
            return Ok(None);
        }
        let mut batch: Vec<Judged> = raw.iter().map(|key| self.hash(key)).collect();
        drop(raw);
        self.judge(&mut batch).await?;
        Ok(Some(batch))
    }

    fn hash(&self, key: &RawKey) -> Judged {
        let text = key.text.expose().as_bytes();
        let Rules { peppers, prefix, .. } = &self.rules;
        let is_legal = KeyText::parse(prefix, text).is_ok();
        let hashes = is_legal.then(|| peppers.hashes(peppers.current.hash(text), text));
        Judged { row: key.row, hashes, standing: Standing::NotMigratable }
    }

    async fn judge(&self, batch: &mut [Judged]) -> Result<()> {
        let asked: Vec<KeyHash> =
            batch.iter().filter_map(|one| one.hashes.as_ref()).flat_map(|hashes| hashes.as_slice().to_vec()).collect();
        let owners: HashMap<KeyHash, ClientId> = self.legacy.owners(&asked).await?.into_iter().collect();
        for one in batch {
            let Some(hashes) = &one.hashes else { continue };
            let found: Vec<_> = hashes.as_slice().iter().filter_map(|hash| owners.get(hash)).collect();
            one.standing = if found.is_empty() {
                Standing::Missing
            } else if found.iter().all(|owner| **owner == one.row.client) {
                Standing::Migrated
            } else {
                Standing::BelongsToAnother
            };
        }
        Ok(())
    }
}

impl Judged {
    fn missing_key(&self) -> Option<MigratedKey> {
        let hashes = self.hashes.filter(|_| self.standing == Standing::Missing)?;
        Some(MigratedKey { row: self.row, hash: hashes.current(), other: hashes.as_slice().get(1).copied() })
    }
}

impl Totals {
    fn add(&mut self, batch: &[Judged], list_missing: bool) {
        for one in batch {
            self.clients += 1;
            match one.standing {
                Standing::Migrated => self.migrated += 1,
                Standing::Missing => self.missing += 1,
                Standing::BelongsToAnother | Standing::NotMigratable => {}
            }
            let listed = match one.standing {
                Standing::Migrated => false,
                Standing::Missing => list_missing,
                Standing::BelongsToAnother | Standing::NotMigratable => true,
            };
            if listed {
                self.differences.push(Difference { client: one.row.client, standing: one.standing });
            }
        }
    }
}
