//! A server on a real socket, and callers that speak bytes: for tests of this module and of
//! those above it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::names::{Answer, Lookup};
use super::{Bound, Entrance, Handler, Places, bind, serve};
use crate::config::server::{DrainConfig, ServerConfig, ServerLimits, TimeoutConfig, UnderscoreHeaders};
use crate::config::tls::{CallerCertificates, TlsConfig};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The defaults, with deadlines no test waits for.
pub(crate) fn config() -> ServerConfig {
    let long = Duration::from_mins(1);
    ServerConfig {
        listeners: Vec::new(),
        tls: TlsConfig {
            certificates: Vec::new(),
            offers_http2: true,
            allows_tls12: true,
            caller_certificates: CallerCertificates::None,
            acme: None,
        },
        workers: 1,
        trusted_proxies: Vec::new(),
        underscore_headers: UnderscoreHeaders::Drop,
        timeouts: TimeoutConfig {
            tls_handshake: long,
            request_head: long,
            body_idle: long,
            write_idle: long,
            keep_alive: long,
        },
        limits: ServerLimits {
            uri: 8192,
            headers: 16384,
            header_count: 100,
            connections: 100,
            connections_per_address: None,
            body: None,
            queue_delay: None,
        },
        drain: DrainConfig { delay: Duration::ZERO, timeout: long },
    }
}

/// Addresses of a name, as a test says; none: it cannot be looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Vec<IpAddr>>>>, Arc<AtomicUsize>);

impl Told {
    pub(crate) fn tell<const N: usize>(&self, addresses: [&str; N]) {
        *self.0.lock().unwrap() = Some(addresses.iter().map(|address| address.parse().unwrap()).collect());
    }

    pub(crate) fn fail(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// How often it was looked up.
    pub(crate) fn asked(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

impl Lookup for Told {
    fn look_up<'a>(&'a self, _: &'a str) -> Answer<'a> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let told = self.0.lock().unwrap().clone();
        Box::pin(async move { told.ok_or_else(|| io::Error::other("no resolver today")) })
    }
}

/// A running server, on the test's own runtime.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) tasks: Tasks,
    serving: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start<H: Handler>(handler: H, config: ServerConfig) -> Self {
        Self::behind(&Entrance::plain(), handler, config)
    }

    pub(crate) fn behind<H: Handler>(entrance: &Entrance, handler: H, config: ServerConfig) -> Self {
        let tasks = Tasks::new(tokio::runtime::Handle::current());
        let listeners = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let listeners = listeners.into_iter().map(|socket| Bound::tcp(socket, entrance.clone())).collect();
        let places = Places::new(config.limits.connections, &config, Metrics::new(&[], &[]));
        let stop = tasks.clone();
        let serving = Tasks::spawn_here(async move {
            serve(listeners, Arc::new(handler), &config, places, stop).await.unwrap();
        });
        Self { address, tasks, serving }
    }

    pub(crate) async fn connect(&self) -> Caller {
        Caller(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends `request` on a connection of its own and reads until the server closes it.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut caller = self.connect().await;
        caller.send(request).await;
        caller.rest().await
    }

    /// Waits until everything has ended after a stop.
    pub(crate) async fn ended(self) {
        in_time(self.serving).await.unwrap();
    }
}

/// A caller's connection.
pub(crate) struct Caller(pub(crate) TcpStream);

impl Caller {
    pub(crate) async fn send(&mut self, bytes: &str) {
        in_time(self.0.write_all(bytes.as_bytes())).await.unwrap();
    }

    /// All that still comes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        in_time(self.0.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// What comes, up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let byte = in_time(self.0.read_u8()).await;
            bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&bytes))));
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// Waits for what must happen, not forever.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}
