//! `[server]`

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use toml::Table;

use super::reader::{Findings, Section};

/// The data listeners and what a connection may do.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where callers connect.
    pub listen: Vec<SocketAddr>,
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
    /// None: no limit.
    pub body: Option<u64>,
}

/// `[server.drain]`
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "config/reference.toml says what each setting means")]
pub struct DrainConfig {
    pub delay: Duration,
    pub timeout: Duration,
}

const SECOND: Duration = Duration::from_secs(1);

impl ServerConfig {
    /// Reads `[server]`.
    pub(super) fn read(root: &mut Table, findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::take(root, "server", findings);
        let listen = section.list("listen", &["0.0.0.0:8080"], |text| {
            text.parse().map_err(|_| format!("{text:?} is not an address like \"0.0.0.0:8080\" or \"[::]:8080\""))
        });
        if listen.is_empty() {
            section.problem("listen", "names no address", "write at least one, like [\"0.0.0.0:8080\"]");
        }
        let config = Self {
            listen,
            workers: match section.number("workers", 0, 0, 1024) {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                workers => workers as usize,
            },
            trusted_proxies: section.list("trusted_proxies", &[], read_network),
            underscore_headers: section.choice(
                "underscore_headers",
                "drop",
                &[
                    ("drop", UnderscoreHeaders::Drop),
                    ("refuse", UnderscoreHeaders::Refuse),
                    ("forward", UnderscoreHeaders::Forward),
                ],
            ),
            timeouts: read_timeouts(&mut section),
            limits: read_limits(&mut section),
            drain: read_drain(&mut section),
        };
        (config, section.close())
    }
}

fn read_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("{text:?} is not a network like \"10.0.0.0/8\" or an address"))
}

fn read_timeouts(parent: &mut Section<'_>) -> TimeoutConfig {
    let mut section = parent.section("timeouts");
    let config = TimeoutConfig {
        tls_handshake: section.duration("tls_handshake", "5s", SECOND),
        request_head: section.duration("request_head", "10s", SECOND),
        body_idle: section.duration("body_idle", "30s", SECOND),
        write_idle: section.duration("write_idle", "30s", SECOND),
        keep_alive: section.duration("keep_alive", "75s", SECOND),
    };
    let effective = section.close();
    parent.include("timeouts", effective);
    config
}

fn read_limits(parent: &mut Section<'_>) -> ServerLimits {
    const LARGEST_HEAD: u64 = 1 << 20;
    let mut section = parent.section("limits");
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let config = ServerLimits {
        uri: size(section.size("uri", "8KiB", 64, 60 << 10)),
        headers: size(section.size("headers", "16KiB", 1 << 10, LARGEST_HEAD)),
        header_count: section.number("header_count", 100, 8, 1_000) as usize,
        connections: section.number("connections", 20_000, 1, 1_000_000) as usize,
        body: Some(section.size("body", "0", 0, u64::MAX)).filter(|bytes| *bytes > 0),
    };
    let effective = section.close();
    parent.include("limits", effective);
    config
}

fn read_drain(parent: &mut Section<'_>) -> DrainConfig {
    let mut section = parent.section("drain");
    let config = DrainConfig {
        delay: section.duration("delay", "0s", Duration::ZERO),
        timeout: section.duration("timeout", "30s", Duration::ZERO),
    };
    let effective = section.close();
    parent.include("drain", effective);
    config
}
