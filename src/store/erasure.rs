//! Erasing a client: what is personal goes, what was billed stays.
//!
//! In one transaction: the client's name, metadata, raw and hashed key of an older application;
//! its keys' names, public ids, hashes and address ranges (revoked); its issued tokens (deleted);
//! admin tokens for it alone (revoked, renamed); and in the audit the same fields of what was shown
//! of it, with names and addresses of its own tokens. Usage sums and events hold nothing but its
//! bare id and stay, and so does its row, suspended for good.

use async_trait::async_trait;
use jiff::Timestamp;

use super::Result;
use crate::model::client::Client;
use crate::model::id::ClientId;

/// Erases.
#[async_trait]
pub trait ErasureStore: Send + Sync {
    /// Erases a client; none: there is no such client. Again, it erases what came meanwhile.
    async fn erase(&self, client: ClientId, at: Timestamp) -> Result<Option<Client>>;
    /// When a client was erased first.
    async fn erased_at(&self, client: ClientId) -> Result<Option<Timestamp>>;
}

/// What stands where something was erased.
pub const ERASED: &str = "[erased]";
