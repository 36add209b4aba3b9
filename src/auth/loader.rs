//! One look-up for each missing key, however many wait.
//!
//! A look-up has a deadline of its own ([`flights`](super::flights)), and what it finds is put in
//! the caches before it is announced.
//!
//! A row that was read before a change must not overwrite what is known after it. So the count
//! of changes is noted before the read; if it moved, the row is read again, and what cannot be
//! read undisturbed is used once and not cached. Failures of the store are never cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::cache::{Cached, Dead, Identities, Source, Unknowns};
use super::flights::{Errand, Flights, Joined};
use super::identity;
use super::pepper_guard::PepperVersions;
use super::rehash::Rehasher;
use crate::clients::LiveClients;
use crate::crypto::pepper::{KeyHashes, PepperOrigin};
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::key::{ApiKey, CredentialRecord, HashKind, KeyHash, KeyValidity};
use crate::model::rate::RateLimit;
use crate::store::rotation::{HashMove, RotationStore};
use crate::store::{KeyStore, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// Why there is no key that works.
enum Absent {
    /// None is stored, or its time is over.
    Dead(Dead),
    /// The store's answer was for another question.
    Astray,
}

/// Looks keys up, and remembers what it found.
pub(super) struct Loader {
    pub(super) keys: Arc<dyn KeyStore>,
    pub(super) clients: Arc<LiveClients>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    pub(super) default_limit: RateLimit,
    pub(super) pepper_versions: PepperVersions,
    pub(super) rotation: Arc<dyn RotationStore>,
    pub(super) rehasher: Arc<Rehasher>,
    pub(super) cache_ttl: Duration,
    /// How long one look-up may take, re-reads included.
    pub(super) deadline: Duration,
    pub(super) identities: Arc<Identities>,
    pub(super) unknowns: Arc<Unknowns>,
    pub(super) flights: Arc<Flights<KeyHash, Loaded>>,
    pub(super) suspicion: PepperSuspicion,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    /// It is this.
    Known(Arc<Cached>),
    /// The store knows no such key, or one whose time is over.
    Dead(Dead),
    /// The store could not say.
    Unavailable,
}

impl Loader {
    /// Looks a key up, together with everyone else who wants it. `than` is when the caller's own
    /// knowledge was read: only what was read later will do.
    pub(super) async fn load(self: &Arc<Self>, hashes: KeyHashes, than: Option<Monotonic>, errand: Errand) -> Loaded {
        match self.join(hashes, than, errand) {
            Joined::Flight(flight) => flight.landed().await.unwrap_or(Loaded::Unavailable),
            Joined::Landed(loaded) => loaded,
            Joined::Full => Loaded::Unavailable,
        }
    }

    /// Whether one more may be looked up that nobody waits for.
    pub(super) fn has_room(&self) -> bool {
        self.flights.has_room()
    }

    /// Starts a look-up that nobody waits for.
    pub(super) fn refresh(self: &Arc<Self>, hashes: KeyHashes, than: Monotonic) {
        drop(self.join(hashes, Some(than), Errand::Background));
    }

    fn join(self: &Arc<Self>, hashes: KeyHashes, than: Option<Monotonic>, errand: Errand) -> Joined<Loaded> {
        let hash = hashes.current();
        self.flights.join(
            hash,
            errand,
            &self.tasks,
            || self.landed(&hash, than),
            || {
                let loader = Arc::clone(self);
                async move {
                    timeout(loader.deadline, loader.read(hashes)).await.unwrap_or_else(|_elapsed| {
                        loader.metrics.store_failed(OPERATION);
                        Loaded::Unavailable
                    })
                }
            },
        )
    }

    fn landed(&self, hash: &KeyHash, than: Option<Monotonic>) -> Option<Loaded> {
        match self.identities.find(hash) {
            Some(cached) => {
                let newer = than.is_none_or(|than| cached.loaded_at > than);
                let holds = self.clients.confirm(&cached.principal.client, cached.stamp);
                (newer && holds).then_some(Loaded::Known(cached))
            }
            None if than.is_none() => self.unknowns.find(hash, self.clock.monotonic()).map(Loaded::Dead),
            None => None,
        }
    }

    async fn read(&self, hashes: KeyHashes) -> Loaded {
        for reads_left in (0..READS_MAX).rev() {
            let mark = self.clients.mark();
            let era = self.unknowns.era();
            let began = self.clock.monotonic();
            match self.keys.find_by_hash(hashes.as_slice()).await.map(|found| self.living(found, hashes)) {
                Err(error) => return self.failed(&error),
                Ok(Err(Absent::Astray)) => return Loaded::Unavailable,
                Ok(Err(Absent::Dead(_))) if self.unknowns.era() != era && reads_left > 0 => {}
                Ok(Err(Absent::Dead(dead))) => {
                    self.unknowns.note(hashes.current(), dead, era, began);
                    self.identities.remove(&hashes.current());
                    return Loaded::Dead(dead);
                }
                Ok(Ok((record, origin))) => {
                    let wall = self.clock.wall();
                    let attachment = self.clients.attach(&record.client, self.default_limit, mark, began, wall);
                    if !attachment.current && reads_left > 0 {
                        continue;
                    }
                    self.note_pepper(&record, origin);
                    self.hash_anew(&record, origin, hashes.current());
                    let validity = record.key.as_ref().map_or_else(KeyValidity::default, ApiKey::validity);
                    let may_be_elsewhere = origin != PepperOrigin::Current || hashes.may_move();
                    let source = Source::Key(may_be_elsewhere.then(|| Box::new(hashes)));
                    let principal = Arc::new(identity::principal(&record, attachment.client, began));
                    let cached = Cached::new(
                        principal,
                        attachment.stamp,
                        validity,
                        began,
                        self.cache_ttl,
                        (hashes.current(), source),
                    );
                    let cached = Arc::new(cached);
                    if attachment.current {
                        self.identities.insert(hashes.current(), Arc::clone(&cached));
                    }
                    return Loaded::Known(cached);
                }
            }
        }
        unreachable!("the last read returns whatever it finds")
    }

    /// The row of a key that works, and how its hash was made.
    fn living(
        &self,
        found: Option<CredentialRecord>,
        hashes: KeyHashes,
    ) -> Result<(CredentialRecord, PepperOrigin), Absent> {
        let Some(record) = found else {
            self.suspicion.unknown();
            return Err(Absent::Dead(Dead::UNKNOWN));
        };
        let Some(origin) = hashes.origin(record.matched) else {
            tracing::error!(client = %record.client.id, "the store answered with another key's row");
            return Err(Absent::Astray);
        };
        self.suspicion.known();
        if !was_made_so(&record, origin) {
            return Err(Absent::Dead(Dead::UNKNOWN));
        }
        match Dead::of(&record, self.clock.wall()) {
            None => Ok((record, origin)),
            Some(dead) => Err(Absent::Dead(dead)),
        }
    }

    fn failed(&self, error: &StoreError) -> Loaded {
        self.metrics.store_failed(OPERATION);
        let cause = error as &dyn std::error::Error;
        if error.is_transient() {
            tracing::debug!(error = cause, "a key could not be looked up");
        } else {
            tracing::error!(error = cause, "a key could not be looked up, and trying again will not help");
        }
        Loaded::Unavailable
    }

    /// Rows that came in by SQL do not say which pepper they were hashed with; now it is known.
    fn note_pepper(&self, record: &CredentialRecord, origin: PepperOrigin) {
        if record.pepper_version.is_some() {
            return;
        }
        let version = match origin {
            PepperOrigin::Current => Some(self.pepper_versions.current),
            PepperOrigin::Previous => self.pepper_versions.previous,
            PepperOrigin::Unpeppered => None,
        };
        let Some(version) = version else { return };
        let (keys, rotation, metrics) = (Arc::clone(&self.keys), Arc::clone(&self.rotation), Arc::clone(&self.metrics));
        let (key, client) = (record.key.as_ref().map(|key| key.id), record.client.id);
        self.tasks.spawn_control(async move {
            let noted = match key {
                Some(key) => keys.note_pepper_version(key, version).await,
                None => rotation.note_client_pepper_version(client, version).await,
            };
            if let Err(error) = noted {
                metrics.store_failed("keys.note_pepper_version");
                tracing::debug!(error = &error as &dyn std::error::Error, "the pepper's version was not noted");
            }
        });
    }
}

impl Loader {
    /// What was found in another form than ours is stored in ours from now on, off the request
    /// path. Its identity stays what it is, so nobody waits and no cache is voided.
    fn hash_anew(&self, record: &CredentialRecord, origin: PepperOrigin, new: KeyHash) {
        let kind = match origin {
            PepperOrigin::Current => return,
            PepperOrigin::Previous => HashKind::Hmac,
            PepperOrigin::Unpeppered => HashKind::Sha256,
        };
        self.rehasher.push(HashMove { kind, old: record.matched, new });
    }
}

/// Whether the row says that its hash was made in the way in which it matched. A client's legacy
/// hash is an HMAC: its plain SHA-256 in that column is no credential.
fn was_made_so(record: &CredentialRecord, origin: PepperOrigin) -> bool {
    let said = record.key.as_ref().map_or(HashKind::Hmac, |key| key.hash_kind);
    let found = if origin == PepperOrigin::Unpeppered { HashKind::Sha256 } else { HashKind::Hmac };
    said == found
}

/// Notices a pepper that the fingerprints cannot judge: hashes that came in by SQL before the
/// first start were made elsewhere, and with another pepper every one of them is unknown.
#[derive(Debug, Default)]
pub(super) struct PepperSuspicion {
    unknown: AtomicU64,
}

impl PepperSuspicion {
    /// One that was found clears the pepper for good.
    fn known(&self) {
        self.unknown.store(CLEARED, Ordering::Relaxed);
    }

    fn unknown(&self) {
        let count = |unknown: u64| unknown.checked_add(1);
        if self.unknown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(SUSPICIOUS - 1) {
            tracing::warn!(
                warning = "pepper_suspect",
                unknown = SUSPICIOUS,
                "no key was recognised since the start: were the hashes made with another pepper?"
            );
        }
    }
}

/// How often a row is read when changes keep coming in between.
const READS_MAX: u32 = 3;

/// So many unknown keys in a row, and none known, look like a wrong pepper.
const SUSPICIOUS: u64 = 50;

/// See [`PepperSuspicion::known`].
const CLEARED: u64 = u64::MAX;

/// The look-up's name in metrics.
const OPERATION: &str = "keys.find_by_hash";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_unknown_keys_and_none_known_are_suspicious_once() {
        let suspicion = PepperSuspicion::default();
        for _ in 0..200 {
            suspicion.unknown();
        }
        assert_eq!(suspicion.unknown.load(Ordering::Relaxed), 200, "the fiftieth warned, no other does again");
        suspicion.known();
        suspicion.unknown();
        assert_eq!(suspicion.unknown.load(Ordering::Relaxed), CLEARED);
    }
}
