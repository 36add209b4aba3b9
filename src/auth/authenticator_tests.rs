//! The promises of authentication, with a store that can be slowed, emptied and taken away.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use http::header::HeaderName;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::*;
use crate::config::auth::FailureBudget;
use crate::config::store::{StoreConfig, StoreUrl};
use crate::config::{Config, Environment};
use crate::crypto::pepper::Pepper;
use crate::model::client::{Client, ClientStatus};
use crate::model::clock::{Clock as _, ManualClock};
use crate::model::id::ClientId;
use crate::model::key::{ApiKey, NewApiKey};
use crate::model::secret::SecretBytes;
use crate::store::changes::Change;
use crate::store::{ChangeReader, ChangeStore, KeyStore, Page};

const RAW: &str = "a-legacy-key-of-acme";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

type StoreResult<T> = Result<T, StoreError>;

/// Keys in memory; look-ups can be counted, held up, and failed.
#[derive(Default)]
struct Keys {
    records: Mutex<HashMap<KeyHash, CredentialRecord>>,
    gone: AtomicBool,
    loads: AtomicU64,
    /// When set, a look-up reads and then waits for a permit before it answers.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

fn gone() -> StoreError {
    StoreError::Unavailable { operation: "test", source: "the store is gone".into() }
}

#[async_trait]
impl KeyStore for Keys {
    async fn find_by_hash(&self, hashes: &[KeyHash]) -> StoreResult<Option<CredentialRecord>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        if self.gone.load(Ordering::SeqCst) {
            return Err(gone());
        }
        let found = {
            let records = self.records.lock().unwrap();
            hashes.iter().find_map(|hash| records.get(hash)).cloned()
        };
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(found)
    }

    async fn create(&self, _: NewApiKey) -> StoreResult<ApiKey> {
        unreachable!("authentication only looks up")
    }
    async fn find(&self, _: ApiKeyId) -> StoreResult<Option<ApiKey>> {
        unreachable!("authentication only looks up")
    }
    async fn find_by_key_id(&self, _: &str) -> StoreResult<Option<ApiKey>> {
        unreachable!("authentication only looks up")
    }
    async fn list(&self, _: Option<ClientId>, _: Option<ApiKeyId>, _: u32) -> StoreResult<Page<ApiKey>> {
        unreachable!("authentication only looks up")
    }
    async fn revoke(&self, _: ApiKeyId, _: Timestamp) -> StoreResult<Option<ApiKey>> {
        unreachable!("authentication only looks up")
    }
    async fn note_pepper_version(&self, _: ApiKeyId, _: i32) -> StoreResult<()> {
        Ok(())
    }
}

struct NoChanges;

#[async_trait]
impl ChangeStore for NoChanges {
    async fn follow(&self) -> StoreResult<Box<dyn ChangeReader>> {
        Err(gone())
    }
    async fn prune(&self, _: Timestamp) -> StoreResult<u64> {
        Ok(0)
    }
}

/// An authenticator over such a store, with a clock that stands still.
struct Rig {
    keys: Arc<Keys>,
    clock: Arc<ManualClock>,
    authenticator: Arc<Authenticator>,
    peppers: Peppers,
    route: RouteConfig,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(folder.path().join("unused.db"));
        let opened = StoreConfig { url, migrate: false, start_timeout: Duration::ZERO };
        let mut store = crate::store::open(&opened).await.unwrap();
        let keys = Arc::new(Keys::default());
        store.keys = Arc::clone(&keys) as Arc<dyn KeyStore>;
        store.changes = Arc::new(NoChanges);
        let clock = ManualClock::at("2026-11-22T20:00:00Z".parse().unwrap());
        let peppers = Peppers::new(Pepper::new(&SecretBytes::new(vec![7; 32])), None);
        let mut config = config();
        config.auth.failures = FailureBudget { rate: "1/h".parse().unwrap(), burst: NonZeroU32::new(3).unwrap() };
        let authenticator = Authenticator::new(AuthParts {
            config: config.auth,
            peppers: peppers.clone(),
            versions: PepperVersions { current: 1, previous: None },
            default_limit: config.limits.default,
            store,
            clock: clock.clone(),
            metrics: Metrics::new(&[], &[]),
            tasks: Tasks::new(Handle::current()),
        });
        let route = config.routes.remove(0);
        let rig = Self { keys, clock, authenticator, peppers, route, _folder: folder };
        rig.put(RAW, record());
        rig
    }

    fn put(&self, raw: &str, mut record: CredentialRecord) {
        let hash = self.peppers.hash(raw.as_bytes());
        record.matched = hash;
        self.keys.records.lock().unwrap().insert(hash, record);
    }

    async fn ask(&self, raw: &str) -> Result<Arc<Principal>, AuthError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", raw.parse().unwrap());
        self.authenticator.authenticate(&self.route, &headers, ADDRESS, self.clock.monotonic()).await
    }

    async fn reason(&self, raw: &str) -> &'static str {
        self.ask(raw).await.map_or_else(|error| error.reason(), |_| "ok")
    }

    fn loads(&self) -> u64 {
        self.keys.loads.load(Ordering::SeqCst)
    }

    /// The feed was read just now.
    fn confirm(&self) {
        self.authenticator.feed.confirm_for_test(self.clock.monotonic());
    }

    /// The feed could not be read.
    fn lose_the_store(&self) {
        self.keys.gone.store(true, Ordering::SeqCst);
        self.authenticator.feed.fail_for_test(&gone());
    }

    fn change(&self, change: Change) {
        self.authenticator.follower().apply(change);
    }
}

fn config() -> Config {
    let text = "[[upstreams]]\nname = \"u\"\nendpoints = [\"http://a\"]\n[[routes]]\npath = \"/\"\nupstream = \"u\"\n";
    Config::parse(text, None, &Environment::default()).unwrap()
}

fn client_id() -> ClientId {
    ClientId(uuid::Uuid::from_u128(1))
}

fn record() -> CredentialRecord {
    let client = Client {
        id: client_id(),
        name: "acme".into(),
        status: ClientStatus::Active,
        rate: None,
        burst: None,
        plan_id: None,
        metadata: serde_json::json!({}),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let key = ApiKey {
        id: ApiKeyId(uuid::Uuid::from_u128(2)),
        client_id: client.id,
        name: "k".into(),
        key_id: None,
        pepper_version: Some(1),
        scopes: Scopes::default(),
        rate: None,
        burst: None,
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    CredentialRecord { client, key: Some(key), matched: KeyHash([0; 32]), pepper_version: Some(1) }
}

fn revoked() -> CredentialRecord {
    let mut record = record();
    record.key.as_mut().unwrap().revoked_at = Some(Timestamp::UNIX_EPOCH);
    record
}

#[tokio::test]
async fn a_known_key_is_looked_up_once_and_judged_every_time() {
    let rig = Rig::new().await;
    let mut ends = record();
    ends.key.as_mut().unwrap().expires_at = Some("2026-11-22T20:00:10Z".parse().unwrap());
    rig.put(RAW, ends);
    for _ in 0..5 {
        assert_eq!(rig.reason(RAW).await, "ok");
    }
    rig.clock.advance(Duration::from_secs(10));
    rig.confirm();
    assert_eq!(rig.reason(RAW).await, "expired", "expiry needs no look-up");
    assert_eq!(rig.loads(), 1);
}

#[tokio::test]
async fn a_change_voids_what_was_cached_and_nothing_else() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason(RAW).await, "ok");
    rig.put(RAW, revoked());
    assert_eq!(rig.reason(RAW).await, "ok", "not heard of yet");
    rig.change(Change::Key { client: client_id(), key: ApiKeyId::NIL, added: false });
    assert_eq!(rig.reason(RAW).await, "revoked");
    let mut suspended = record();
    suspended.client.status = ClientStatus::Suspended;
    rig.put(RAW, suspended);
    rig.change(Change::Client(client_id()));
    assert_eq!(rig.reason(RAW).await, "client_suspended");
    rig.put(RAW, record());
    rig.change(Change::All);
    assert_eq!(rig.reason(RAW).await, "ok");
}

#[tokio::test]
async fn a_revocation_that_races_a_load_is_never_overwritten() {
    let rig = Arc::new(Rig::new().await);
    let gate = Arc::new(Semaphore::new(0));
    *rig.keys.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let asking = {
        let rig = Arc::clone(&rig);
        Tasks::spawn_here(async move { rig.reason(RAW).await })
    };
    while rig.loads() == 0 {
        tokio::task::yield_now().await;
    }
    // The load has read the good row; now the key is revoked, and only then the load answers.
    rig.put(RAW, revoked());
    rig.change(Change::Key { client: client_id(), key: ApiKeyId::NIL, added: false });
    gate.add_permits(100);
    assert_eq!(asking.await.unwrap(), "revoked");
    assert_eq!(rig.reason(RAW).await, "revoked");
}

#[tokio::test]
async fn unknown_keys_are_remembered_shortly_and_forgotten_when_a_hash_is_added() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason("nobody-has-this").await, "unknown");
    assert_eq!(rig.reason("nobody-has-this").await, "unknown");
    assert_eq!(rig.loads(), 1);
    rig.put("nobody-has-this", record());
    rig.change(Change::Key { client: client_id(), key: ApiKeyId::NIL, added: true });
    assert_eq!(rig.reason("nobody-has-this").await, "ok");
}

#[tokio::test]
async fn without_the_store_known_keys_pass_until_max_stale_and_unknown_ones_are_never_401() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason(RAW).await, "ok");
    rig.lose_the_store();
    for _ in 0..9 {
        rig.clock.advance(Duration::from_mins(1));
        assert_eq!(rig.reason(RAW).await, "ok");
        assert_eq!(rig.reason("not-seen-before").await, "unavailable");
    }
    assert_eq!(rig.reason("not-seen-before").await, "unavailable", "an outage is no failure of the caller's");
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(rig.reason(RAW).await, "unavailable", "past auth.max_stale");
    rig.keys.gone.store(false, Ordering::SeqCst);
    rig.confirm();
    assert_eq!(rig.reason(RAW).await, "ok");
}

#[tokio::test]
async fn a_revocation_that_was_heard_of_holds_though_the_store_is_gone() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason(RAW).await, "ok");
    rig.change(Change::Key { client: client_id(), key: ApiKeyId::NIL, added: false });
    rig.lose_the_store();
    assert_eq!(rig.reason(RAW).await, "unavailable");
}

#[tokio::test]
async fn while_the_feed_is_silent_and_the_store_answers_identities_are_confirmed() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason(RAW).await, "ok");
    rig.put(RAW, revoked());
    rig.clock.advance(Duration::from_millis(1100));
    assert_eq!(rig.reason(RAW).await, "revoked", "nobody told us, so we asked");
    assert_eq!(rig.loads(), 2);
}

#[tokio::test]
async fn a_known_key_passes_from_an_address_that_has_spent_its_failures() {
    let rig = Rig::new().await;
    assert_eq!(rig.reason(RAW).await, "ok");
    for guess in 0..3 {
        assert_eq!(rig.reason(&format!("a-guess-number-{guess}")).await, "unknown");
    }
    assert_eq!(rig.reason("a-guess-number-4").await, "too_many_failures");
    assert_eq!(rig.reason("octroi_live_malformed").await, "too_many_failures");
    assert_eq!(rig.reason(RAW).await, "ok");
}

#[tokio::test]
async fn a_stalled_load_of_one_key_stalls_no_other() {
    let rig = Arc::new(Rig::new().await);
    let gate = Arc::new(Semaphore::new(0));
    *rig.keys.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let stalled = {
        let rig = Arc::clone(&rig);
        Tasks::spawn_here(async move { rig.reason(RAW).await })
    };
    while rig.loads() == 0 {
        tokio::task::yield_now().await;
    }
    *rig.keys.gate.lock().unwrap() = None;
    rig.put("another-good-key", record());
    assert_eq!(rig.reason("another-good-key").await, "ok");
    // The stalled one is told to come back when its own deadline passes, and no sooner.
    assert_eq!(stalled.await.unwrap(), "unavailable");
}

#[tokio::test]
async fn a_route_takes_the_kind_of_credential_it_names() {
    let mut rig = Rig::new().await;
    rig.route.auth = RouteAuth::Jwt;
    assert_eq!(rig.reason(RAW).await, "wrong_kind");
    rig.route.auth = RouteAuth::None;
    let nobody = rig.ask(RAW).await.unwrap();
    assert!(nobody.client.id.is_nil() && nobody.client.limiter().is_none());
    rig.route.auth = RouteAuth::Key;
    rig.route.credentials = vec![HeaderName::from_static("authorization")];
    assert_eq!(rig.reason(RAW).await, "missing");
}
