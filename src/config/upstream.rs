//! `[[upstreams]]`

use std::time::Duration;

use toml::Table;

use super::reader::{Findings, Section};

/// A named set of endpoints.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name: routes and metrics carry it.
    pub name: String,
    /// Where it listens; at least one.
    pub endpoints: Vec<Endpoint>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long until the response head is there.
    pub response_timeout: Duration,
    /// How long the response body may pause.
    pub idle_timeout: Duration,
    /// How long the whole exchange may take; none: as long as it moves.
    pub request_timeout: Option<Duration>,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How many idle connections a worker keeps.
    pub keep_alive_connections: usize,
}

/// `http://host:port`, resolved to its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port; 80 where none is written.
    pub port: u16,
    /// `host:port` as a Host header writes it (without the default port).
    pub authority: String,
}

impl UpstreamConfig {
    /// Reads one of `[[upstreams]]`.
    pub(super) fn read(index: usize, given: Table, findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::of(format!("upstreams[{index}]"), given, findings);
        let name = section.text("name", "");
        if name.is_empty() || name.len() > 64 {
            section.problem("name", "is missing or longer than 64 characters", "name it, so that routes can");
        }
        let endpoints = section.list("endpoints", &[], Endpoint::read);
        if endpoints.is_empty() {
            section.problem("endpoints", "names no endpoint", "write at least one, like [\"http://10.0.0.5:3000\"]");
        }
        let least = Duration::from_millis(1);
        let config = Self {
            name,
            endpoints,
            connect_timeout: section.duration("connect_timeout", "2s", least),
            response_timeout: section.duration("response_timeout", "60s", least),
            idle_timeout: section.duration("idle_timeout", "60s", least),
            request_timeout: Some(section.duration("request_timeout", "0s", Duration::ZERO))
                .filter(|limit| !limit.is_zero()),
            keep_alive: section.duration("keep_alive", "50s", Duration::ZERO),
            keep_alive_connections: section.number("keep_alive_connections", 64, 0, 100_000) as usize,
        };
        (config, section.close())
    }
}

impl Endpoint {
    /// Reads `http://host:port`.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} {why}");
        let url = url::Url::parse(text).map_err(|_| wrong("is not an address like \"http://10.0.0.5:3000\""))?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(wrong("asks for TLS to the upstream, which is not in this version")),
            _ => return Err(wrong("has a scheme other than http")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong_without_credentials());
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has a path; name host and port only, routes map paths"));
        }
        let host = match url.host() {
            Some(url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err(wrong("names no host")),
        };
        let authority = url.authority().to_owned();
        Ok(Self { host, port: url.port().unwrap_or(80), authority })
    }
}

fn wrong_without_credentials() -> String {
    "carries credentials; upstreams are asked without any".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_and_ports() {
        for (text, expected) in [
            ("http://10.0.0.5:3000", Some(("10.0.0.5", 3000, "10.0.0.5:3000"))),
            ("http://orders", Some(("orders", 80, "orders"))),
            ("http://[::1]:3000/", Some(("::1", 3000, "[::1]:3000"))),
            ("https://orders", None),
            ("http://u:secret@orders", None),
            ("http://orders/path", None),
            ("orders:3000", None),
            ("", None),
        ] {
            let read = Endpoint::read(text);
            if let Err(message) = &read {
                assert!(!message.contains("secret"), "{message}");
            }
            let read = read.ok();
            let read =
                read.as_ref().map(|endpoint| (endpoint.host.as_str(), endpoint.port, endpoint.authority.as_str()));
            assert_eq!(read, expected, "{text}");
        }
    }
}
