//! `idempotency_keys`: what a write was answered, so that asking again does nothing again.

use async_trait::async_trait;
use jiff::Timestamp;

use super::Result;

/// Whose key, which key, for which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Who asks: another's key of the same text is another key.
    pub scope: String,
    /// The text of `Idempotency-Key`.
    pub key: String,
    /// A hash of method, path and body: the same key for something else is a mistake.
    pub request_hash: String,
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Its status.
    pub status: u16,
    /// Its body. Whoever stores it keeps secrets that are shown once out of it.
    pub body: String,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is new, and now ours: do it, then complete or release it.
    New,
    /// Somebody is at it, since then.
    Running(Timestamp),
    /// It was for another request.
    Mismatch,
    /// It was answered.
    Answered(StoredAnswer),
}

/// Idempotency keys.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Takes a key, or says what is known of it.
    async fn claim(&self, key: &IdempotencyKey) -> Result<Claim>;
    /// Keeps the answer of a key that was claimed.
    async fn complete(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<()>;
    /// Forgets a claim that came to nothing: it may be tried again.
    async fn release(&self, key: &IdempotencyKey) -> Result<()>;
    /// Forgets keys claimed before this time; returns how many.
    async fn prune(&self, before: Timestamp) -> Result<u64>;
}
