//! An authenticator over a store in memory, with everything a test turns.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::runtime::Handle;

use super::double::{Double, Feed};
use super::error::AuthError;
use super::feed::Follower;
use super::pepper_guard::PepperVersions;
use super::{Authenticator, Dependencies, Issuers};
use crate::clients::{LiveClients, Principal};
use crate::config::auth::{AuthConfig, FailureBudget};
use crate::config::route::{RouteAuth, RouteConfig};
use crate::crypto::pepper::{Peppers, sha256};
use crate::model::access::Scopes;
use crate::model::clock::{Clock as _, ManualClock, SharedClock};
use crate::model::id::ApiKeyId;
use crate::model::key::{CredentialRecord, HashKind, KeyHash};
use crate::model::rate::RateLimit;
use crate::model::secret::SecretBytes;
use crate::model::testing::{MADE_AT, api_key, client};
use crate::store::changes::Change;
use crate::store::rotation::RotationStore;
use crate::store::tokens::TokenStore;
use crate::store::{ClientStore, KeyStore};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// When the tests begin.
pub(super) const START: &str = MADE_AT;

/// An authenticator over a [`Double`], with everything a test turns.
pub(super) struct Bench {
    pub(super) store: Arc<Double>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) follower: tokio::sync::Mutex<Follower>,
    pub(super) route: RouteConfig,
    pub(super) clients: Arc<LiveClients>,
    peppers: Peppers,
}

impl Bench {
    /// Without a follower's step nothing is confirmed; this one has made the first.
    pub(super) async fn followed() -> Arc<Self> {
        let bench = Self::new(Duration::from_secs(1));
        bench.step().await;
        bench
    }

    /// `deadline` is that of a look-up.
    pub(super) fn new(deadline: Duration) -> Arc<Self> {
        Self::with_issuers(deadline, |clock| Issuers::new(&[], clock).unwrap())
    }

    /// The same, with tokens that are believed.
    pub(super) fn with_issuers(deadline: Duration, issuers: impl FnOnce(&SharedClock) -> Issuers) -> Arc<Self> {
        let store = Double::new();
        let clock = ManualClock::at(START.parse().unwrap());
        let metrics = Metrics::new(&[], &[]);
        let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        let peppers = Peppers::new(&secret("current"), Some(&secret("previous")));
        let config = AuthConfig {
            prefix: "octroi".into(),
            query_param: None,
            key_headers: vec![],
            pepper: None,
            pepper_previous: None,
            cache_ttl: Duration::from_secs(30),
            max_stale: Duration::from_mins(10),
            failures: FailureBudget { rate: "10/s".parse().unwrap(), burst: NonZeroU32::new(100).unwrap() },
            issuers: Vec::new(),
        };
        let clients = LiveClients::new(&metrics);
        let with = Dependencies {
            peppers: peppers.clone(),
            pepper_versions: PepperVersions { current: 2, previous: Some(1) },
            default_limit: RateLimit::new("100/s".parse().unwrap(), None),
            keys: Arc::clone(&store) as Arc<dyn KeyStore>,
            rotation: Arc::clone(&store) as Arc<dyn RotationStore>,
            client_rows: Arc::clone(&store) as Arc<dyn ClientStore>,
            token_rows: Arc::clone(&store) as Arc<dyn TokenStore>,
            issuers: issuers(&(Arc::clone(&clock) as SharedClock)),
            changes: Arc::new(Feed(Arc::clone(&store))),
            clients: Arc::clone(&clients),
            clock: Arc::clone(&clock) as SharedClock,
            metrics: Arc::clone(&metrics),
            tasks: Tasks::new(Handle::current()),
        };
        let authenticator = Arc::new(Authenticator::with_deadline(&config, with, deadline));
        let follower = tokio::sync::Mutex::new(authenticator.follower());
        Arc::new(Self { store, clock, metrics, authenticator, follower, route: route(), clients, peppers })
    }

    /// The follower asks what changed.
    pub(super) async fn step(&self) {
        self.follower.lock().await.step().await;
    }

    /// Time passes while the feed is followed.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.step().await;
    }

    /// Stores a key, hashed under the current pepper, of a client of its own.
    pub(super) fn add(&self, raw: &str) -> CredentialRecord {
        self.add_under(self.peppers.current.hash(raw.as_bytes()))
    }

    /// The same under the other pepper.
    pub(super) fn add_under_previous(&self, raw: &str) -> CredentialRecord {
        self.add_under(self.peppers.previous.as_ref().unwrap().hash(raw.as_bytes()))
    }

    /// The same by its plain SHA-256, as an import leaves it.
    pub(super) fn add_imported(&self, raw: &str) -> CredentialRecord {
        let hash = sha256(raw.as_bytes());
        self.add_under(hash);
        let mut rows = self.store.rows.lock().unwrap();
        let record = rows.get_mut(&hash).unwrap();
        let key = record.key.as_mut().unwrap();
        (key.hash_kind, key.pepper_version) = (HashKind::Sha256, None);
        record.pepper_version = None;
        record.clone()
    }

    fn add_under(&self, hash: KeyHash) -> CredentialRecord {
        let mut rows = self.store.rows.lock().unwrap();
        let number = rows.len() as u128 + 1;
        let record = record(number, hash);
        rows.insert(hash, record.clone());
        record
    }

    /// Changes the row of a key, without telling anyone.
    pub(super) fn change(&self, raw: &str, change: impl FnOnce(&mut CredentialRecord)) {
        let mut rows = self.store.rows.lock().unwrap();
        change(rows.get_mut(&self.peppers.current.hash(raw.as_bytes())).unwrap());
    }

    /// The same of an imported one.
    pub(super) fn change_imported(&self, raw: &str, change: impl FnOnce(&mut CredentialRecord)) {
        change(self.store.rows.lock().unwrap().get_mut(&sha256(raw.as_bytes())).unwrap());
    }

    /// Revokes a key, as another process would: the row, and the row of `changes`.
    pub(super) fn revoke(&self, raw: &str) {
        let now = self.clock.wall();
        self.change(raw, |record| record.key.as_mut().unwrap().revoked_at = Some(now));
        self.tell_of(raw, false);
    }

    /// Deletes a key, as another process would.
    pub(super) fn delete(&self, raw: &str) {
        self.tell_of(raw, false);
        self.store.rows.lock().unwrap().remove(&self.peppers.current.hash(raw.as_bytes()));
    }

    pub(super) fn tell_of(&self, raw: &str, added: bool) {
        let hash = self.peppers.current.hash(raw.as_bytes());
        let client = self.store.rows.lock().unwrap()[&hash].client.id;
        self.store.tell(Change::Key { client, key: ApiKeyId::NIL, added });
    }

    /// A request with this key, from a usual address.
    pub(super) async fn call(&self, raw: &str) -> Result<Arc<Principal>, AuthError> {
        self.call_from("192.0.2.1", raw).await
    }

    pub(super) async fn call_from(&self, address: &str, raw: &str) -> Result<Arc<Principal>, AuthError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", raw.parse().unwrap());
        self.send(&self.route, &headers, address).await
    }

    pub(super) async fn send(
        &self,
        route: &RouteConfig,
        headers: &HeaderMap,
        address: &str,
    ) -> Result<Arc<Principal>, AuthError> {
        let now = self.clock.monotonic();
        self.authenticator
            .authenticate(route, headers.into(), address.parse().unwrap(), now)
            .await
            .map(|who| Arc::clone(who.principal()))
    }

    /// Whether a sweep leaves so many clients. The cache may let go of what was dropped a moment
    /// later, when no other thread looks into one any more.
    pub(super) async fn sweeps_to(&self, clients: usize) -> bool {
        for _ in 0..500 {
            if self.authenticator.upkeep().sweep(self.clock.monotonic()) == clients {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// How a request with this key ends: `ok` or the private reason.
    pub(super) async fn outcome(&self, raw: &str) -> &'static str {
        outcome(&self.call(raw).await)
    }

    /// Whether the metrics have this line.
    pub(super) fn counted(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|other| other == line)
    }
}

pub(super) fn outcome(result: &Result<Arc<Principal>, AuthError>) -> &'static str {
    result.as_ref().map_or_else(AuthError::reason, |_| "ok")
}

fn record(number: u128, hash: KeyHash) -> CredentialRecord {
    CredentialRecord { client: client(number), key: Some(api_key(number)), matched: hash, pepper_version: Some(2) }
}

/// A route that takes keys in `Authorization` and `X-API-Key`.
pub(super) fn route() -> RouteConfig {
    RouteConfig {
        name: "orders".into(),
        host: None,
        path: "/orders".into(),
        methods: vec![],
        upstream: "orders".into(),
        delegated: false,
        observe_until: None,
        strip_prefix: true,
        auth: RouteAuth::Required,
        credentials: vec![http::header::AUTHORIZATION, HeaderName::from_static("x-api-key")],
        certificate: false,
        scopes: Scopes::default(),
        max_body: None,
        merge_slashes: false,
        encoded_slash: false,
        response_timeout: None,
        idle_timeout: None,
        request_timeout: None,
        websocket: false,
        preserve_host: false,
        cost: 1,
        shaping: crate::config::shaping::Shaping::default(),
    }
}
