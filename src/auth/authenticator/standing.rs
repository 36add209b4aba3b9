//! Whether what a long exchange rests on still stands.
//!
//! A request is judged when it comes; a stream may outlive that judgement by hours. So an exchange
//! keeps the identity it was admitted with, and when it has lasted some seconds it is asked about
//! here, once a second. The answer comes from what is cached and from the change feed, without
//! waiting; where that is not enough the store is asked behind, and what it says is found at the
//! next look. So a stream ends some three seconds after a change, and at most one read is under way for a
//! credential however many streams rest on it.
//!
//! While the store is away a stream lives on what was read last, for `max_stale`, as requests do.
//! A token ends with its `exp`, always. That its issuer's keys have changed ends no stream: the
//! token itself is not kept, so it cannot be verified again.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use super::{Authenticator, Trust};
use crate::auth::cache::{Cached, Source};
use crate::auth::error::AuthError;
use crate::auth::flights::Errand;
use crate::auth::loader::Loaded;
use crate::clients::Principal;
use crate::crypto::pepper::KeyHashes;
use crate::model::clock::Monotonic;

/// Who a request comes from, and what its exchange rests on.
#[derive(Debug)]
pub struct Identified(Who);

#[derive(Debug)]
enum Who {
    Nobody(Arc<Principal>),
    Known(Arc<Cached>),
}

impl Identified {
    pub(super) fn nobody(nobody: &Arc<Principal>) -> Self {
        Self(Who::Nobody(Arc::clone(nobody)))
    }

    pub(super) fn known(cached: Arc<Cached>) -> Self {
        Self(Who::Known(cached))
    }

    /// Who it is.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        match &self.0 {
            Who::Nobody(principal) => principal,
            Who::Known(cached) => &cached.principal,
        }
    }

    /// For [`Authenticator::still_stands`]; none where there is nothing to be withdrawn.
    #[must_use]
    pub fn grant(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.0 {
            Who::Nobody(_) => None,
            Who::Known(cached) => Some(Arc::clone(cached) as Arc<dyn Any + Send + Sync>),
        }
    }
}

impl Deref for Identified {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        self.principal()
    }
}

impl Authenticator {
    /// Whether an exchange that rests on `grant`, from [`Identified::grant`], may go on. Waits for
    /// nothing.
    #[must_use]
    pub fn still_stands(self: &Arc<Self>, grant: &Arc<dyn Any + Send + Sync>) -> bool {
        let Ok(held) = Arc::clone(grant).downcast::<Cached>() else { return true };
        let now = self.clock.monotonic();
        if held.is_withdrawn() {
            return false;
        }
        let latest = self.latest(&held);
        let trust = self.trust(&latest, now);
        if (trust != Trust::Confirmed || latest.claim_refresh(now, || self.loader.has_room())) && held.claim_review(now)
        {
            let (authenticator, than) = (Arc::clone(self), latest.loaded_at);
            self.tasks.spawn_control(async move { authenticator.review(&held, than).await });
        }
        // What is void is being read again: it may say too much or too little. But a stranger's token
        // ends by what it says itself, whatever its client's row does.
        let ends_by_itself = matches!(&latest.source, Source::Token(token) if !token.own);
        (trust == Trust::Void && !ends_by_itself) || self.judge(&latest).is_ok()
    }

    /// The newest that is known of a credential.
    fn latest(&self, held: &Arc<Cached>) -> Arc<Cached> {
        let cached = match &held.source {
            Source::Key(_) => self.identities.find(&held.digest),
            Source::Token(_) => self.tokens.find(&held.digest).map(|known| known.identity),
        };
        cached.filter(|cached| cached.loaded_at > held.loaded_at).unwrap_or_else(|| Arc::clone(held))
    }

    /// Asks the store, and withdraws what it says is no longer good. `than` is when what is known
    /// was read: if the store cannot say, that serves until `max_stale`.
    async fn review(&self, held: &Cached, than: Monotonic) {
        let outcome = match &held.source {
            Source::Key(hashes) => {
                let hashes = hashes.as_ref().map_or_else(|| KeyHashes::only(held.digest), |hashes| **hashes);
                match self.loader.load(hashes, Some(than), Errand::Background).await {
                    Loaded::Known(newer) => Ok(newer),
                    Loaded::Dead(dead) => Err(dead.into()),
                    Loaded::Unavailable => Err(AuthError::Unavailable),
                }
            }
            Source::Token(token) => self.resolve(held.digest, token, None, Errand::Background).await,
        };
        let stands = match outcome.and_then(|newer| self.judge(&newer)) {
            Ok(()) => Some(true),
            Err(AuthError::Unavailable) => None,
            Err(_) => Some(false),
        };
        let stands = stands.unwrap_or_else(|| self.clock.monotonic().since(than) <= self.max_stale);
        if !stands {
            held.withdraw();
        }
    }
}
