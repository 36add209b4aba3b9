//! What is remembered of a key, for whoever asks why it is or is not let in.

use std::sync::Arc;
use std::time::Duration;

use super::{Authenticator, Trust};
use crate::clients::Principal;
use crate::model::id::ApiKeyId;

/// An identity in the cache.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// For how long it has been known.
    pub age: Duration,
    /// Whether the next request goes by it, or asks the store first.
    pub is_confirmed: bool,
}

impl Authenticator {
    /// What is remembered of a key; none: its next request looks it up. Walks the cache: for
    /// operators, not for requests.
    #[must_use]
    pub fn remembered(&self, key: ApiKeyId) -> Option<Remembered> {
        let now = self.clock.monotonic();
        let cached = self.identities.of_key(key)?;
        Some(Remembered {
            principal: Arc::clone(&cached.principal),
            age: now.since(cached.loaded_at),
            is_confirmed: self.trust(&cached, now) == Trust::Confirmed,
        })
    }
}
