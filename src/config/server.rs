//! `[server]`

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};
use super::listener::{self, ListenerConfig, RawListener};
use super::tls::{RawTls, TlsConfig};

/// The data listeners and what a connection may do.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where callers connect.
    pub listeners: Vec<ListenerConfig>,
    /// Certificates, where any of them speaks TLS.
    pub tls: TlsConfig,
    /// Worker threads; resolved, never zero.
    pub workers: usize,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What happens to header names with an underscore.
    pub underscore_headers: UnderscoreHeaders,
    /// Deadlines.
    pub timeouts: TimeoutConfig,
    /// Sizes and counts.
    pub limits: ServerLimits,
    /// How long a stop may take.
    pub drain: DrainConfig,
}

/// `server.underscore_headers`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    /// Removed, silently.
    Drop,
    /// 400.
    Refuse,
    /// Passed on.
    Forward,
}

/// `[server.timeouts]`
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "config/reference.toml says what each setting means")]
pub struct TimeoutConfig {
    pub tls_handshake: Duration,
    pub request_head: Duration,
    pub body_idle: Duration,
    pub write_idle: Duration,
    pub keep_alive: Duration,
}

/// `[server.limits]`
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "config/reference.toml says what each setting means")]
pub struct ServerLimits {
    pub uri: usize,
    pub headers: usize,
    pub header_count: usize,
    pub connections: usize,
    /// Of one address (an IPv6 one's /64); none: no limit.
    pub connections_per_address: Option<usize>,
    /// None: no limit.
    pub body: Option<u64>,
    /// How long work may wait for its worker; none: however long.
    pub queue_delay: Option<Duration>,
}

/// `[server.drain]`
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "config/reference.toml says what each setting means")]
pub struct DrainConfig {
    pub delay: Duration,
    pub timeout: Duration,
}

/// `[server]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    /// None: the usual address, unless there are `listeners`: who writes those opens no other.
    pub(super) listen: Option<Vec<String>>,
    pub(super) listeners: Vec<RawListener>,
    pub(super) tls: RawTls,
    pub(super) workers: i64,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) underscore_headers: String,
    pub(super) timeouts: RawTimeouts,
    pub(super) limits: RawServerLimits,
    pub(super) drain: RawDrain,
}

/// `[server.timeouts]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTimeouts {
    tls_handshake: String,
    request_head: String,
    body_idle: String,
    write_idle: String,
    keep_alive: String,
}

/// `[server.limits]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServerLimits {
    uri: String,
    headers: String,
    header_count: i64,
    connections: i64,
    connections_per_address: i64,
    body: String,
    queue_delay: String,
}

/// `[server.drain]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDrain {
    delay: String,
    timeout: String,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            listen: None,
            listeners: Vec::new(),
            tls: RawTls::default(),
            workers: 0,
            // Nobody is believed before an operator says so.
            trusted_proxies: Vec::new(),
            // Upstreams that read `_` as `-` would take such a name for one of ours.
            underscore_headers: "drop".to_owned(),
            timeouts: RawTimeouts::default(),
            limits: RawServerLimits::default(),
            drain: RawDrain::default(),
        }
    }
}

impl Default for RawTimeouts {
    fn default() -> Self {
        Self {
            tls_handshake: "5s".to_owned(),
            // A head is a packet or two: who takes longer holds connections open on purpose.
            request_head: "10s".to_owned(),
            body_idle: "30s".to_owned(),
            write_idle: "30s".to_owned(),
            // Longer than the 60 s of common load balancers, so that they close first.
            keep_alive: "75s".to_owned(),
        }
    }
}

impl Default for RawServerLimits {
    fn default() -> Self {
        Self {
            uri: "8KiB".to_owned(),
            headers: "16KiB".to_owned(),
            header_count: 100,
            connections: 20_000,
            // Whole offices and whole load balancers call from one address.
            connections_per_address: 0,
            // Bodies stream: their size costs no memory.
            body: "0".to_owned(),
            // More than a burst or a busy neighbour causes, less than callers wait before they try
            // again and make it worse.
            queue_delay: "250ms".to_owned(),
        }
    }
}

impl Default for RawDrain {
    fn default() -> Self {
        Self { delay: "0s".to_owned(), timeout: "30s".to_owned() }
    }
}

impl RawServer {
    /// The most workers that may be asked for.
    const MAX_WORKERS: u32 = 1024;

    pub(super) fn resolve(&self, check: &Check<'_>) -> ServerConfig {
        let words = [
            ("drop", UnderscoreHeaders::Drop),
            ("refuse", UnderscoreHeaders::Refuse),
            ("forward", UnderscoreHeaders::Forward),
        ];
        let trusted_proxies = self.resolve_trusted_proxies(check);
        let listeners = listener::resolve(check, &self.effective_listen(), &self.listeners, &trusted_proxies);
        ServerConfig {
            tls: self.tls.resolve(&check.below("tls"), &listeners),
            listeners,
            workers: self.resolve_workers(check),
            trusted_proxies,
            underscore_headers: check.choice("underscore_headers", &self.underscore_headers, &words),
            timeouts: self.timeouts.resolve(&check.below("timeouts")),
            limits: self.limits.resolve(&check.below("limits")),
            drain: self.drain.resolve(&check.below("drain")),
        }
    }

    /// The plain addresses in force.
    pub(super) fn effective_listen(&self) -> Vec<String> {
        let usual = || if self.listeners.is_empty() { vec!["0.0.0.0:8080".to_owned()] } else { Vec::new() };
        self.listen.clone().unwrap_or_else(usual)
    }

    fn resolve_workers(&self, check: &Check<'_>) -> usize {
        let asked = check.count("workers", self.workers, 0..=Self::MAX_WORKERS);
        match usize::try_from(asked) {
            Ok(asked) if asked > 0 => asked,
            _ => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn resolve_trusted_proxies(&self, check: &Check<'_>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (index, text) in self.trusted_proxies.iter().enumerate() {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            match network {
                Ok(network) => networks.push(network),
                Err(_) => check.refuse(
                    &format!("trusted_proxies[{index}]"),
                    format!("`{text}` is not a network"),
                    "write an address or a range, like \"10.0.0.0/8\" or \"2001:db8::/32\"",
                ),
            }
        }
        networks
    }
}

impl RawTimeouts {
    fn resolve(&self, check: &Check<'_>) -> TimeoutConfig {
        let timeout = |key, text: &str| check.duration(key, text, Zero::Refused);
        TimeoutConfig {
            tls_handshake: timeout("tls_handshake", &self.tls_handshake),
            request_head: timeout("request_head", &self.request_head),
            body_idle: timeout("body_idle", &self.body_idle),
            write_idle: timeout("write_idle", &self.write_idle),
            keep_alive: timeout("keep_alive", &self.keep_alive),
        }
    }
}

impl RawServerLimits {
    fn resolve(&self, check: &Check<'_>) -> ServerLimits {
        // Ends of a range: below, ordinary requests fail; above, a head fills memory.
        let head = |key, text: &str, least: u64| {
            let size = check.size(key, text, least..=1 << 20, &format!("from {least} bytes to 1MiB"));
            usize::try_from(size).unwrap_or(usize::MAX)
        };
        let count = |key, value, range| usize::try_from(check.count(key, value, range)).unwrap_or(usize::MAX);
        ServerLimits {
            uri: head("uri", &self.uri, 64),
            headers: head("headers", &self.headers, 1024),
            header_count: count("header_count", self.header_count, 8..=4096),
            connections: count("connections", self.connections, 1..=10_000_000),
            connections_per_address: Some(count(
                "connections_per_address",
                self.connections_per_address,
                0..=10_000_000,
            ))
            .filter(|most| *most > 0),
            body: check.size_or_none("body", &self.body),
            queue_delay: Some(check.duration("queue_delay", &self.queue_delay, Zero::Allowed))
                .filter(|delay| !delay.is_zero()),
        }
    }
}

impl RawDrain {
    fn resolve(&self, check: &Check<'_>) -> DrainConfig {
        DrainConfig {
            delay: check.duration("delay", &self.delay, Zero::Allowed),
            timeout: check.duration("timeout", &self.timeout, Zero::Allowed),
        }
    }
}
