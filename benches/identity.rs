//! What identity costs a request: a known key, an unknown one, a charge to a limit.
//!
//! `cargo bench --bench identity`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use octroi::auth::{Authenticator, Dependencies, Issuers, PepperVersions};
use octroi::clients::LiveClients;
use octroi::config::auth::{AuthConfig, FailureBudget};
use octroi::config::route::{RouteAuth, RouteConfig};
use octroi::crypto::key_text::{Environment, generate};
use octroi::crypto::pepper::Peppers;
use octroi::model::access::Scopes;
use octroi::model::addresses::AddressRanges;
use octroi::model::client::{Client, ClientChange, ClientStatus, NewClient};
use octroi::model::clock::{SharedClock, SystemClock};
use octroi::model::id::{ApiKeyId, ClientId};
use octroi::model::key::{ApiKey, CredentialRecord, HashKind, ImportedKey, KeyHash, NewApiKey, NotRotated, Rotation};
use octroi::model::rate::RateLimit;
use octroi::model::secret::SecretBytes;
use octroi::store::changes::Change;
use octroi::store::rotation::{HashCounts, HashMove, MoveTarget, Moved, NodeRecord, RotationStore};
use octroi::store::{ChangeReader, ChangeStore, ClientStore, KeyStore, Page, Result};
use octroi::tasks::Tasks;
use octroi::telemetry::metrics::Metrics;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Keys in rotation: more than fit the nearest caches, as many as a busy gateway sees.
const KEYS: usize = 1_000;

#[async_trait]
impl RotationStore for Everything {
    async fn announce(&self, _: &NodeRecord) -> Result<()> {
        unimplemented!("not measured")
    }

    async fn leave(&self, _: Uuid) -> Result<()> {
        unimplemented!("not measured")
    }

    async fn move_hashes(&self, _: &[HashMove], _: &MoveTarget) -> Result<Moved> {
        unimplemented!("not measured")
    }

    async fn note_client_pepper_version(&self, _: ClientId, _: i32) -> Result<()> {
        unimplemented!("not measured")
    }

    async fn count_hashes(&self, _: Timestamp) -> Result<HashCounts> {
        unimplemented!("not measured")
    }
}

/// A store that knows every key and answers at once.
struct Everything;

#[async_trait]
impl KeyStore for Everything {
    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>> {
        Ok(Some(record(hashes[0])))
    }

    async fn known_hashes(&self, _: &[KeyHash]) -> Result<Vec<KeyHash>> {
        unimplemented!("not measured")
    }

    async fn import(&self, _: Vec<ImportedKey>) -> Result<u64> {
        unimplemented!("not measured")
    }

    async fn create(&self, _: NewApiKey) -> Result<ApiKey> {
        unimplemented!("not measured")
    }

    async fn find(&self, _: ApiKeyId) -> Result<Option<ApiKey>> {
        unimplemented!("not measured")
    }

    async fn find_by_key_id(&self, _: &str) -> Result<Option<ApiKey>> {
        unimplemented!("not measured")
    }

    async fn list(&self, _: Option<ClientId>, _: Option<ApiKeyId>, _: u32) -> Result<Page<ApiKey>> {
        unimplemented!("not measured")
    }

    async fn revoke(&self, _: ApiKeyId, _: Timestamp) -> Result<Option<ApiKey>> {
        unimplemented!("not measured")
    }

    async fn rotate(&self, _: ApiKeyId, _: Rotation) -> Result<std::result::Result<ApiKey, NotRotated>> {
        unimplemented!("not measured")
    }

    async fn note_pepper_version(&self, _: ApiKeyId, _: i32) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl ClientStore for Everything {
    async fn create(&self, _: NewClient) -> Result<Client> {
        unimplemented!("not measured")
    }

    async fn find(&self, _: ClientId) -> Result<Option<Client>> {
        unimplemented!("not measured")
    }

    async fn find_by_name(&self, _: &str) -> Result<Vec<Client>> {
        unimplemented!("not measured")
    }

    async fn list(&self, _: Option<ClientId>, _: u32) -> Result<Page<Client>> {
        unimplemented!("not measured")
    }

    async fn update(&self, _: ClientId, _: ClientChange) -> Result<Option<Client>> {
        unimplemented!("not measured")
    }
}

/// A feed on which nothing ever happens.
struct Quiet;

#[async_trait]
impl ChangeStore for Quiet {
    async fn follow(&self) -> Result<Box<dyn ChangeReader>> {
        Ok(Box::new(Self))
    }

    async fn prune(&self, _: Timestamp) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl ChangeReader for Quiet {
    async fn poll(&mut self) -> Result<Vec<Change>> {
        Ok(vec![])
    }
}

fn record(hash: KeyHash) -> CredentialRecord {
    let number = u128::from_le_bytes(*hash.0.first_chunk().expect("32 bytes hold 16"));
    let client = Client {
        id: ClientId(Uuid::from_u128(number)),
        name: "Acme".into(),
        status: ClientStatus::Active,
        rate: None,
        burst: None,
        plan_id: None,
        metadata: serde_json::Value::Null,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let key = ApiKey {
        id: ApiKeyId(Uuid::from_u128(number)),
        client_id: client.id,
        name: "default".into(),
        key_id: Some("octroi_live_0123456789AB".into()),
        hash_kind: HashKind::Hmac,
        pepper_version: Some(1),
        scopes: Scopes::default(),
        rate: None,
        burst: None,
        allowed_addresses: AddressRanges::default(),
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    CredentialRecord { client, key: Some(key), matched: hash, pepper_version: Some(1) }
}

struct Bench {
    runtime: Runtime,
    control: Runtime,
    clock: SharedClock,
    authenticator: Arc<Authenticator>,
    route: RouteConfig,
}

impl Bench {
    fn new() -> Self {
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a control runtime starts");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a worker runtime starts");
        let clock = SystemClock::shared();
        let metrics = Metrics::new(&[], &[]);
        let failures = FailureBudget { rate: "1000000000/s".parse().expect("a rate"), burst: NonZeroU32::MAX };
        let config = AuthConfig {
            prefix: "octroi".into(),
            key_headers: vec![],
            pepper: None,
            pepper_previous: None,
            cache_ttl: Duration::from_secs(30),
            max_stale: Duration::from_mins(10),
            failures,
            issuers: vec![],
        };
        let authenticator = Authenticator::new(
            &config,
            Dependencies {
                peppers: Peppers::new(&SecretBytes::new(vec![7; 32]), None),
                pepper_versions: PepperVersions { current: 1, previous: None },
                default_limit: RateLimit::new("1000000000/s".parse().expect("a rate"), None),
                keys: Arc::new(Everything),
                rotation: Arc::new(Everything),
                client_rows: Arc::new(Everything),
                issuers: Issuers::new(&[], &clock).expect("none has authorities"),
                changes: Arc::new(Quiet),
                clients: LiveClients::new(&metrics),
                clock: Arc::clone(&clock),
                metrics,
                tasks: Tasks::new(control.handle().clone()),
            },
        );
        authenticator.follow_changes();
        Self { runtime, control, clock, authenticator, route: route() }
    }

    async fn call(&self, headers: &HeaderMap) -> Arc<octroi::clients::Principal> {
        let now = self.clock.monotonic();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let principal = self.authenticator.authenticate(&self.route, headers, address, now).await;
        principal.expect("the store knows every key")
    }
}

fn route() -> RouteConfig {
    RouteConfig {
        name: "bench".into(),
        host: None,
        path: "/".into(),
        methods: vec![],
        upstream: "bench".into(),
        strip_prefix: false,
        auth: RouteAuth::Required,
        credentials: vec![http::header::AUTHORIZATION, HeaderName::from_static("x-api-key")],
        scopes: Scopes::default(),
        max_body: None,
        merge_slashes: false,
        encoded_slash: false,
        preserve_host: false,
    }
}

/// A request's head as browsers and libraries send it, with a key that was never used.
fn request() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let key = generate("octroi", Environment::Live).text;
    for (name, value) in
        [("host", "api.example.com"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("x-api-key", key.expose())]
    {
        headers.insert(name, HeaderValue::from_str(value).expect("visible ASCII"));
    }
    headers
}

fn identity(criterion: &mut Criterion) {
    let bench = Bench::new();
    let known: Vec<_> = (0..KEYS).map(|_| request()).collect();
    for headers in &known {
        bench.runtime.block_on(bench.call(headers));
    }
    let mut next = 0;
    criterion.bench_function("authenticate/hit", |bencher| {
        // One runtime entry for many requests, as a worker has it.
        bencher.iter_custom(|iterations| {
            bench.runtime.block_on(async {
                let started = bench.clock.monotonic();
                for _ in 0..iterations {
                    next = (next + 1) % KEYS;
                    black_box(bench.call(&known[next]).await);
                }
                bench.clock.monotonic().since(started)
            })
        });
    });
    criterion.bench_function("authenticate/miss", |bencher| {
        bencher.iter_batched(request, |headers| bench.runtime.block_on(bench.call(&headers)), BatchSize::SmallInput);
    });
    let principal = bench.runtime.block_on(bench.call(&known[0]));
    criterion.bench_function("limit/charge", |bencher| {
        bencher.iter(|| octroi::limit::charge(&principal, 1, bench.clock.monotonic()));
    });
    let charge = octroi::limit::charge(&principal, 1, bench.clock.monotonic()).expect("a billion a second");
    let mut headers = HeaderMap::with_capacity(8);
    criterion.bench_function("limit/write", |bencher| {
        bencher.iter(|| {
            headers.clear();
            charge.standing().write(&mut headers);
        });
    });
    bench.control.shutdown_background();
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = identity
}
criterion_main!(benches);
