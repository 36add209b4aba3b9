//! What identity costs a request: a known key, one that the store must be asked for, a charge to a
//! limit. The store is a SQLite file, as a gateway alone has it.
//!
//! `cargo bench --bench identity`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use octroi::auth::{Authenticator, Dependencies, Issuers, PepperVersions};
use octroi::clients::LiveClients;
use octroi::config::auth::{AuthConfig, FailureBudget};
use octroi::config::route::{RouteAuth, RouteConfig};
use octroi::config::store::{StoreConfig, StoreUrl};
use octroi::crypto::key_text::{Environment, generate};
use octroi::crypto::pepper::Peppers;
use octroi::model::access::Scopes;
use octroi::model::client::NewClient;
use octroi::model::clock::{SharedClock, SystemClock};
use octroi::model::key::{HashKind, ImportedKey};
use octroi::model::rate::RateLimit;
use octroi::model::secret::SecretBytes;
use octroi::store::{self, Store};
use octroi::tasks::Tasks;
use octroi::telemetry::metrics::Metrics;
use tokio::runtime::Runtime;

/// Keys in rotation: more than fit the nearest caches, as many as a busy gateway sees.
const KEYS: usize = 1_000;

/// Keys that are each asked for once before an authenticator is replaced by one that knows nobody.
const STRANGERS: usize = 20_000;

struct Bench {
    runtime: Runtime,
    control: Runtime,
    clock: SharedClock,
    store: Store,
    requests: Vec<HeaderMap>,
    route: RouteConfig,
    _folder: tempfile::TempDir,
}

/// An authenticator and what runs for it, until it is dropped.
struct Gate {
    authenticator: Arc<Authenticator>,
    tasks: Tasks,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.stop_hard();
    }
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
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = StoreUrl::Sqlite(folder.path().join("bench.db"));
        let (store, requests) = control.block_on(filled(url));
        Self { runtime, control, clock: SystemClock::shared(), store, requests, route: route(), _folder: folder }
    }

    fn gate(&self) -> Gate {
        let tasks = Tasks::new(self.control.handle().clone());
        let metrics = Metrics::new(&[], &[]);
        let dependencies = Dependencies {
            peppers: peppers(),
            pepper_versions: PepperVersions { current: 1, previous: None },
            default_limit: RateLimit::new("1000000000/s".parse().expect("a rate"), None),
            keys: Arc::clone(&self.store.keys),
            rotation: Arc::clone(&self.store.rotation),
            client_rows: Arc::clone(&self.store.clients),
            issuers: Issuers::new(&[], &self.clock).expect("none has authorities"),
            changes: Arc::clone(&self.store.changes),
            clients: LiveClients::new(&metrics),
            clock: Arc::clone(&self.clock),
            metrics,
            tasks: tasks.clone(),
        };
        let authenticator = Authenticator::new(&config(), dependencies);
        authenticator.follow_changes();
        Gate { authenticator, tasks }
    }

    async fn call(&self, gate: &Gate, headers: &HeaderMap) -> Arc<octroi::clients::Principal> {
        let now = self.clock.monotonic();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let principal = gate.authenticator.authenticate(&self.route, headers, address, now).await;
        principal.expect("the store knows every key")
    }

    /// How long `iterations` look-ups of keys take that the authenticator never saw.
    fn misses(&self, iterations: u64) -> Duration {
        let mut taken = Duration::ZERO;
        let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
        while left > 0 {
            let gate = self.gate();
            let batch = left.min(STRANGERS);
            taken += self.runtime.block_on(async {
                let started = self.clock.monotonic();
                for headers in &self.requests[..batch] {
                    black_box(self.call(&gate, headers).await);
                }
                self.clock.monotonic().since(started)
            });
            left -= batch;
        }
        taken
    }
}

fn peppers() -> Peppers {
    Peppers::new(&SecretBytes::new(vec![7; 32]), None)
}

fn config() -> AuthConfig {
    AuthConfig {
        prefix: "octroi".into(),
        key_headers: vec![],
        pepper: None,
        pepper_previous: None,
        cache_ttl: Duration::from_secs(30),
        max_stale: Duration::from_mins(10),
        failures: FailureBudget { rate: "1000000000/s".parse().expect("a rate"), burst: NonZeroU32::MAX },
        issuers: vec![],
    }
}

/// A store with a client and its keys, and a request with each of them.
async fn filled(url: StoreUrl) -> (Store, Vec<HeaderMap>) {
    let store = store::open(&StoreConfig { url, migrate: true, start_timeout: Duration::ZERO }).await;
    let store = store.expect("a new file opens");
    store.migrations.up(false).await.expect("the migrations apply");
    let acme = NewClient {
        name: "Acme".into(),
        rate: None,
        burst: None,
        plan_id: None,
        quota: None,
        concurrency: None,
        metadata: serde_json::json!({}),
    };
    let client = store.clients.create(acme).await.expect("a client is made");
    let peppers = peppers();
    let (keys, requests) = (0..STRANGERS)
        .map(|_| {
            let made = generate("octroi", Environment::Live);
            let key = ImportedKey {
                client_id: client.id,
                name: "default".into(),
                key_id: Some(made.key_id),
                hash: peppers.current.hash(made.text.expose().as_bytes()),
                hash_kind: HashKind::Hmac,
                pepper_version: Some(1),
                scopes: Scopes::default(),
                expires_at: None,
                created_at: None,
            };
            (key, request(made.text.expose()))
        })
        .unzip();
    store.keys.import(keys).await.expect("keys are stored");
    (store, requests)
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
        cost: 1,
    }
}

/// A request's head as browsers and libraries send it.
fn request(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("host", "api.example.com"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("x-api-key", key)]
    {
        headers.insert(name, HeaderValue::from_str(value).expect("visible ASCII"));
    }
    headers
}

fn identity(criterion: &mut Criterion) {
    let bench = Bench::new();
    let gate = bench.gate();
    let known = &bench.requests[..KEYS];
    for headers in known {
        bench.runtime.block_on(bench.call(&gate, headers));
    }
    let mut next = 0;
    criterion.bench_function("authenticate/hit", |bencher| {
        // One runtime entry for many requests, as a worker has it.
        bencher.iter_custom(|iterations| {
            bench.runtime.block_on(async {
                let started = bench.clock.monotonic();
                for _ in 0..iterations {
                    next = (next + 1) % KEYS;
                    black_box(bench.call(&gate, &known[next]).await);
                }
                bench.clock.monotonic().since(started)
            })
        });
    });
    criterion.bench_function("authenticate/miss", |bencher| bencher.iter_custom(|iterations| bench.misses(iterations)));
    let principal = bench.runtime.block_on(bench.call(&gate, &known[0]));
    let when = || octroi::limit::When { arrived: bench.clock.wall(), now: bench.clock.monotonic() };
    criterion.bench_function("limit/charge", |bencher| {
        bencher.iter(|| octroi::limit::charge(&principal, octroi::limit::Cost::ONE, when()));
    });
    let charge = octroi::limit::charge(&principal, octroi::limit::Cost::ONE, when()).expect("a billion a second");
    let mut headers = HeaderMap::with_capacity(8);
    criterion.bench_function("limit/write", |bencher| {
        bencher.iter(|| {
            headers.clear();
            charge.standing().write(&mut headers);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = identity
}
criterion_main!(benches);
