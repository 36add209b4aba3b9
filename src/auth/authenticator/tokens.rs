//! The steps for a token, where a key has its look-up.
//!
//! The order is the keys' own: a token that was verified passes by the cache; an unknown one is
//! charged to its address first, because what follows (a signature, perhaps a fetch of keys, a
//! look-up of its client) is what a forger would have us do. What turns out good, or cannot be
//! judged, is given back.
//!
//! A token's identity is its client's row with the token's scopes and subject. It is void when the
//! client changes, and when its issuer's keys do.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::timeout;

use super::look_up::{LOOK_UP_DEADLINE, RECHECK_PATIENCE};
use super::{Authenticator, Trust};
use crate::auth::cache::{Cached, Source};
use crate::auth::error::{AuthError, InvalidReason};
use crate::auth::identity;
use crate::auth::jwt::{KnownClient, KnownToken, LoadedClient, Refused, TokenFault, Verified};
use crate::model::clock::Monotonic;
use crate::model::key::{KeyHash, KeyValidity};

impl Authenticator {
    /// Steps 2-7 for a token.
    pub(super) async fn identify_token(
        &self,
        token: &[u8],
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Arc<Cached>, AuthError> {
        if self.issuers.is_empty() {
            return Err(AuthError::invalid(InvalidReason::WrongKind));
        }
        let digest = self.peppers.current.hash(token);
        // What is rare is boxed: its state would make every request's future large.
        match self.tokens.find(&digest) {
            None => Box::pin(self.admit(digest, token, address)).await,
            // The issuer's keys changed: the one that signed it may be gone.
            Some(known) if !self.issuers.still_hold(&known.token) => Box::pin(self.verify_again(digest, token)).await,
            Some(known) if self.trust(&known.identity, now) == Trust::Confirmed => {
                self.metrics.auth_cache_hit.inc();
                if self.feed.store_is_reachable() && known.identity.claim_refresh(now) {
                    self.renew_behind(digest, &known);
                }
                Ok(known.identity)
            }
            Some(known) => Box::pin(self.renew(digest, known)).await,
        }
    }

    /// Verifies a token that was good once: no failure budget, unless it turns out not to be.
    async fn verify_again(&self, digest: KeyHash, token: &[u8]) -> Result<Arc<Cached>, AuthError> {
        self.metrics.auth_cache_miss.inc();
        let outcome = self.verify(digest, token).await;
        if let Err(AuthError::Invalid { .. }) = &outcome {
            self.tokens.remove(&digest);
        }
        outcome
    }

    /// Reads the client of a verified token again. No failure budget: it was good once.
    async fn renew(&self, digest: KeyHash, known: KnownToken) -> Result<Arc<Cached>, AuthError> {
        match self.client_of(&known.token).await {
            Ok(client) => Ok(self.remember(digest, known.token, &client)),
            // While we waited, a change may have come in after all.
            Err(AuthError::Unavailable)
                if self.trust(&known.identity, self.clock.monotonic()) == Trust::Unconfirmed =>
            {
                self.metrics.auth_stale.inc();
                Ok(known.identity)
            }
            Err(error) => {
                self.tokens.remove(&digest);
                Err(error)
            }
        }
    }

    /// The same without anybody waiting.
    fn renew_behind(&self, digest: KeyHash, known: &KnownToken) {
        let (loader, tokens) = (Arc::clone(&self.client_loader), Arc::clone(&self.tokens));
        let (token, loaded_at) = (Arc::clone(&known.token), known.identity.loaded_at);
        self.tasks.spawn_control(async move {
            let newer = loader.find(&token.facts.client).filter(|client| client.loaded_at > loaded_at);
            let loaded = match newer {
                Some(client) => LoadedClient::Known(client),
                None => loader.load(&token.facts.client).await,
            };
            match loaded {
                LoadedClient::Known(client) if !client.current => {}
                LoadedClient::Known(client) => {
                    let identity = identity_of(digest, &token, &client, loader.cache_ttl);
                    tokens.insert(digest, KnownToken { identity, token });
                }
                LoadedClient::Refused(_) => tokens.remove(&digest),
                LoadedClient::Unavailable => {}
            }
        });
    }

    /// Steps 5-7 for a token nobody has shown yet.
    async fn admit(&self, digest: KeyHash, token: &[u8], address: IpAddr) -> Result<Arc<Cached>, AuthError> {
        let known = || {
            let known = self.tokens.find(&digest).filter(|known| self.issuers.still_hold(&known.token))?;
            Some(known.identity)
        };
        let reservation = match self.charge(address, known).await? {
            Ok(reservation) => reservation,
            Err(identity) => return Ok(identity),
        };
        self.metrics.auth_cache_miss.inc();
        let outcome = self.verify(digest, token).await;
        match &outcome {
            // Who cannot be judged has not failed.
            Ok(_) | Err(AuthError::Unavailable | AuthError::IssuerUnavailable) => {
                reservation.give_back(self.clock.monotonic());
            }
            Err(_) => drop(reservation),
        }
        outcome
    }

    async fn verify(&self, digest: KeyHash, token: &[u8]) -> Result<Arc<Cached>, AuthError> {
        let verified = self.issuers.verify(token).await.map_err(|refused| match refused {
            Refused::Fault(fault) => refusal(fault),
            Refused::NoKeys => AuthError::IssuerUnavailable,
        })?;
        let client = self.client_of(&verified).await?;
        Ok(self.remember(digest, Arc::new(verified), &client))
    }

    pub(super) fn remember(&self, digest: KeyHash, token: Arc<Verified>, client: &KnownClient) -> Arc<Cached> {
        let identity = identity_of(digest, &token, client, self.client_loader.cache_ttl);
        if client.current {
            self.tokens.insert(digest, KnownToken { identity: Arc::clone(&identity), token });
        }
        identity
    }

    /// The client that a token names: from the cache where that can be trusted, else from the
    /// store; where the store cannot be reached, what is cached serves unless it is void.
    pub(super) async fn client_of(&self, token: &Verified) -> Result<Arc<KnownClient>, AuthError> {
        let named = token.facts.client.as_str();
        let now = self.clock.monotonic();
        let trust = |client: &KnownClient, now| self.trust_in(&client.live, client.stamp, client.loaded_at, now);
        let cached = self.client_loader.find(named);
        if let Some(client) = cached.as_ref().filter(|client| trust(client, now) == Trust::Confirmed) {
            self.client_loader.refresh_when_due(client, named, now);
            return Ok(Arc::clone(client));
        }
        let fallback = || {
            let now = self.clock.monotonic();
            cached.as_ref().filter(|client| trust(client, now) != Trust::Void).cloned()
        };
        let reachable = self.feed.store_is_reachable();
        let patience = if reachable && fallback().is_none() { LOOK_UP_DEADLINE } else { RECHECK_PATIENCE };
        match timeout(patience, self.client_loader.load(named)).await {
            Ok(LoadedClient::Known(client)) => Ok(client),
            Ok(LoadedClient::Refused(fault)) => Err(refusal(fault)),
            Ok(LoadedClient::Unavailable) | Err(_) => {
                let client = fallback().ok_or(AuthError::Unavailable)?;
                self.metrics.auth_stale.inc();
                Ok(client)
            }
        }
    }
}

fn identity_of(
    digest: KeyHash,
    token: &Arc<Verified>,
    client: &KnownClient,
    fresh_for: std::time::Duration,
) -> Arc<Cached> {
    let validity = KeyValidity { revoked_at: None, expires_at: Some(token.facts.expires_at) };
    let principal = Arc::new(identity::token_principal(&client.row, Arc::clone(&client.live), token));
    let source = Source::Token(digest, Arc::clone(token));
    Arc::new(Cached::new(principal, client.stamp, validity, client.loaded_at, fresh_for, source))
}

fn refusal(fault: TokenFault) -> AuthError {
    AuthError::invalid(InvalidReason::Token(fault))
}

#[cfg(test)]
mod tests;
