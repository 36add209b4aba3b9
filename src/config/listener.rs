//! `server.listen` and `[[server.listeners]]`: where callers connect, and how they begin.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// One place where callers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where.
    pub address: ListenAddress,
    /// What is spoken there.
    pub protocol: ListenProtocol,
    /// Whether every connection begins with a PROXY protocol header, from a trusted proxy.
    pub proxy_protocol: bool,
}

/// Where callers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// `server.listeners.protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenProtocol {
    /// HTTP/1.1 without TLS.
    Http,
    /// TLS, then HTTP/2 or HTTP/1.1 as ALPN says.
    Https,
    /// HTTP/2 without TLS, from the first byte on.
    H2c,
}

impl ListenerConfig {
    /// HTTP/1.1 without TLS.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address: ListenAddress::Tcp(address), protocol: ListenProtocol::Http, proxy_protocol: false }
    }

    /// The IP address and port, where it has one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self.address {
            ListenAddress::Tcp(address) => Some(address),
            ListenAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "{UNIX}{}", path.display()),
        }
    }
}

/// `[[server.listeners]]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawListener {
    address: String,
    protocol: String,
    proxy_protocol: bool,
}

impl Default for RawListener {
    fn default() -> Self {
        Self { address: String::new(), protocol: "http".to_owned(), proxy_protocol: false }
    }
}

impl RawListener {
    fn resolve(&self, check: &Check<'_>) -> ListenerConfig {
        let protocols =
            [("http", ListenProtocol::Http), ("https", ListenProtocol::Https), ("h2c", ListenProtocol::H2c)];
        ListenerConfig {
            address: address(check, "address", &self.address),
            protocol: check.choice("protocol", &self.protocol, &protocols),
            proxy_protocol: self.proxy_protocol,
        }
    }
}

/// All listeners: the plain ones of `listen`, then those that say more.
pub(super) fn resolve(
    check: &Check<'_>,
    listen: &[String],
    listeners: &[RawListener],
    trusted_proxies: &[IpNet],
) -> Vec<ListenerConfig> {
    if listen.is_empty() && listeners.is_empty() && !check.has_problem("listen") {
        let remedy = "write at least one address, like [\"0.0.0.0:8080\"], or add one of `[[server.listeners]]`";
        check.refuse("listen", "nothing is listened on", remedy);
    }
    let mut resolved: Vec<ListenerConfig> = Vec::new();
    let is_taken = |resolved: &[ListenerConfig], new: &ListenerConfig| {
        // Port 0 asks for a free one, each time another.
        new.tcp().is_none_or(|address| address.port() != 0) && resolved.iter().any(|old| old.address == new.address)
    };
    for (index, text) in listen.iter().enumerate() {
        let key = format!("listen[{index}]");
        let listener = ListenerConfig {
            address: address(check, &key, text),
            protocol: ListenProtocol::Http,
            proxy_protocol: false,
        };
        if is_taken(&resolved, &listener) {
            check.refuse(&key, format!("`{text}` is named twice"), "name each address once");
        }
        resolved.push(listener);
    }
    for (index, raw) in listeners.iter().enumerate() {
        let check = check.below(&format!("listeners[{index}]"));
        let listener = raw.resolve(&check);
        if listener.proxy_protocol && listener.tcp().is_some() && trusted_proxies.is_empty() {
            let remedy = "name the proxies in `server.trusted_proxies`";
            check.refuse("proxy_protocol", "nobody is trusted to say who calls", remedy);
        }
        if is_taken(&resolved, &listener) {
            check.refuse("address", format!("`{}` is named twice", raw.address), "name each address once");
        }
        resolved.push(listener);
    }
    resolved
}

fn address(check: &Check<'_>, key: &str, text: &str) -> ListenAddress {
    match text.strip_prefix(UNIX) {
        Some("") => {
            check.refuse(key, "a Unix socket has a path", "write it like \"unix:/run/octroi/octroi.sock\"");
            ListenAddress::Unix(PathBuf::new())
        }
        Some(path) => ListenAddress::Unix(check.place(path)),
        None => ListenAddress::Tcp(check.address(key, text)),
    }
}
