//! What is remembered of a caller, and what a token is worth, for whoever asks why somebody is or is
//! not let in.

use std::sync::Arc;
use std::time::Duration;

use super::{Authenticator, Trust};
use crate::auth::credential;
use crate::auth::error::{AuthError, InvalidReason};
use crate::auth::flights::Errand;
use crate::clients::Principal;
use crate::model::id::{ApiKeyId, ClientId};

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
        // What a change made void is read again before it is used.
        let cached = self.identities.of_key(key).filter(|cached| self.trust(cached, now) != Trust::Void)?;
        Some(Remembered {
            principal: Arc::clone(&cached.principal),
            age: now.since(cached.loaded_at),
            is_confirmed: self.trust(&cached, now) == Trust::Confirmed,
        })
    }

    /// What is remembered of a client, and of what this key spent, though the key itself may be looked up
    /// anew; none: nothing of the client was seen lately.
    #[must_use]
    pub fn remembered_client(&self, client: ClientId, key: Option<ApiKeyId>) -> Option<Arc<Principal>> {
        let live = self.clients.find(client)?;
        let key_limiter = key.and_then(|key| live.known_key_limiter(key));
        Some(Arc::new(Principal { key_limiter, ..Principal::nobody(live) }))
    }

    /// Who a token is from, judged as if a request had brought it; charged to nobody, and counted
    /// nowhere.
    ///
    /// # Errors
    /// The private reason for which the request would be refused.
    pub async fn weigh(&self, token: &[u8]) -> Result<Arc<Principal>, AuthError> {
        if !credential::is_jwt(token) {
            return Err(AuthError::invalid(InvalidReason::Malformed));
        }
        if self.issuers.is_empty() {
            return Err(AuthError::invalid(InvalidReason::WrongKind));
        }
        let digest = self.peppers.current.hash(token);
        let verified = self.verified(token).await?;
        let identity = self.resolve(digest, &Arc::new(verified), None, Errand::Background).await?;
        self.judge(&identity)?;
        Ok(Arc::clone(&identity.principal))
    }
}
