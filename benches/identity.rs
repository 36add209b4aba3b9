//! What it costs to know a caller and to charge it.
//!
//! `cargo bench --bench identity`. A hit is a request whose key is in the cache; a miss goes to
//! a real SQLite file.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use octroi::auth::{AuthParts, Authenticator, PepperVersions};
use octroi::config::{Config, Environment};
use octroi::crypto::key_text::{KeyEnvironment, generate};
use octroi::crypto::pepper::{Pepper, Peppers};
use octroi::limit;
use octroi::model::access::Scopes;
use octroi::model::client::NewClient;
use octroi::model::clock::{Clock as _, SystemClock};
use octroi::model::key::NewApiKey;
use octroi::model::secret::SecretBytes;
use octroi::store::{self, Store};
use octroi::tasks::Tasks;
use octroi::telemetry::metrics::Metrics;
use tokio::runtime::Runtime;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Rig {
    runtime: Runtime,
    config: Config,
    peppers: Peppers,
    store: Store,
    headers: HeaderMap,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = configuration(folder.path());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let peppers = Peppers::new(Pepper::new(&SecretBytes::new(vec![7; 32])), None);
        let made = generate("octroi", KeyEnvironment::Live);
        let store = runtime.block_on(async {
            let store = store::open(&config.store).await.expect("a file");
            store.migrations.up(false).await.expect("tables");
            let client = NewClient {
                name: "acme".into(),
                rate: Some("1000000000/s".parse().expect("a rate")),
                burst: None,
                metadata: serde_json::json!({}),
            };
            let client = store.clients.create(client).await.expect("a client");
            let key = NewApiKey {
                client_id: client.id,
                name: "bench".into(),
                key_id: Some(made.key_id.clone()),
                hash: peppers.hash(made.text.expose().as_bytes()),
                pepper_version: Some(1),
                scopes: Scopes::default(),
                expires_at: None,
            };
            store.keys.create(key).await.expect("a key");
            store
        });
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", made.text.expose().parse().expect("visible ASCII"));
        Self { runtime, config, peppers, store, headers, _folder: folder }
    }

    fn authenticator(&self) -> Arc<Authenticator> {
        Authenticator::new(AuthParts {
            config: self.config.auth.clone(),
            peppers: self.peppers.clone(),
            versions: PepperVersions { current: 1, previous: None },
            default_limit: self.config.limits.default,
            store: self.store.clone(),
            clock: SystemClock::shared(),
            metrics: Metrics::new(&[], &[]),
            tasks: Tasks::new(self.runtime.handle().clone()),
        })
    }
}

fn configuration(folder: &Path) -> Config {
    let text = "[[upstreams]]\nname = \"u\"\nendpoints = [\"http://a\"]\n[[routes]]\npath = \"/\"\nupstream = \"u\"\n";
    Config::parse(text, Some(&folder.join("octroi.toml")), &Environment::default()).expect("a configuration")
}

/// Polls a future that is ready at once: what a hit is.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a hit waits for nothing"),
    }
}

fn identity(criterion: &mut Criterion) {
    let rig = Rig::new();
    let route = &rig.config.routes[0];
    let clock = SystemClock::new();

    let warm = rig.authenticator();
    warm.follow_changes();
    let ask = |authenticator: &Arc<Authenticator>| {
        let (authenticator, headers) = (Arc::clone(authenticator), rig.headers.clone());
        rig.runtime.block_on(async move {
            authenticator
                .authenticate(route, &headers, ADDRESS, SystemClock::new().monotonic())
                .await
                .expect("a good key")
        })
    };
    let principal = ask(&warm);
    criterion.bench_function("authenticate/hit", |bencher| {
        bencher.iter(|| {
            now(warm.authenticate(route, black_box(&rig.headers), ADDRESS, clock.monotonic())).expect("a good key")
        });
    });
    criterion.bench_function("authenticate/miss, SQLite", |bencher| {
        bencher.iter_batched(|| rig.authenticator(), |cold| ask(&cold), criterion::BatchSize::SmallInput);
    });
    criterion.bench_function("limit/charge", |bencher| {
        bencher
            .iter(|| limit::charge(black_box(&principal), NonZeroU32::MIN, clock.monotonic()).expect("a wide limit"));
    });
}

criterion_group!(benches, identity);
criterion_main!(benches);
