//! Tokens that were verified already, by a keyed digest of the whole token.
//!
//! By the whole token, signature included: who alters a byte of it is unknown here. Apart from the
//! keys' cache, so that no digest of the one kind is ever taken for the other, and neither kind
//! drives the other out.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::Verified;
use crate::auth::cache::{Cached, DigestHash};
use crate::model::clock::Monotonic;
use crate::model::key::KeyHash;

/// A token that was verified, and whose it is.
#[derive(Clone, Debug)]
pub(in crate::auth) struct KnownToken {
    /// Who it is, judged at each use like a key's identity.
    pub(in crate::auth) identity: Arc<Cached>,
    /// What it says.
    pub(in crate::auth) token: Arc<Verified>,
}

/// All of them; bounded.
#[derive(Debug)]
pub(in crate::auth) struct KnownTokens {
    entries: Cache<KeyHash, KnownToken, DigestHash>,
}

impl KnownTokens {
    pub(in crate::auth) fn new() -> Self {
        Self { entries: Cache::builder().max_capacity(TOKENS_MAX).build_with_hasher(DigestHash) }
    }

    pub(in crate::auth) fn find(&self, digest: &KeyHash) -> Option<KnownToken> {
        self.entries.get(digest)
    }

    pub(in crate::auth) fn insert(&self, digest: KeyHash, known: KnownToken) {
        self.entries.insert(digest, known);
    }

    pub(in crate::auth) fn remove(&self, digest: &KeyHash) {
        self.entries.invalidate(digest);
    }

    /// Drops what would not be used again as it is: expired, or read too long ago.
    pub(in crate::auth) fn sweep(&self, now: Monotonic, wall: jiff::Timestamp, age: Duration) {
        for (digest, known) in &self.entries {
            if now.since(known.identity.loaded_at) > age || known.token.facts.expires_at <= wall {
                self.entries.invalidate(&*digest);
            }
        }
        self.entries.run_pending_tasks();
    }
}

/// Tokens are short-lived and many: at some 800 bytes, 80 MiB.
const TOKENS_MAX: u64 = 100_000;
