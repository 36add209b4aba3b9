//! The steps for a token, where a key has its look-up.
//!
//! The order is the keys' own: a token that was verified passes by the cache; an unknown one is
//! charged to its address first, because what follows (a signature, perhaps a fetch of keys, a
//! look-up of its client) is what a forger would have us do. What turns out good, or cannot be
//! judged, is given back.
//!
//! First uses of one token that come together are not made to share its verification. What is
//! verified stands in the cache before the next request of that worker runs, unless the client has
//! to be looked up; and then the budget that each is charged in advance holds the crowd back. So a
//! token is verified as often as there are workers, or once in its life as often as the budget has
//! room: milliseconds (`benches/identity.rs`), and no lock for all others.
//!
//! The identity of a stranger's token is its client's row with the token's scopes and subject; that
//! of our own is what its own row says. It is void when the client changes, and when the issuer's
//! keys do.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::timeout;

use super::look_up::{LOOK_UP_DEADLINE, RECHECK_PATIENCE};
use super::{Authenticator, Trust};
use crate::auth::cache::{Cached, Source};
use crate::auth::error::{AuthError, InvalidReason};
use crate::auth::flights::Errand;
use crate::auth::identity;
use crate::auth::issued::LoadedToken;
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
                if known.identity.claim_refresh(now, || self.feed.store_is_reachable() && self.issued.has_room()) {
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

    /// Reads whose a verified token is again. No failure budget: it was good once.
    async fn renew(&self, digest: KeyHash, known: KnownToken) -> Result<Arc<Cached>, AuthError> {
        match self.resolve(digest, &known.token, Some(&known.identity), Errand::Request).await {
            Ok(identity) => Ok(identity),
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
        if known.token.own {
            return self.renew_own_behind(digest, known);
        }
        let (loader, tokens) = (Arc::clone(&self.client_loader), Arc::clone(&self.tokens));
        let (token, loaded_at) = (Arc::clone(&known.token), known.identity.loaded_at);
        self.tasks.spawn_control(async move {
            let newer = loader.find(&token.facts.client).filter(|client| client.loaded_at > loaded_at);
            let loaded = match newer {
                Some(client) => LoadedClient::Known(client),
                None => loader.load(&token.facts.client, Errand::Background).await,
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
                reservation.give_back();
            }
            Err(_) => drop(reservation),
        }
        outcome
    }

    async fn verify(&self, digest: KeyHash, token: &[u8]) -> Result<Arc<Cached>, AuthError> {
        let verified = self.verified(token).await?;
        self.resolve(digest, &Arc::new(verified), None, Errand::Request).await
    }

    /// What a token says, if it holds.
    pub(super) async fn verified(&self, token: &[u8]) -> Result<Verified, AuthError> {
        self.issuers.verify(token).await.map_err(|refused| match refused {
            Refused::Fault(fault) => refusal(fault),
            Refused::NoKeys => AuthError::IssuerUnavailable,
        })
    }

    /// Whose a verified token is. `known` is what it was before.
    pub(super) async fn resolve(
        &self,
        digest: KeyHash,
        token: &Arc<Verified>,
        known: Option<&Cached>,
        errand: Errand,
    ) -> Result<Arc<Cached>, AuthError> {
        if token.own {
            return self.resolve_own(digest, token, known, errand).await;
        }
        let client = self.client_of(token, errand).await?;
        Ok(self.remember(digest, Arc::clone(token), &client))
    }

    async fn resolve_own(
        &self,
        digest: KeyHash,
        token: &Arc<Verified>,
        known: Option<&Cached>,
        errand: Errand,
    ) -> Result<Arc<Cached>, AuthError> {
        let Some(id) = token.facts.issued_id() else { return Err(refusal(TokenFault::NotIssued)) };
        let serves = known.is_some_and(|known| self.trust(known, self.clock.monotonic()) != Trust::Void);
        let reachable = self.feed.store_is_reachable();
        let patience = if reachable && !serves { LOOK_UP_DEADLINE } else { RECHECK_PATIENCE };
        match timeout(patience, self.issued.load(id, digest, token, errand)).await {
            Ok(LoadedToken::Known { identity, current }) => {
                if current {
                    let known = KnownToken { identity: Arc::clone(&identity), token: Arc::clone(token) };
                    self.tokens.insert(digest, known);
                }
                Ok(identity)
            }
            Ok(LoadedToken::Unknown) => Err(refusal(TokenFault::NotIssued)),
            Ok(LoadedToken::Unavailable) | Err(_) => Err(AuthError::Unavailable),
        }
    }

    fn renew_own_behind(&self, digest: KeyHash, known: &KnownToken) {
        let (issued, tokens) = (Arc::clone(&self.issued), Arc::clone(&self.tokens));
        let token = Arc::clone(&known.token);
        let Some(id) = token.facts.issued_id() else { return };
        self.tasks.spawn_control(async move {
            match issued.load(id, digest, &token, Errand::Background).await {
                LoadedToken::Known { identity, current: true } => tokens.insert(digest, KnownToken { identity, token }),
                LoadedToken::Unknown => tokens.remove(&digest),
                LoadedToken::Known { .. } | LoadedToken::Unavailable => {}
            }
        });
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
    pub(super) async fn client_of(&self, token: &Verified, errand: Errand) -> Result<Arc<KnownClient>, AuthError> {
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
        match timeout(patience, self.client_loader.load(named, errand)).await {
            Ok(LoadedClient::Known(client)) => Ok(client),
            Ok(LoadedClient::Refused(dead)) => Err(dead.into()),
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
    let source = (digest, Source::Token(Arc::clone(token)));
    Arc::new(Cached::new(principal, client.stamp, validity, client.loaded_at, fresh_for, source))
}

fn refusal(fault: TokenFault) -> AuthError {
    AuthError::invalid(InvalidReason::Token(fault))
}

#[cfg(test)]
mod tests;
