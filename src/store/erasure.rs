//! Erasing a client: what is personal goes, what was billed stays.
//!
//! In one transaction: the client's name, metadata, raw and hashed key of an older application;
//! its keys' names, public ids, hashes and address ranges (revoked); its issued tokens (deleted);
//! admin tokens for it alone (revoked, renamed); and in the audit the same fields of what was shown
//! of it, with names and addresses of its own tokens. Usage sums and events hold nothing but its
//! bare id and stay, and so does its row, suspended for good.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;

use super::Result;
use crate::model::audit::Note;
use crate::model::client::Client;
use crate::model::id::ClientId;

/// Erases.
#[async_trait]
pub trait ErasureStore: Send + Sync {
    /// Erases a client; none: there is no such client. Again, it erases what came meanwhile.
    async fn erase(&self, client: ClientId, at: Timestamp) -> Result<Option<Client>>;
    /// When a client was erased first.
    async fn erased_at(&self, client: ClientId) -> Result<Option<Timestamp>>;
    /// Clients that were erased first at this time or later.
    async fn erased_since(&self, at: Timestamp) -> Result<Vec<ClientId>>;
}

/// What a conflict says that would let a client call again of which nobody knows whose it was, or would
/// write down whose it was.
pub(super) const ERASED_FOR_GOOD: &str =
    "this client was erased and is suspended for good: make a new one for whoever comes back";

/// What stands where something was erased.
pub const ERASED: &str = "[erased]";

/// How much went.
pub(super) struct Erased {
    pub(super) keys: u64,
    pub(super) tokens: u64,
}

impl Erased {
    /// What the audit is told: not what was erased.
    pub(super) fn note(&self, client: ClientId) -> Note {
        let after = json!({ "keys": self.keys, "admin_tokens": self.tokens });
        Note {
            subject_id: client.to_string(),
            client_id: Some(client),
            ..Note::of_run("client.erase", "client", after)
        }
    }
}
