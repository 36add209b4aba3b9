//! An authenticator over a SQLite store, as a gateway alone has it, for the benches of identity.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use octroi::auth::{Authenticator, Dependencies, Issuers, PepperVersions};
use octroi::clients::{LiveClients, Principal};
use octroi::config::auth::{AuthConfig, FailureBudget};
use octroi::config::route::{RouteAuth, RouteConfig};
use octroi::config::store::{StoreConfig, StoreUrl};
use octroi::crypto::key_text::{Environment, generate};
use octroi::crypto::pepper::Peppers;
use octroi::model::access::Scopes;
use octroi::model::client::NewClient;
use octroi::model::clock::{SharedClock, SystemClock};
use octroi::model::id::ClientId;
use octroi::model::key::{HashKind, ImportedKey};
use octroi::model::rate::RateLimit;
use octroi::model::secret::SecretBytes;
use octroi::store::{self, Store};
use octroi::tasks::Tasks;
use octroi::telemetry::metrics::Metrics;
use tokio::runtime::Runtime;

/// A store, and runtimes like a gateway's: one thread for requests, one for everything else.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    pub(crate) control: Runtime,
    pub(crate) clock: SharedClock,
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: ClientId,
    route: RouteConfig,
}

/// An authenticator and what runs for it, until it is dropped.
pub(crate) struct Gate {
    authenticator: Arc<Authenticator>,
    tasks: Tasks,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.stop_hard();
    }
}

impl Bench {
    /// With one client, "Acme".
    pub(crate) fn new() -> Self {
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a control runtime starts");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a worker runtime starts");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = StoreUrl::Sqlite(folder.path().join("bench.db"));
        let (store, client) = control.block_on(opened(url));
        Self { runtime, control, clock: SystemClock::shared(), store, folder, client, route: route() }
    }

    /// Keys of these clients, and a request with each.
    pub(crate) fn keys(&self, owners: impl Iterator<Item = ClientId>, scopes: &Scopes) -> Vec<HeaderMap> {
        let pepper = peppers().current;
        let (keys, requests) = owners
            .map(|client_id| {
                let made = generate("octroi", Environment::Live);
                let key = ImportedKey {
                    client_id,
                    name: "default".into(),
                    key_id: Some(made.key_id),
                    hash: pepper.hash(made.text.expose().as_bytes()),
                    hash_kind: HashKind::Hmac,
                    pepper_version: Some(1),
                    scopes: scopes.clone(),
                    expires_at: None,
                    created_at: None,
                };
                (key, request("x-api-key", made.text.expose()))
            })
            .unzip();
        self.control.block_on(self.store.keys.import(keys)).expect("keys are stored");
        requests
    }

    /// One that knows nobody yet.
    pub(crate) fn gate(&self, issuers: Issuers) -> Gate {
        let tasks = Tasks::new(self.control.handle().clone());
        let metrics = Metrics::new(&[], &[]);
        let dependencies = Dependencies {
            peppers: peppers(),
            pepper_versions: PepperVersions { current: 1, previous: None },
            default_limit: RateLimit::new("1000000000/s".parse().expect("a rate"), None),
            keys: Arc::clone(&self.store.keys),
            rotation: Arc::clone(&self.store.rotation),
            client_rows: Arc::clone(&self.store.clients),
            token_rows: Arc::clone(&self.store.tokens),
            issuers,
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

    /// Nobody's tokens are believed.
    pub(crate) fn no_issuers(&self) -> Issuers {
        Issuers::new(&[], &self.clock).expect("none has authorities")
    }

    /// Who a request is from; it must be good.
    pub(crate) async fn call(&self, gate: &Gate, headers: &HeaderMap) -> Arc<Principal> {
        let now = self.clock.monotonic();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let principal = gate.authenticator.authenticate(&self.route, headers.into(), address, now).await;
        Arc::clone(principal.expect("the credential is good").principal())
    }
}

/// The bench's only pepper.
pub(crate) fn peppers() -> Peppers {
    Peppers::new(&SecretBytes::new(vec![7; 32]), None)
}

/// A request's head as browsers and libraries send it.
pub(crate) fn request(header: &'static str, credential: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("host", "api.example.com"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), (header, credential)]
    {
        headers.insert(name, HeaderValue::from_str(value).expect("visible ASCII"));
    }
    headers
}

fn config() -> AuthConfig {
    AuthConfig {
        prefix: "octroi".into(),
        key_headers: vec![],
        query_param: None,
        pepper: None,
        pepper_previous: None,
        cache_ttl: Duration::from_mins(10),
        max_stale: Duration::from_mins(20),
        failures: FailureBudget { rate: "1000000000/s".parse().expect("a rate"), burst: NonZeroU32::MAX },
        issuers: vec![],
    }
}

async fn opened(url: StoreUrl) -> (Store, ClientId) {
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
    (store, client.id)
}

fn route() -> RouteConfig {
    RouteConfig {
        name: "bench".into(),
        host: None,
        path: "/".into(),
        methods: vec![],
        upstream: "bench".into(),
        delegated: false,
        observe_until: None,
        strip_prefix: false,
        auth: RouteAuth::Required,
        credentials: vec![http::header::AUTHORIZATION, HeaderName::from_static("x-api-key")],
        certificate: false,
        scopes: Scopes::default(),
        max_body: None,
        cost: 1,
        shaping: octroi::config::shaping::Shaping::default(),
        merge_slashes: false,
        encoded_slash: false,
        response_timeout: None,
        idle_timeout: None,
        request_timeout: None,
        websocket: false,
        preserve_host: false,
    }
}
