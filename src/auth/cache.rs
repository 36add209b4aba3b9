//! What is known of keys: a cache of identities, and a small one of keys that open nothing.
//!
//! Both are bounded, and apart: strangers who try keys can fill the second one only. Entries are
//! keyed by the whole keyed hash of the raw key, which nobody without the pepper can aim.
//! Ages are measured on our clock, not the cache's own, so that a test can set them.
//!
//! Refuses to load anything, and to say whether a key is good: it says what was read, and when.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::error::{AuthError, InvalidReason};
use super::jwt::{TokenFault, Verified};
use crate::clients::{Principal, Stamp};
use crate::crypto::pepper::KeyHashes;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{CredentialRecord, KeyDefect, KeyHash, KeyValidity};

/// An identity as it was read.
#[derive(Debug)]
pub(super) struct Cached {
    /// Who it is.
    pub(super) principal: Arc<Principal>,
    /// Void when it moved.
    pub(super) stamp: Stamp,
    /// When the read began.
    pub(super) loaded_at: Monotonic,
    /// Judged at every use; none: it has no end, like most.
    validity: Option<Box<KeyValidity>>,
    /// What it is found by: a key's hash under the current pepper, a token's digest.
    pub(super) digest: KeyHash,
    /// With what it is read again.
    pub(super) source: Source,
    /// Not before this is it refreshed (again).
    refresh_at: AtomicU64,
    /// Not before this is it reviewed (again) for an exchange that rests on it. [`WITHDRAWN`]: a
    /// review found that it stands no more.
    review_at: AtomicU64,
}

/// What a credential is looked up by, beside its digest; never the credential. Small: there is one
/// for each of a hundred thousand.
#[derive(Debug)]
pub(super) enum Source {
    /// A key; with all its hashes where it may be stored under another than its digest.
    Key(Option<Box<KeyHashes>>),
    /// What a token says.
    Token(Arc<Verified>),
}

impl Cached {
    pub(super) fn new(
        principal: Arc<Principal>,
        stamp: Stamp,
        validity: KeyValidity,
        loaded_at: Monotonic,
        fresh_for: Duration,
        (digest, source): (KeyHash, Source),
    ) -> Self {
        let refresh_at = AtomicU64::new(loaded_at.after(fresh_for).0);
        let validity = (!validity.is_unlimited()).then(|| Box::new(validity));
        let review_at = AtomicU64::new(0);
        Self { principal, stamp, loaded_at, validity, digest, source, refresh_at, review_at }
    }

    /// Why the key does not work now, if it does not. Reads the wall clock only for keys that
    /// have an end.
    pub(super) fn defect(&self, wall: impl FnOnce() -> Timestamp) -> Option<KeyDefect> {
        self.validity.as_ref()?.defect(wall())
    }

    /// Whether the caller is the one that should refresh it: one at a time, and after a refresh
    /// that failed not at once again. Where it is due and nothing `can` be done, it stays due.
    pub(super) fn claim_refresh(&self, now: Monotonic, can: impl FnOnce() -> bool) -> bool {
        claim(&self.refresh_at, now, REFRESH_PAUSE, can)
    }

    /// Whether the caller is the one that should review it.
    pub(super) fn claim_review(&self, now: Monotonic) -> bool {
        claim(&self.review_at, now, REVIEW_PAUSE, || true)
    }

    /// Ends the exchanges that rest on it.
    pub(super) fn withdraw(&self) {
        self.review_at.store(WITHDRAWN, Ordering::Release);
    }

    /// Whether a review ended it.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.review_at.load(Ordering::Acquire) == WITHDRAWN
    }
}

fn claim(at: &AtomicU64, now: Monotonic, pause: Duration, can: impl FnOnce() -> bool) -> bool {
    let due = at.load(Ordering::Relaxed);
    due <= now.0 && can() && at.compare_exchange(due, now.after(pause).0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Identities.
#[derive(Debug)]
pub(super) struct Identities {
    entries: Cache<KeyHash, Arc<Cached>, DigestHash>,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self { entries: Cache::builder().max_capacity(IDENTITIES_MAX).build_with_hasher(DigestHash) }
    }

    pub(super) fn find(&self, hash: &KeyHash) -> Option<Arc<Cached>> {
        self.entries.get(hash)
    }

    /// The latest identity of a key. Walks all of them.
    pub(super) fn of_key(&self, key: ApiKeyId) -> Option<Arc<Cached>> {
        let of_key = self
            .entries
            .iter()
            .map(|(_, cached)| cached)
            .filter(|cached| cached.principal.api_key_id == key && matches!(cached.source, Source::Key(_)));
        of_key.max_by_key(|cached| cached.loaded_at)
    }

    pub(super) fn insert(&self, hash: KeyHash, cached: Arc<Cached>) {
        self.entries.insert(hash, cached);
    }

    pub(super) fn remove(&self, hash: &KeyHash) {
        self.entries.invalidate(hash);
    }

    /// Drops what is older than `age`: it would not be used again, and holds its client.
    pub(super) fn sweep(&self, now: Monotonic, age: Duration) {
        for (hash, cached) in &self.entries {
            if now.since(cached.loaded_at) > age {
                self.entries.invalidate(&*hash);
            }
        }
        self.entries.run_pending_tasks();
    }
}

/// Why a key opens nothing. A key whose time is over is a stranger's in all but the private reason:
/// it is charged, remembered and looked up as one, so that nobody who holds it learns that it ever
/// was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    reason: InvalidReason,
    client: Option<ClientId>,
    key: Option<ApiKeyId>,
}

impl Dead {
    /// No such key.
    pub(super) const UNKNOWN: Self = Self { reason: InvalidReason::Unknown, client: None, key: None };

    /// A token that does not hold.
    pub(super) fn token(fault: TokenFault) -> Self {
        Self { reason: InvalidReason::Token(fault), ..Self::UNKNOWN }
    }

    /// Whether the time of the key that was found is over.
    pub(super) fn of(record: &CredentialRecord, now: Timestamp) -> Option<Self> {
        let key = record.key.as_ref()?;
        let reason = match key.validity().defect(now)? {
            KeyDefect::Revoked => InvalidReason::Revoked,
            KeyDefect::Expired => InvalidReason::Expired,
        };
        Some(Self { reason, client: Some(record.client.id), key: Some(key.id) })
    }
}

impl From<Dead> for AuthError {
    fn from(dead: Dead) -> Self {
        Self::Invalid { reason: dead.reason, client: dead.client, key: dead.key }
    }
}

/// Keys that open nothing, for a short while.
///
/// A flush is a new *era*, and an answer carries the era in which its question was asked. So a
/// flush costs nothing, and an answer that was under way when a key was added is void from the
/// start.
#[derive(Debug)]
pub(super) struct Unknowns {
    entries: Cache<KeyHash, Unknown, DigestHash>,
    era: AtomicU64,
}

/// An era of [`Unknowns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(u64);

#[derive(Clone, Copy, Debug)]
struct Unknown {
    dead: Dead,
    era: Era,
    asked_at: Monotonic,
}

impl Unknowns {
    pub(super) fn new() -> Self {
        let entries = Cache::builder()
            .max_capacity(UNKNOWNS_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(DigestHash);
        Self { entries, era: AtomicU64::new(0) }
    }

    /// To be taken before the store is asked.
    pub(super) fn era(&self) -> Era {
        Era(self.era.load(Ordering::Acquire))
    }

    pub(super) fn find(&self, hash: &KeyHash, now: Monotonic) -> Option<Dead> {
        let unknown = self.entries.get(hash)?;
        let holds = unknown.era == self.era() && now.since(unknown.asked_at) < UNKNOWN_FOR;
        holds.then_some(unknown.dead)
    }

    pub(super) fn note(&self, hash: KeyHash, dead: Dead, era: Era, asked_at: Monotonic) {
        self.entries.insert(hash, Unknown { dead, era, asked_at });
    }

    /// A hash was added: every answer may be wrong now.
    pub(super) fn flush(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
    }
}

/// Takes eight bytes of a key hash as they are: nothing is as evenly spread as a keyed hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DigestHash;

#[derive(Debug)]
pub(super) struct DigestHasher(u64);

impl BuildHasher for DigestHash {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher(0)
    }
}

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length that an array writes before its bytes: always the same.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// At 1.1 KiB each (`benches/memory.rs`), 110 MB.
const IDENTITIES_MAX: u64 = 100_000;

/// A tenth, so that strangers cannot make us remember more of them than of our clients.
const UNKNOWNS_MAX: u64 = 10_000;

/// Long enough to break a loop of retries, short enough that a key that was just made is not
/// missed where the feed is late.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// Between two attempts to refresh the same identity.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// No time ever: who looks at it has found that nothing rests on it any more.
const WITHDRAWN: u64 = u64::MAX;

/// Between two reviews of the same identity.
const REVIEW_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic(3_600_000_000_000);

    fn hash(number: u8) -> KeyHash {
        KeyHash([number; 32])
    }

    #[test]
    fn an_unknown_key_is_remembered_for_two_seconds() {
        let unknowns = Unknowns::new();
        unknowns.note(hash(1), Dead::UNKNOWN, unknowns.era(), NOW);
        assert!(unknowns.find(&hash(1), NOW.after(Duration::from_millis(1_999))).is_some());
        assert!(unknowns.find(&hash(1), NOW.after(Duration::from_secs(2))).is_none());
        assert!(unknowns.find(&hash(2), NOW).is_none());
    }

    #[test]
    fn a_flush_voids_what_was_asked_before_it() {
        let unknowns = Unknowns::new();
        let before = unknowns.era();
        unknowns.note(hash(1), Dead::UNKNOWN, before, NOW);
        unknowns.flush();
        assert!(unknowns.find(&hash(1), NOW).is_none());
        unknowns.note(hash(2), Dead::UNKNOWN, before, NOW);
        assert!(unknowns.find(&hash(2), NOW).is_none(), "asked before the flush, answered after it");
        unknowns.note(hash(3), Dead::UNKNOWN, unknowns.era(), NOW);
        assert!(unknowns.find(&hash(3), NOW).is_some());
    }

    #[test]
    fn unknown_keys_are_bounded() {
        let unknowns = Unknowns::new();
        for number in 0..50_000_u64 {
            let mut bytes = [0; 32];
            // Spread as keyed hashes are.
            bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
            unknowns.note(KeyHash(bytes), Dead::UNKNOWN, unknowns.era(), NOW);
        }
        unknowns.entries.run_pending_tasks();
        assert!(unknowns.entries.entry_count() <= UNKNOWNS_MAX);
    }

    #[test]
    fn hashes_are_taken_as_they_are() {
        let bytes = std::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(DigestHash.hash_one(KeyHash(bytes)), 0x0706_0504_0302_0100);
    }
}
