//! The steps from a request's head to a principal, and the reason for each position.
//!
//! 1. **Extract** exactly one credential: two may be read two ways.
//! 2. **Shape**: a mistyped key is refused before anything is computed for it.
//! 3. **Hash**: one HMAC; from here on the raw key is not needed but for the other pepper.
//! 4. **Cache**: who is known passes, whatever strangers do from the same address.
//! 5. **Failure budget** of the address, charged in advance: guessing never reaches the store
//!    faster than the budget comes back. After the cache, so that a neighbour's bad key locks
//!    nobody out.
//! 6. **Unknown keys**: asked a moment ago. After the budget, or a loop on one bad key would be
//!    free. A key whose time is over is an unknown one with a private reason (`refusal`).
//! 7. **Look-up**: one for all who wait for the same key.
//! 8. **Judgement**: revoked, expired, suspended, evaluated at every use and never cached as good.
//!
//! A token goes the same way: its digest is looked for in a cache of its own, and where a key has a
//! look-up it has its verification (`tokens`).
//!
//! Steps 1-4 and 8 are all that a known caller costs: no lock, no allocation, no await.

mod endpoints;
mod explaining;
mod look_up;
mod refusal;
mod standing;
mod tokens;

pub use endpoints::Attempt;
pub use explaining::Remembered;
pub use standing::Identified;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cache::{Cached, Identities, Unknowns};
use super::credential::{self, Credential, Presented};
use super::error::{AuthError, InvalidReason};
use super::failures::Failures;
use super::feed::{FeedState, Follower};
use super::flights::Flights;
use super::issued::IssuedTokens;
use super::jwt::{ClientCache, ClientLoader, Issuers, KnownTokens, TokenFault};
use super::loader::{Loader, PepperSuspicion};
use super::pepper_guard::PepperVersions;
use super::rehash::Rehasher;
use super::slots::Slots;
use super::upkeep::Upkeep;
use crate::clients::{CredentialKind, LiveClient, LiveClients, Principal, Stamp};
use crate::config::auth::AuthConfig;
use crate::config::route::{RouteAuth, RouteConfig};
use crate::crypto::key_text::KeyText;
use crate::crypto::pepper::Peppers;
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::key::KeyDefect;
use crate::model::rate::RateLimit;
use crate::store::rotation::RotationStore;
use crate::store::tokens::TokenStore;
use crate::store::{ChangeStore, ClientStore, KeyStore};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use http::HeaderName;

/// What an [`Authenticator`] works with.
pub struct Dependencies {
    /// The live peppers.
    pub peppers: Peppers,
    /// Their numbers, from [`guard_pepper`](super::guard_pepper).
    pub pepper_versions: PepperVersions,
    /// For clients without a limit of their own.
    pub default_limit: RateLimit,
    /// Where keys are looked up.
    pub keys: Arc<dyn KeyStore>,
    /// Where hashes are moved to another pepper.
    pub rotation: Arc<dyn RotationStore>,
    /// Where the clients that tokens name are looked up.
    pub client_rows: Arc<dyn ClientStore>,
    /// Where tokens of our own are looked up.
    pub token_rows: Arc<dyn TokenStore>,
    /// Whose tokens are believed.
    pub issuers: Issuers,
    /// Where changes are followed.
    pub changes: Arc<dyn ChangeStore>,
    /// The clients in use.
    pub clients: Arc<LiveClients>,
    /// Time.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where look-ups and the follower run.
    pub tasks: Tasks,
}

/// Finds out who calls. One for all workers.
pub struct Authenticator {
    prefix: String,
    /// Where our own endpoints look for a key.
    looks_at: Vec<HeaderName>,
    peppers: Peppers,
    max_stale: Duration,
    nobody: Arc<Principal>,
    identities: Arc<Identities>,
    unknowns: Arc<Unknowns>,
    failures: Failures,
    slots: Slots,
    feed: Arc<FeedState>,
    loader: Arc<Loader>,
    issuers: Arc<Issuers>,
    tokens: Arc<KnownTokens>,
    client_loader: Arc<ClientLoader>,
    issued: Arc<IssuedTokens>,
    changes: Arc<dyn ChangeStore>,
    clients: Arc<LiveClients>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

/// How far a cached identity may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Confirmed.
    Confirmed,
    /// Nothing contradicts it, but a change might have been missed: to be re-checked before use.
    Unconfirmed,
    /// Something about its client changed, or it is too old: it must be read again.
    Void,
}

impl Authenticator {
    /// An authenticator that knows nobody yet.
    #[must_use]
    pub fn new(config: &AuthConfig, with: Dependencies) -> Arc<Self> {
        Arc::new(Self::with_deadline(config, with, look_up::LOOK_UP_DEADLINE))
    }

    pub(super) fn with_deadline(config: &AuthConfig, with: Dependencies, deadline: Duration) -> Self {
        let identities = Arc::new(Identities::new());
        let unknowns = Arc::new(Unknowns::new());
        let rehasher =
            Rehasher::new(Arc::clone(&with.rotation), Arc::clone(&with.metrics), &with.peppers, with.pepper_versions);
        let loader = Arc::new(Loader {
            keys: with.keys,
            clients: Arc::clone(&with.clients),
            clock: Arc::clone(&with.clock),
            metrics: Arc::clone(&with.metrics),
            tasks: with.tasks.clone(),
            default_limit: with.default_limit,
            pepper_versions: with.pepper_versions,
            rotation: with.rotation,
            rehasher: Arc::new(rehasher),
            cache_ttl: config.cache_ttl,
            deadline,
            identities: Arc::clone(&identities),
            unknowns: Arc::clone(&unknowns),
            flights: Flights::new(),
            suspicion: PepperSuspicion::default(),
        });
        let client_loader = Arc::new(ClientLoader {
            store: with.client_rows,
            clients: Arc::clone(&with.clients),
            clock: Arc::clone(&with.clock),
            metrics: Arc::clone(&with.metrics),
            tasks: with.tasks.clone(),
            default_limit: with.default_limit,
            deadline,
            cache_ttl: config.cache_ttl,
            known: ClientCache::new(),
            unknowns: Arc::clone(&unknowns),
        });
        let issued = Arc::new(IssuedTokens {
            store: with.token_rows,
            clients: Arc::clone(&with.clients),
            clock: Arc::clone(&with.clock),
            metrics: Arc::clone(&with.metrics),
            tasks: with.tasks.clone(),
            default_limit: with.default_limit,
            deadline,
            cache_ttl: config.cache_ttl,
            flights: Flights::new(),
        });
        let looks_at = [http::header::AUTHORIZATION].into_iter().chain(config.key_headers.iter().cloned()).collect();
        Self {
            prefix: config.prefix.clone(),
            looks_at,
            peppers: with.peppers,
            max_stale: config.max_stale,
            nobody: Arc::new(Principal::nobody(with.clients.nobody())),
            identities,
            unknowns,
            failures: Failures::new(config.failures),
            slots: Slots::new(),
            feed: Arc::new(FeedState::new()),
            loader,
            issuers: Arc::new(with.issuers),
            tokens: Arc::new(KnownTokens::new()),
            client_loader,
            issued,
            changes: with.changes,
            clients: with.clients,
            clock: with.clock,
            metrics: with.metrics,
            tasks: with.tasks,
        }
    }

    /// The principal behind a request on `route`, from `address`. Counts the outcome.
    ///
    /// Removes nothing from the headers: the proxy removes the route's credential headers. A route
    /// with `auth = "none"` has the principal *nobody*, and nothing is read or checked.
    ///
    /// # Errors
    /// The private reason; `proxy::rejection` turns it into the public one.
    pub async fn authenticate(
        &self,
        route: &RouteConfig,
        presented: Presented<'_>,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Identified, AuthError> {
        let outcome = match route.auth {
            RouteAuth::None => return Ok(Identified::nobody(&self.nobody)),
            RouteAuth::Required | RouteAuth::Key | RouteAuth::Jwt => {
                match self.identify(route, presented, address, now).await {
                    Ok(cached) => self.judge(&cached).map(|()| Identified::known(cached)),
                    Err(error) => Err(error),
                }
            }
        };
        match &outcome {
            Ok(_) => self.metrics.auth_passed(),
            Err(error) => self.metrics.auth_failed(error.reason()),
        }
        outcome
    }

    /// Whoever is not known, where that refuses nothing.
    #[must_use]
    pub fn nobody(&self) -> Identified {
        Identified::nobody(&self.nobody)
    }

    /// Whether `principal` may use `route` from `address`: evaluated for every request. The
    /// address first: who stands at the wrong place learns nothing of what the key may do.
    ///
    /// # Errors
    /// The private reason.
    pub fn authorize(&self, route: &RouteConfig, principal: &Principal, address: IpAddr) -> Result<(), AuthError> {
        let error = if !principal.may_call_from(address) {
            AuthError::AddressDenied
        } else if !principal.scopes.contain_all(&route.scopes) {
            AuthError::InsufficientScope
        } else {
            return Ok(());
        };
        self.metrics.auth_failed(error.reason());
        Err(error)
    }

    /// Spawns the tasks that follow the store's changes, fetch issuers' keys, tidy up, and move
    /// hashes to the current pepper. Without the first, every identity older than a second is
    /// re-checked before use.
    pub fn follow_changes(self: &Arc<Self>) {
        self.issuers.start(&self.tasks, &self.metrics);
        let stop = self.tasks.soft().clone();
        self.tasks.spawn_vital("change feed", self.follower().run(stop));
        self.tasks.spawn_vital("identity upkeep", self.upkeep().run(self.tasks.soft().clone()));
        self.tasks.spawn_vital("re-hash", self.rehasher().run(self.tasks.soft().clone()));
    }

    /// Whether the store answered when it was last asked for changes.
    #[must_use]
    pub fn store_is_reachable(&self) -> bool {
        self.feed.store_is_reachable()
    }

    /// Whether every issuer's keys are there and fresh.
    #[must_use]
    pub fn issuers_are_there(&self) -> bool {
        !self.issuers.any_is_away()
    }

    pub(super) fn follower(&self) -> Follower {
        Follower {
            changes: Arc::clone(&self.changes),
            state: Arc::clone(&self.feed),
            clients: Arc::clone(&self.clients),
            unknowns: Arc::clone(&self.unknowns),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            reader: None,
            lost: false,
        }
    }

    pub(super) fn rehasher(&self) -> Arc<Rehasher> {
        Arc::clone(&self.loader.rehasher)
    }

    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep {
            identities: Arc::clone(&self.identities),
            tokens: Arc::clone(&self.tokens),
            issuers: Arc::clone(&self.issuers),
            client_loader: Arc::clone(&self.client_loader),
            clients: Arc::clone(&self.clients),
            changes: Arc::clone(&self.changes),
            max_stale: self.max_stale,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Step 1, and on to the others.
    async fn identify(
        &self,
        route: &RouteConfig,
        presented: Presented<'_>,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Arc<Cached>, AuthError> {
        let raw = match credential::find(route, presented)? {
            Credential::Absent => return Err(AuthError::Missing),
            Credential::Jwt(_) if route.auth == RouteAuth::Key => {
                return Err(AuthError::invalid(InvalidReason::WrongKind));
            }
            Credential::Jwt(token) => return self.identify_token(token, address, now).await,
            Credential::Key(_) | Credential::Certificate(_) if route.auth == RouteAuth::Jwt => {
                return Err(AuthError::invalid(InvalidReason::WrongKind));
            }
            Credential::Certificate(subject) => return self.identify_raw(subject, address, now).await,
            Credential::Key(raw) => raw,
        };
        self.identify_key(raw, address, now).await
    }

    /// Steps 2-4 for the text of a key, and on to the others.
    async fn identify_key(&self, raw: &[u8], address: IpAddr, now: Monotonic) -> Result<Arc<Cached>, AuthError> {
        if KeyText::parse(&self.prefix, raw).is_err() {
            return Err(AuthError::invalid(InvalidReason::Malformed));
        }
        self.identify_raw(raw, address, now).await
    }

    /// Steps 3 and 4, and on to the others.
    async fn identify_raw(&self, raw: &[u8], address: IpAddr, now: Monotonic) -> Result<Arc<Cached>, AuthError> {
        let hash = self.peppers.current.hash(raw);
        match self.identities.find(&hash) {
            // Its time ran out while it was known: from now on it is a stranger's.
            Some(cached) if cached.defect(|| self.clock.wall()).is_some() => {
                self.identities.remove(&hash);
                Box::pin(self.look_up(hash, raw, address, now)).await
            }
            Some(cached) => match self.trust(&cached, now) {
                Trust::Confirmed => {
                    self.metrics.auth_cache_hit.inc();
                    self.refresh_when_due(&cached, hash, raw, now);
                    Ok(cached)
                }
                // Boxed, as below: rare, and their state would make every request's future large.
                Trust::Unconfirmed => Box::pin(self.recheck(cached, hash, raw, address, now)).await,
                Trust::Void => Box::pin(self.reload(&cached, hash, raw, address, now)).await,
            },
            None => Box::pin(self.look_up(hash, raw, address, now)).await,
        }
    }

    fn trust(&self, cached: &Cached, now: Monotonic) -> Trust {
        self.trust_in(&cached.principal.client, cached.stamp, cached.loaded_at, now)
    }

    fn trust_in(&self, client: &LiveClient, stamp: Stamp, loaded_at: Monotonic, now: Monotonic) -> Trust {
        if now.since(loaded_at) > self.max_stale || !self.clients.confirm(client, stamp) {
            Trust::Void
        } else if self.feed.covers(loaded_at, now) {
            Trust::Confirmed
        } else {
            Trust::Unconfirmed
        }
    }

    /// Step 8. The key before its client: a revoked key of a suspended client says no more than
    /// an unknown one.
    fn judge(&self, cached: &Cached) -> Result<(), AuthError> {
        let principal = &cached.principal;
        if let Some(defect) = cached.defect(|| self.clock.wall()) {
            let reason = match defect {
                KeyDefect::Revoked => InvalidReason::Revoked,
                KeyDefect::Expired if principal.kind == CredentialKind::Jwt => {
                    InvalidReason::Token(TokenFault::Expired)
                }
                KeyDefect::Expired => InvalidReason::Expired,
            };
            let (client, key) = (Some(principal.client.id), Some(principal.api_key_id));
            return Err(AuthError::Invalid { reason, client, key });
        }
        if principal.client.is_suspended() {
            return Err(AuthError::ClientSuspended { client: principal.client.id, key: principal.api_key_id });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authenticator").field("feed", &self.feed).finish_non_exhaustive()
    }
}
