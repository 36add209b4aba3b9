//! The steps of authentication, in their order.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::api_key::Identity;
use super::cache::IdentityCache;
use super::credential::{Credential, extract};
use super::error::{AuthError, InvalidReason};
use super::failures::Failures;
use super::feed::{FeedState, Follower};
use super::flight::Flights;
use super::guard::PepperVersions;
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, LiveClients, Principal};
use crate::config::auth::AuthConfig;
use crate::config::route::{RouteAuth, RouteConfig};
use crate::crypto::key_text::{self, KeyShape};
use crate::crypto::pepper::Peppers;
use crate::model::access::Scopes;
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::id::{ApiKeyId, TokenId};
use crate::model::key::{CredentialRecord, KeyHash};
use crate::model::rate::RateLimit;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// How long a look-up may take before the caller is told to come back.
const LOAD_PATIENCE: Duration = Duration::from_secs(1);

/// How long a known identity waits to be confirmed before it is served as it is.
const RECHECK_PATIENCE: Duration = Duration::from_millis(250);

/// How long the feed may be silent before identities are confirmed one by one.
const FEED_PATIENCE: Duration = Duration::from_secs(1);

/// How often a load reads again because a change came in between.
const LOAD_ATTEMPTS: usize = 3;

/// Unknown keys in a row, with none ever known, after which the pepper is suspected.
const SUSPICIOUS_RUN: u32 = 50;

/// What an authenticator is made of.
pub struct AuthParts {
    /// Prefix, ages, budget.
    pub config: AuthConfig,
    /// The live peppers.
    pub peppers: Peppers,
    /// The versions the store knows them by.
    pub versions: PepperVersions,
    /// For clients without a limit of their own.
    pub default_limit: RateLimit,
    /// Where identities are looked up.
    pub store: Store,
    /// Time.
    pub clock: SharedClock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where loads run.
    pub tasks: Tasks,
}

/// Finds out who calls. Shared by all workers.
pub struct Authenticator {
    parts: AuthParts,
    cache: Arc<IdentityCache>,
    clients: Arc<LiveClients>,
    feed: Arc<FeedState>,
    failures: Failures,
    loads: Flights<KeyHash, Loaded>,
    nobody: Arc<Principal>,
    unknown_run: AtomicU32,
    ever_known: AtomicBool,
}

/// What a load found.
#[derive(Clone, Debug)]
enum Loaded {
    Known(Arc<Identity>),
    Unknown,
    Unavailable,
}

/// What may be done with a cached identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// Use it.
    Fresh,
    /// Use it, and load it anew in the background.
    Aging,
    /// The feed is silent though the store can be reached: confirm it first.
    Unconfirmed,
    /// The store cannot be reached: use it.
    Stale,
    /// It is contradicted or too old: load it anew.
    Void,
}

impl Authenticator {
    /// An authenticator with empty caches.
    #[must_use]
    pub fn new(parts: AuthParts) -> Arc<Self> {
        let nobody = Principal {
            client: LiveClient::nobody(),
            kind: CredentialKind::None,
            api_key_id: ApiKeyId::NIL,
            token_id: TokenId::NIL,
            scopes: Scopes::default(),
            headers: IdentityHeaders::default(),
        };
        Arc::new(Self {
            cache: Arc::new(IdentityCache::new(parts.config.max_stale)),
            clients: Arc::new(LiveClients::default()),
            feed: Arc::new(FeedState::new(parts.clock.monotonic())),
            failures: Failures::new(parts.config.failures),
            loads: Flights::new(),
            nobody: Arc::new(nobody),
            unknown_run: AtomicU32::new(0),
            ever_known: AtomicBool::new(false),
            parts,
        })
    }

    /// Starts following the feed of changes.
    pub fn follow_changes(&self) {
        self.parts.tasks.spawn_vital("change feed", self.follower().run(self.parts.tasks.clone()));
    }

    fn follower(&self) -> Follower {
        Follower {
            state: Arc::clone(&self.feed),
            cache: Arc::clone(&self.cache),
            clients: Arc::clone(&self.clients),
            changes: Arc::clone(&self.parts.store.changes),
            clock: Arc::clone(&self.parts.clock),
        }
    }

    /// Whether the store answered when it was last asked for changes.
    #[must_use]
    pub fn store_is_reachable(&self) -> bool {
        self.feed.is_reachable()
    }

    /// The principal behind a request on `route`, from `address`.
    ///
    /// Removes nothing from `headers`: the proxy removes the route's credential headers.
    pub async fn authenticate(
        self: &Arc<Self>,
        route: &RouteConfig,
        headers: &HeaderMap,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Arc<Principal>, AuthError> {
        if route.auth == RouteAuth::None {
            return Ok(Arc::clone(&self.nobody));
        }
        let outcome = self.identify(route, headers, address, now).await;
        match &outcome {
            Ok(_) => self.parts.metrics.auth_passed(),
            Err(error) => self.parts.metrics.auth_failed(error.reason()),
        }
        outcome
    }

    async fn identify(
        self: &Arc<Self>,
        route: &RouteConfig,
        headers: &HeaderMap,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Arc<Principal>, AuthError> {
        // Exactly one credential, before anything is spent on it.
        let raw = match extract(&route.credentials, headers)? {
            Credential::Key(raw) if route.auth != RouteAuth::Jwt => raw,
            Credential::Key(_) | Credential::Jwt(_) => return Err(AuthError::invalid(InvalidReason::WrongKind)),
        };
        // Shape and check digits before the hash: a typo costs neither hash nor look-up. It is a
        // failure like any other, or guessing with bad digits would be free.
        if key_text::shape(&self.parts.config.prefix, raw) == KeyShape::Malformed {
            self.failures.charge(address, now)?;
            return Err(AuthError::invalid(InvalidReason::Malformed));
        }
        let digest = self.parts.peppers.hash(raw);
        // The cache before the failure budget: a known key passes from any address.
        let identity = match self.cached(digest, raw, now).await? {
            Some(identity) => identity,
            None => self.look_up(digest, raw, address, now).await?,
        };
        identity.judge(self.parts.clock.as_ref())?;
        Ok(Arc::clone(&identity.principal))
    }

    /// A cached identity that may be used; none when it must be looked up.
    async fn cached(
        self: &Arc<Self>,
        digest: KeyHash,
        raw: &[u8],
        now: Monotonic,
    ) -> Result<Option<Arc<Identity>>, AuthError> {
        let Some(identity) = self.cache.find(&digest) else { return Ok(None) };
        match self.freshness(&identity, now) {
            Freshness::Fresh => {}
            Freshness::Aging => self.loads.start(digest, &self.parts.tasks, || self.load(digest, raw)),
            Freshness::Stale => {
                self.parts.metrics.auth_stale.inc();
            }
            Freshness::Unconfirmed => return self.confirm(identity, digest, raw).await.map(Some),
            Freshness::Void => return self.load_known(digest, raw).await.map(Some),
        }
        self.parts.metrics.auth_cache_hit.inc();
        Ok(Some(identity))
    }

    fn freshness(&self, identity: &Identity, now: Monotonic) -> Freshness {
        let age = now.since(identity.loaded_at);
        if !identity.is_current() || age > self.parts.config.max_stale {
            return Freshness::Void;
        }
        if now.since(self.feed.confirmed_at()) > FEED_PATIENCE && age > FEED_PATIENCE {
            return if self.feed.is_reachable() { Freshness::Unconfirmed } else { Freshness::Stale };
        }
        if age > self.parts.config.cache_ttl { Freshness::Aging } else { Freshness::Fresh }
    }

    /// Asks the store about a known identity; one that cannot be asked about is served.
    async fn confirm(
        self: &Arc<Self>,
        identity: Arc<Identity>,
        digest: KeyHash,
        raw: &[u8],
    ) -> Result<Arc<Identity>, AuthError> {
        let load = self.loads.join(digest, &self.parts.tasks, || self.load(digest, raw));
        match tokio::time::timeout(RECHECK_PATIENCE, load).await {
            Ok(Some(Loaded::Known(identity))) => Ok(identity),
            Ok(Some(Loaded::Unknown)) => Err(AuthError::invalid(InvalidReason::Unknown)),
            Ok(Some(Loaded::Unavailable) | None) | Err(_) => {
                self.parts.metrics.auth_stale.inc();
                Ok(identity)
            }
        }
    }

    /// Loads anew what was known and is void: no guess, so no failure is charged.
    async fn load_known(self: &Arc<Self>, digest: KeyHash, raw: &[u8]) -> Result<Arc<Identity>, AuthError> {
        self.parts.metrics.auth_cache_miss.inc();
        match self.loads.join(digest, &self.parts.tasks, || self.load(digest, raw)).await {
            Some(Loaded::Known(identity)) => Ok(identity),
            Some(Loaded::Unknown) => Err(AuthError::invalid(InvalidReason::Unknown)),
            Some(Loaded::Unavailable) | None => Err(AuthError::Unavailable),
        }
    }

    /// Looks up a digest that is not cached: the failure budget, the unknown ones, the store.
    async fn look_up(
        self: &Arc<Self>,
        digest: KeyHash,
        raw: &[u8],
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Arc<Identity>, AuthError> {
        let charge = self.failures.charge(address, now)?;
        if self.cache.is_unknown(&digest) {
            self.parts.metrics.auth_cache_negative.inc();
            return Err(AuthError::invalid(InvalidReason::Unknown));
        }
        let loaded = self.load_known(digest, raw).await;
        // Only a credential that is known to be unknown is a failure of its caller's.
        if !matches!(loaded, Err(AuthError::Invalid { .. })) {
            charge.give_back();
        }
        loaded
    }

    /// A load, to run on the control runtime.
    fn load(self: &Arc<Self>, digest: KeyHash, raw: &[u8]) -> impl Future<Output = Loaded> + Send + 'static {
        let (this, previous) = (Arc::clone(self), self.parts.peppers.previous_hash(raw));
        async move { this.load_from_store(digest, previous).await }
    }

    async fn load_from_store(&self, digest: KeyHash, previous: Option<KeyHash>) -> Loaded {
        let hashes = [digest, previous.unwrap_or(digest)];
        let hashes = if previous.is_some() { &hashes[..] } else { &hashes[..1] };
        let mut last = Loaded::Unavailable;
        for _ in 0..LOAD_ATTEMPTS {
            let applied = self.feed.applied();
            let began = self.parts.clock.monotonic();
            let record = match self.find(hashes).await {
                Ok(record) => record,
                Err(error) => return self.could_not_load(&error),
            };
            last = match record {
                Some(record) => Loaded::Known(self.identity_of(&record, digest, began)),
                None => Loaded::Unknown,
            };
            if self.feed.applied() == applied {
                self.remember(digest, &last, applied);
                break;
            }
            // A change came in between: what was read may be older than it.
        }
        self.note_result(&last);
        last
    }

    async fn find(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>, StoreError> {
        match tokio::time::timeout(LOAD_PATIENCE, self.parts.store.keys.find_by_hash(hashes)).await {
            Ok(found) => found,
            Err(late) => Err(StoreError::Unavailable { operation: "find_by_hash", source: late.into() }),
        }
    }

    fn could_not_load(&self, error: &StoreError) -> Loaded {
        self.parts.metrics.store_failed("find_by_hash");
        // An outage is told once, by the follower of changes; a broken row each time.
        if !error.is_transient() {
            tracing::error!(error = error as &dyn std::error::Error, "a credential could not be read");
        }
        Loaded::Unavailable
    }

    fn identity_of(&self, record: &CredentialRecord, digest: KeyHash, began: Monotonic) -> Arc<Identity> {
        let client = self.clients.attach(&record.client, self.parts.default_limit, began);
        self.note_pepper(record, digest);
        Arc::new(Identity::new(record, client, began))
    }

    fn remember(&self, digest: KeyHash, loaded: &Loaded, applied: u64) {
        match loaded {
            Loaded::Known(identity) => self.cache.remember(digest, Arc::clone(identity)),
            Loaded::Unknown => {
                self.cache.remember_unknown(digest);
                // A hash that was added between the check and the insertion must not stay unknown.
                if self.feed.applied() != applied {
                    self.cache.forget_unknown(&digest);
                }
            }
            Loaded::Unavailable => {}
        }
    }

    /// Fills in the pepper's version of a row that was inserted without one.
    fn note_pepper(&self, record: &CredentialRecord, digest: KeyHash) {
        let (Some(key), None) = (&record.key, record.pepper_version) else { return };
        let versions = self.parts.versions;
        let version = if record.matched == digest { Some(versions.current) } else { versions.previous };
        let (Some(version), id, keys) = (version, key.id, Arc::clone(&self.parts.store.keys)) else { return };
        self.parts.tasks.spawn_control(async move {
            if let Err(error) = keys.note_pepper_version(id, version).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a pepper version could not be noted; the next load tries again"
                );
            }
        });
    }

    fn note_result(&self, loaded: &Loaded) {
        match loaded {
            Loaded::Known(_) => self.ever_known.store(true, Ordering::Relaxed),
            Loaded::Unknown if !self.ever_known.load(Ordering::Relaxed) => {
                if self.unknown_run.fetch_add(1, Ordering::Relaxed) + 1 == SUSPICIOUS_RUN {
                    tracing::warn!(
                        alarm = "pepper_suspect",
                        unknown = SUSPICIOUS_RUN,
                        "no key was recognised since the start: were the stored hashes made with this API_KEY_PEPPER?"
                    );
                }
            }
            Loaded::Unknown | Loaded::Unavailable => {}
        }
    }

    /// Whether `principal` may use `route`: evaluated for every request, never cached.
    pub fn authorize(&self, route: &RouteConfig, principal: &Principal) -> Result<(), AuthError> {
        if principal.scopes.contain_all(&route.scopes) {
            return Ok(());
        }
        self.parts.metrics.auth_failed(AuthError::InsufficientScope.reason());
        Err(AuthError::InsufficientScope)
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
