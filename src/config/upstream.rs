//! `[[upstreams]]`

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::balancing::{
    self, BALANCES, Balance, EjectionConfig, EndpointLimits, HealthConfig, RawEjection, RawHealth, RetryOn,
};
use super::check::{Check, Zero};
use super::tls::CertificateFiles;

/// A named set of endpoints.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name: routes and metrics carry it.
    pub name: String,
    /// Where it listens; at least one.
    pub endpoints: Vec<Endpoint>,
    /// What is spoken with them.
    pub protocol: UpstreamProtocol,
    /// How TLS is spoken with those that speak it.
    pub tls: UpstreamTlsConfig,
    /// Which of them gets a request.
    pub balance: Balance,
    /// What is tried again on another one.
    pub retry_on: RetryOn,
    /// What each of them takes at once.
    pub limits: EndpointLimits,
    /// How they are checked; none: they are not.
    pub health: Option<HealthConfig>,
    /// When one that fails gets no requests for a while.
    pub ejection: EjectionConfig,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long until the response head is there.
    pub response_timeout: Duration,
    /// How long the response body may pause.
    pub idle_timeout: Duration,
    /// How long a tunnel (WebSocket) may stand still in both directions.
    pub tunnel_idle_timeout: Duration,
    /// How long the whole exchange may take; none: as long as it moves.
    pub request_timeout: Option<Duration>,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How many idle connections a worker keeps.
    pub keep_alive_connections: usize,
    /// How long a connection serves; none: as long as it is used.
    pub connection_lifetime: Option<Duration>,
    /// How often names of endpoints are looked up.
    pub resolve_interval: Duration,
}

/// The most endpoints of an upstream: those that a request was tried on are the bits of a word.
pub const ENDPOINTS_MOST: usize = 64;

/// `upstreams.protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without asking.
    H2,
    /// What TLS agrees on (ALPN); without TLS, HTTP/1.1.
    Auto,
}

/// `[upstreams.tls]`
#[derive(Clone, Debug, Default)]
pub struct UpstreamTlsConfig {
    /// PEM of the authorities that its certificates may have; none: the web's.
    pub ca_file: Option<PathBuf>,
    /// What we show it.
    pub client_certificate: Option<CertificateFiles>,
    /// The name its certificate must be for; none: the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
}

/// How bytes reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Plain,
    /// TLS over TCP.
    Tls,
    /// A Unix socket.
    Unix(PathBuf),
}

/// `http://host:port`, `https://host:port` or `unix:/path`, resolved to its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is reached.
    pub transport: Transport,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port; 80 where none is written, 443 with TLS.
    pub port: u16,
    /// `host:port` as a Host header writes it (without the default port).
    pub authority: String,
}

/// `[[upstreams]]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) name: String,
    pub(super) endpoints: Vec<String>,
    pub(super) protocol: String,
    pub(super) balance: String,
    pub(super) retry_on: Vec<String>,
    pub(super) max_requests: i64,
    pub(super) max_pending: i64,
    pub(super) connect_timeout: String,
    pub(super) response_timeout: String,
    pub(super) idle_timeout: String,
    pub(super) tunnel_idle_timeout: String,
    pub(super) request_timeout: String,
    pub(super) keep_alive: String,
    pub(super) keep_alive_connections: i64,
    pub(super) connection_lifetime: String,
    pub(super) resolve_interval: String,
    pub(super) tls: RawUpstreamTls,
    pub(super) health: RawHealth,
    pub(super) ejection: RawEjection,
}

/// `[upstreams.tls]` as written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstreamTls {
    ca_file: String,
    client_certificate: String,
    client_key: String,
    server_name: String,
}

impl Default for RawUpstream {
    fn default() -> Self {
        Self {
            name: String::new(),
            endpoints: Vec::new(),
            // What nearly every service speaks, and the cheapest for one request at a time.
            protocol: "http1".to_owned(),
            balance: "round_robin".to_owned(),
            retry_on: vec!["reset".to_owned()],
            max_requests: 0,
            max_pending: 1024,
            // Within a data centre a connection takes a millisecond; two seconds allow one lost packet.
            connect_timeout: "2s".to_owned(),
            response_timeout: "60s".to_owned(),
            idle_timeout: "60s".to_owned(),
            // Callers and services ping each other as they like; an hour finds those that are gone.
            tunnel_idle_timeout: "1h".to_owned(),
            request_timeout: "0s".to_owned(),
            // Shorter than the 60 s and more after which common servers close: we close first.
            keep_alive: "50s".to_owned(),
            keep_alive_connections: 64,
            // Behind a balancer new servers get their share within that time; a handshake each ten
            // minutes costs nothing.
            connection_lifetime: "10m".to_owned(),
            // As long as most names of services are valid.
            resolve_interval: "30s".to_owned(),
            tls: RawUpstreamTls::default(),
            health: RawHealth::default(),
            ejection: RawEjection::default(),
        }
    }
}

impl RawUpstream {
    pub(super) fn resolve(&self, check: &Check<'_>) -> UpstreamConfig {
        if !check.has_problem("name") {
            check.name("name", &self.name);
        }
        if self.endpoints.is_empty() && !check.has_problem("endpoints") {
            let remedy = "write where it listens, like [\"http://127.0.0.1:3000\"]";
            check.refuse("endpoints", "an upstream has at least one endpoint", remedy);
        }
        if self.endpoints.len() > ENDPOINTS_MOST {
            let remedy = format!("write at most {ENDPOINTS_MOST}");
            check.refuse("endpoints", "these are too many for one upstream", remedy);
        }
        let count = |key, value| usize::try_from(check.count(key, value, 0..=10_000_000)).unwrap_or(usize::MAX);
        let requests = count("max_requests", self.max_requests);
        let endpoints = self.endpoints.iter().enumerate();
        let endpoints = endpoints.filter_map(|(index, text)| endpoint(check, &format!("endpoints[{index}]"), text));
        let request_timeout = check.duration("request_timeout", &self.request_timeout, Zero::Allowed);
        let lifetime = check.duration("connection_lifetime", &self.connection_lifetime, Zero::Allowed);
        let connections = check.count("keep_alive_connections", self.keep_alive_connections, 0..=65_535);
        UpstreamConfig {
            name: self.name.clone(),
            endpoints: endpoints.collect(),
            protocol: check.choice("protocol", &self.protocol, &PROTOCOLS),
            tls: self.tls.resolve(&check.below("tls")),
            balance: check.choice("balance", &self.balance, &BALANCES),
            retry_on: balancing::retry_on(check, &self.retry_on),
            limits: EndpointLimits {
                requests: Some(requests).filter(|most| *most > 0),
                pending: count("max_pending", self.max_pending),
            },
            health: self.health.resolve(&check.below("health")),
            ejection: self.ejection.resolve(&check.below("ejection")),
            connect_timeout: check.duration("connect_timeout", &self.connect_timeout, Zero::Refused),
            response_timeout: check.duration("response_timeout", &self.response_timeout, Zero::Refused),
            idle_timeout: check.duration("idle_timeout", &self.idle_timeout, Zero::Refused),
            tunnel_idle_timeout: check.duration("tunnel_idle_timeout", &self.tunnel_idle_timeout, Zero::Refused),
            request_timeout: (!request_timeout.is_zero()).then_some(request_timeout),
            keep_alive: check.duration("keep_alive", &self.keep_alive, Zero::Refused),
            keep_alive_connections: usize::try_from(connections).unwrap_or(usize::MAX),
            connection_lifetime: (!lifetime.is_zero()).then_some(lifetime),
            resolve_interval: check.duration("resolve_interval", &self.resolve_interval, Zero::Refused),
        }
    }
}

const PROTOCOLS: [(&str, UpstreamProtocol); 3] =
    [("http1", UpstreamProtocol::Http1), ("h2", UpstreamProtocol::H2), ("auto", UpstreamProtocol::Auto)];

impl RawUpstreamTls {
    fn resolve(&self, check: &Check<'_>) -> UpstreamTlsConfig {
        if self.client_certificate.is_empty() != self.client_key.is_empty() {
            let key = if self.client_key.is_empty() { "client_key" } else { "client_certificate" };
            check.refuse(key, "a certificate and its key go together", "name both PEM files, or none");
        }
        let client_certificate = (!self.client_certificate.is_empty()).then(|| CertificateFiles {
            certificate: check.place(&self.client_certificate),
            key: check.place(&self.client_key),
        });
        let server_name = (!self.server_name.is_empty()).then(|| ServerName::try_from(self.server_name.clone()));
        UpstreamTlsConfig {
            ca_file: (!self.ca_file.is_empty()).then(|| check.place(&self.ca_file)),
            client_certificate,
            server_name: server_name.and_then(|name| {
                let remedy = "write the name that stands in the certificate, like \"orders.internal\"";
                let refuse = |_| check.refuse("server_name", format!("`{}` is not a name", self.server_name), remedy);
                name.map_err(refuse).ok()
            }),
        }
    }
}

fn endpoint(check: &Check<'_>, key: &str, text: &str) -> Option<Endpoint> {
    Endpoint::parse(text).map_err(|defect| check.refuse(key, defect.message(text), defect.remedy())).ok()
}

/// Why a text is not the address of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointDefect {
    /// No URL, or of a scheme that is not HTTP.
    NotHttp,
    /// More than a scheme, a host and a port.
    MoreThanAnOrigin,
}

impl EndpointDefect {
    /// What is wrong with `text`. Never shows credentials that stand in it.
    #[must_use]
    pub fn message(self, text: &str) -> String {
        match self {
            Self::NotHttp if text.contains('@') => "this is not the address of an HTTP service".to_owned(),
            Self::NotHttp => format!("`{text}` is not the address of an HTTP service"),
            Self::MoreThanAnOrigin => "an endpoint is a scheme, a host and a port, nothing more".to_owned(),
        }
    }

    /// What to write instead.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NotHttp => {
                "write it like \"http://10.0.0.5:3000\", \"https://orders.internal\" or \"unix:/run/orders.sock\""
            }
            Self::MoreThanAnOrigin => "leave out path, query and user; a route's prefix is cut by `strip_prefix`",
        }
    }
}

impl Endpoint {
    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.transport {
            Transport::Plain => format!("http://{}", self.authority),
            Transport::Tls => format!("https://{}", self.authority),
            Transport::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Reads `http://host[:port]`, `https://host[:port]` or `unix:/path`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, EndpointDefect> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            let host = "localhost".to_owned();
            return Ok(Self { transport: Transport::Unix(path.into()), authority: host.clone(), host, port: 0 });
        }
        let url = Url::parse(text).map_err(|_| EndpointDefect::NotHttp)?;
        let (transport, default_port) = match url.scheme() {
            "http" => (Transport::Plain, 80),
            "https" => (Transport::Tls, 443),
            _ => return Err(EndpointDefect::NotHttp),
        };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointDefect::MoreThanAnOrigin);
        }
        let host = url.host().ok_or(EndpointDefect::NotHttp)?;
        let port = url.port().unwrap_or(default_port);
        let authority = if port == default_port { host.to_string() } else { format!("{host}:{port}") };
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            Host::Ipv4(_) | Host::Domain(_) => host.to_string(),
        };
        if port == 0 {
            return Err(EndpointDefect::NotHttp);
        }
        Ok(Self { transport, host, port, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_origins() {
        for (text, host, port, authority) in [
            ("http://10.0.0.5:3000", "10.0.0.5", 3000, "10.0.0.5:3000"),
            ("http://orders.internal", "orders.internal", 80, "orders.internal"),
            ("http://orders.internal:80/", "orders.internal", 80, "orders.internal"),
            ("http://[::1]:3000", "::1", 3000, "[::1]:3000"),
            ("HTTP://Orders:81", "orders", 81, "orders:81"),
            ("https://orders", "orders", 443, "orders"),
            ("https://orders:80", "orders", 80, "orders:80"),
        ] {
            let transport = if text.starts_with("https") { Transport::Tls } else { Transport::Plain };
            let endpoint = Endpoint { transport, host: host.into(), port, authority: authority.into() };
            assert_eq!(Endpoint::parse(text), Ok(endpoint), "{text}");
        }
        for (text, defect) in [
            ("unix:run/orders.sock", EndpointDefect::NotHttp),
            ("unix:", EndpointDefect::NotHttp),
            ("10.0.0.5:3000", EndpointDefect::NotHttp),
            ("localhost:3000", EndpointDefect::NotHttp),
            ("http://:3000", EndpointDefect::NotHttp),
            ("http://orders:0", EndpointDefect::NotHttp),
            ("http://orders:99999", EndpointDefect::NotHttp),
            ("", EndpointDefect::NotHttp),
            ("http://orders/api", EndpointDefect::MoreThanAnOrigin),
            ("http://orders?x", EndpointDefect::MoreThanAnOrigin),
            ("http://user:hunter2@orders", EndpointDefect::MoreThanAnOrigin),
        ] {
            assert_eq!(Endpoint::parse(text), Err(defect), "{text}");
        }
        let unix = Endpoint::parse("unix:/run/orders.sock").unwrap();
        assert_eq!(
            (unix.transport, unix.authority.as_str()),
            (Transport::Unix("/run/orders.sock".into()), "localhost")
        );
        assert!(!EndpointDefect::MoreThanAnOrigin.message("http://user:hunter2@orders").contains("hunter2"));
    }
}
