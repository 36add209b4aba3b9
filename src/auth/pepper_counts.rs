//! How many keys need which pepper: what a change of pepper waits for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto::pepper::Pepper;
use crate::store::{Result, Store};

/// A pepper as the store and a process know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pepper)]
pub struct KnownPepper {
    /// Its number, which keys name.
    pub version: i32,
    /// What identifies it without giving it away; null: a key names it, and no process ever had it.
    #[schema(required)]
    pub fingerprint: Option<String>,
    /// Keys that still open something and were hashed with it.
    pub keys: u64,
    /// Whether new keys are hashed with it.
    pub current: bool,
    /// Whether keys hashed with it are still found.
    pub previous: bool,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PepperCounts {
    /// By version.
    pub items: Vec<KnownPepper>,
    /// Keys that came in by SQL and say which pepper they need when they are first used.
    pub unknown: u64,
}

impl PepperCounts {
    /// Every pepper that the store has seen or a key names, and how many keys name none. `current` and
    /// `previous` are those of whoever asks.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(
        store: &Store,
        current: Option<&Pepper>,
        previous: Option<&Pepper>,
        now: Timestamp,
    ) -> Result<Self> {
        let counts = store.rotation.count_hashes(now).await?;
        let mut fingerprints: BTreeMap<i32, Option<String>> =
            store.peppers.list().await?.into_iter().map(|record| (record.version, Some(record.fingerprint))).collect();
        for (version, _) in &counts.by_version {
            fingerprints.entry(*version).or_default();
        }
        let (current, previous) = (current.map(Pepper::fingerprint), previous.map(Pepper::fingerprint));
        let items = fingerprints.into_iter().map(|(version, fingerprint)| KnownPepper {
            version,
            keys: counts.by_version.iter().find(|(other, _)| *other == version).map_or(0, |(_, keys)| *keys),
            current: fingerprint.is_some() && fingerprint == current,
            previous: fingerprint.is_some() && fingerprint == previous,
            fingerprint,
        });
        Ok(Self { items: items.collect(), unknown: counts.unknown })
    }

    /// Keys that another pepper than the current one is needed for.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.items.iter().filter(|one| !one.current).map(|one| one.keys).sum()
    }
}
