//! What is remembered of credentials: identities by digest, and for a moment the unknown ones.
//!
//! Two caches, so that guesses cannot push known keys out. The key is the whole digest under the
//! current pepper, never a text put together from parts.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::api_key::Identity;
use crate::model::key::KeyHash;

/// Identities kept: about 1 KiB each.
const IDENTITIES: u64 = 100_000;

/// Unknown digests kept.
const UNKNOWN: u64 = 10_000;

/// How long an unknown digest is believed to be unknown.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// Both caches.
#[derive(Debug)]
pub(super) struct IdentityCache {
    identities: Cache<KeyHash, Arc<Identity>, DigestHash>,
    unknown: Cache<KeyHash, (), DigestHash>,
}

impl IdentityCache {
    /// Identities leave when they have not been loaded anew for `max_stale`.
    pub(super) fn new(max_stale: Duration) -> Self {
        Self {
            identities: Cache::builder().max_capacity(IDENTITIES).time_to_live(max_stale).build_with_hasher(DigestHash),
            unknown: Cache::builder().max_capacity(UNKNOWN).time_to_live(UNKNOWN_FOR).build_with_hasher(DigestHash),
        }
    }

    pub(super) fn find(&self, digest: &KeyHash) -> Option<Arc<Identity>> {
        self.identities.get(digest)
    }

    pub(super) fn remember(&self, digest: KeyHash, identity: Arc<Identity>) {
        self.unknown.invalidate(&digest);
        self.identities.insert(digest, identity);
    }

    pub(super) fn is_unknown(&self, digest: &KeyHash) -> bool {
        self.unknown.contains_key(digest)
    }

    pub(super) fn remember_unknown(&self, digest: KeyHash) {
        self.identities.invalidate(&digest);
        self.unknown.insert(digest, ());
    }

    pub(super) fn forget_unknown(&self, digest: &KeyHash) {
        self.unknown.invalidate(digest);
    }

    /// A hash was added somewhere: nothing is known to be unknown any more.
    pub(super) fn forget_all_unknown(&self) {
        self.unknown.invalidate_all();
    }
}

/// Takes eight bytes of the digest as its hash: it is the output of HMAC-SHA-256 under a secret,
/// which is as evenly spread, and as hard to steer, as any hash of it would be.
#[derive(Clone, Copy, Debug, Default)]
struct DigestHash;

impl BuildHasher for DigestHash {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes(0)
    }
}

struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
