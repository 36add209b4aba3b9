//! The steps for a key that the cache does not answer for: charged, asked once, waited for.
//!
//! Nobody waits for ever, and nobody's wait is another's: the look-up itself belongs to `loader`
//! and goes on when whoever asked has left.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Authenticator, Trust};
use crate::auth::cache::Cached;
use crate::auth::error::AuthError;
use crate::auth::failures::{Admission, Reservation};
use crate::auth::flights::Errand;
use crate::auth::loader::Loaded;
use crate::model::clock::Monotonic;
use crate::model::key::KeyHash;

/// How long a look-up may take, and a caller waits for one.
pub(super) const LOOK_UP_DEADLINE: Duration = Duration::from_secs(1);

/// How long a caller whose identity would do waits for the store to confirm it.
pub(super) const RECHECK_PATIENCE: Duration = Duration::from_millis(250);

impl Authenticator {
    pub(super) fn refresh_when_due(&self, cached: &Cached, hash: KeyHash, raw: &[u8], now: Monotonic) {
        if cached.claim_refresh(now, || self.feed.store_is_reachable() && self.loader.has_room()) {
            self.loader.refresh(self.peppers.hashes(hash, raw), cached.loaded_at);
        }
    }

    /// Asks the store about an identity that a missed change may concern. If it answers, its
    /// answer counts; if not, the identity serves on, for it is not older than `max_stale`.
    pub(super) async fn recheck(
        &self,
        cached: Arc<Cached>,
        hash: KeyHash,
        raw: &[u8],
        address: IpAddr,
        began: Monotonic,
    ) -> Result<Arc<Cached>, AuthError> {
        if self.feed.store_is_reachable() {
            let load = self.loader.load(self.peppers.hashes(hash, raw), Some(cached.loaded_at), Errand::Request);
            match timeout(RECHECK_PATIENCE, load).await {
                Ok(Loaded::Known(newer)) => {
                    self.metrics.auth_cache_miss.inc();
                    return Ok(newer);
                }
                Ok(Loaded::Dead(dead)) => return self.settle(Err(dead.into()), address, began).await,
                Ok(Loaded::Unavailable) | Err(_) => {}
            }
        }
        // While we waited, a change may have come in after all.
        if self.trust(&cached, self.clock.monotonic()) == Trust::Void {
            return Err(AuthError::Unavailable);
        }
        self.metrics.auth_stale.inc();
        Ok(cached)
    }

    /// Reads an identity again that must not be used as it is. No failure budget unless it is over:
    /// the key was good once, so this is no guess.
    pub(super) async fn reload(
        &self,
        cached: &Cached,
        hash: KeyHash,
        raw: &[u8],
        address: IpAddr,
        began: Monotonic,
    ) -> Result<Arc<Cached>, AuthError> {
        self.metrics.auth_cache_miss.inc();
        let outcome = self.load(hash, raw, Some(cached.loaded_at)).await;
        self.settle(outcome, address, began).await
    }

    /// Steps 5-7.
    pub(super) async fn look_up(
        &self,
        hash: KeyHash,
        raw: &[u8],
        address: IpAddr,
        began: Monotonic,
    ) -> Result<Arc<Cached>, AuthError> {
        let reservation = match self.charge(address, || self.identities.find(&hash)).await? {
            Ok(reservation) => reservation,
            Err(cached) => return Ok(cached),
        };
        if let Some(dead) = self.unknowns.find(&hash, self.clock.monotonic()) {
            self.metrics.auth_cache_negative.inc();
            return Err(dead.into());
        }
        self.metrics.auth_cache_miss.inc();
        let outcome = self.load(hash, raw, None).await;
        match &outcome {
            // A store that cannot answer is not the caller's failure.
            Ok(_) | Err(AuthError::Unavailable) => reservation.give_back(),
            Err(_) => {
                drop(reservation);
                self.end_of_slot(began).await;
            }
        }
        outcome
    }

    /// Step 5. `known` looks into the cache again while others' look-ups are waited for: perhaps one
    /// of them was for the same credential, and nothing is charged.
    pub(super) async fn charge(
        &self,
        address: IpAddr,
        known: impl Fn() -> Option<Arc<Cached>>,
    ) -> Result<Result<Reservation, Arc<Cached>>, AuthError> {
        let admission = async {
            loop {
                match self.failures.charge(address, self.clock.monotonic()).await {
                    Admission::Charged(reservation) => return Ok(Ok(reservation)),
                    Admission::Exhausted(wait) => return Err(too_many_failures(wait)),
                    Admission::TryAgain => {
                        if let Some(cached) = known()
                            && self.trust(&cached, self.clock.monotonic()) == Trust::Confirmed
                        {
                            self.metrics.auth_cache_hit.inc();
                            return Ok(Err(cached));
                        }
                    }
                }
            }
        };
        timeout(LOOK_UP_DEADLINE, admission).await.unwrap_or(Err(AuthError::Unavailable))
    }

    /// Step 7. While the store is known to be away nobody waits long for it; the look-up goes on
    /// by itself, and fills the cache for the next try.
    pub(super) async fn load(
        &self,
        hash: KeyHash,
        raw: &[u8],
        than: Option<Monotonic>,
    ) -> Result<Arc<Cached>, AuthError> {
        let patience = if self.feed.store_is_reachable() { LOOK_UP_DEADLINE } else { RECHECK_PATIENCE };
        match timeout(patience, self.loader.load(self.peppers.hashes(hash, raw), than, Errand::Request)).await {
            Ok(Loaded::Known(cached)) => Ok(cached),
            Ok(Loaded::Dead(dead)) => Err(dead.into()),
            Ok(Loaded::Unavailable) | Err(_) => Err(AuthError::Unavailable),
        }
    }
}

fn too_many_failures(wait: Duration) -> AuthError {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    AuthError::TooManyFailures { retry_after_seconds: seconds.max(1) }
}
