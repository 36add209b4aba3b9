//! The address of a PostgreSQL server: libpq's URI, with all of its `sslmode` words.
//!
//! tokio-postgres reads the rest of the URI but knows only three of the words, and asks for no
//! certificates; so `sslmode` and `sslrootcert` are taken out here and decided by us.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Config, Host, SslMode};

use crate::store::{Result, StoreError};

/// A parsed address.
pub(super) struct Address {
    /// What tokio-postgres connects by.
    pub(super) config: Config,
    /// What is checked of the server's certificate.
    pub(super) verification: Verification,
    /// `sslrootcert`: a file of PEM certificates; none: Mozilla's roots.
    pub(super) roots: Option<PathBuf>,
}

/// What is checked of the server's certificate, when there is TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    /// Nothing: the words up to `require` only ask for encryption, as libpq has it.
    None,
    /// That a known authority signed it (`verify-ca`).
    Authority,
    /// That, and that it is for this host (`verify-full`).
    Full,
}

/// How long a server may leave sent data unacknowledged, and how long a connection is idle
/// before the first keep-alive probe: how a dead peer is told from a slow one.
const DEAD_PEER: Duration = Duration::from_secs(15);

impl Address {
    /// Reads `postgres://…`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let Uri { plain, mode, mut roots } = Uri::read(url)?;
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| refused(error.into()))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refused("it names no host; write postgres://HOST/… or postgres:///NAME?host=/FOLDER".into()));
        }
        let (ssl_mode, mut verification) = mode_of(mode.as_deref(), &config)?;
        if roots.as_deref() == Some("system") {
            // libpq's word for "the usual roots", which makes every mode the strictest.
            (roots, verification) = (None, Verification::Full);
        } else if roots.is_some() && verification == Verification::None && mode.as_deref() == Some("require") {
            // libpq: with a root certificate at hand, `require` checks it.
            verification = Verification::Authority;
        }
        config.ssl_mode(if only_sockets(&config) { SslMode::Disable } else { ssl_mode });
        config.tcp_user_timeout(DEAD_PEER).keepalives_idle(DEAD_PEER);
        if config.get_application_name().is_none() {
            config.application_name("octroi");
        }
        Ok(Self { config, verification, roots: roots.map(PathBuf::from) })
    }
}

/// A URI in the form that tokio-postgres reads as libpq would, and the words it cannot read.
struct Uri {
    plain: String,
    mode: Option<String>,
    roots: Option<String>,
}

impl Uri {
    /// libpq lets `?host=` and `?port=` replace what stands before the path; tokio-postgres
    /// would try both. So hosts and ports are all moved into the query.
    fn read(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| refused("it does not begin with postgres://".into()))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, named) = authority.rsplit_once('@').map_or((None, authority), |(user, named)| (Some(user), named));
        let (mut hosts, mut ports): (Vec<&str>, Vec<&str>) = named.split(',').map(host_and_port).unzip();
        let (mut mode, mut roots, mut params) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("sslmode", value) => mode = Some(decoded(value)),
                ("sslrootcert", value) => roots = Some(decoded(value)),
                ("host", value) => hosts = value.split(',').collect(),
                ("port", value) => ports = value.split(',').collect(),
                _ => params.push(pair.replace('@', "%40")),
            }
        }
        params.extend(hosts.iter().filter(|host| !host.is_empty()).map(|host| format!("host={host}")));
        if ports.iter().any(|port| !port.is_empty()) {
            params.push(format!("port={}", ports.join(",")));
        }
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let plain = format!("postgres://{user}/{}?{}", path.replace('@', "%40"), params.join("&"));
        Ok(Self { plain, mode, roots })
    }
}

/// Splits `host:port`, `[address]:port` or either alone; what is absent is empty.
fn host_and_port(text: &str) -> (&str, &str) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (host, rest.strip_prefix(':').unwrap_or(rest));
    }
    text.rsplit_once(':').unwrap_or((text, ""))
}

fn decoded(value: &str) -> String {
    // In a URI of libpq a plus is a plus.
    let value = value.replace('+', "%2B");
    url::form_urlencoded::parse(value.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

fn mode_of(word: Option<&str>, config: &Config) -> Result<(SslMode, Verification)> {
    Ok(match word {
        Some("disable") => (SslMode::Disable, Verification::None),
        // libpq's `allow` tries without TLS first; encrypting where we can is no less.
        Some("allow" | "prefer") => (SslMode::Prefer, Verification::None),
        Some("require") => (SslMode::Require, Verification::None),
        Some("verify-ca") => (SslMode::Require, Verification::Authority),
        Some("verify-full") => (SslMode::Require, Verification::Full),
        Some(word) => {
            let message = format!(
                "sslmode `{}` is not one of disable, allow, prefer, require, verify-ca, verify-full",
                word.escape_debug()
            );
            return Err(refused(message.into()));
        }
        None if config.get_hosts().iter().all(is_local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback) => {
            (SslMode::Prefer, Verification::None)
        }
        None => (SslMode::Require, Verification::None),
    })
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

/// PostgreSQL has no TLS on a Unix socket, and refuses to be asked.
fn only_sockets(config: &Config) -> bool {
    let sockets = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    sockets && !config.get_hosts().is_empty() && config.get_hostaddrs().is_empty()
}

fn refused(source: crate::store::Source) -> StoreError {
    StoreError::Refused { operation: "read the address of the store", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_libpq_is_understood() {
        for (url, mode, verification) in [
            ("postgres://db.example/o?sslmode=disable", SslMode::Disable, Verification::None),
            ("postgres://db.example/o?sslmode=allow", SslMode::Prefer, Verification::None),
            ("postgres://db.example/o?sslmode=prefer", SslMode::Prefer, Verification::None),
            ("postgres://db.example/o?sslmode=require", SslMode::Require, Verification::None),
            ("postgres://db.example/o?sslmode=verify-ca", SslMode::Require, Verification::Authority),
            ("postgres://db.example/o?sslmode=verify-full", SslMode::Require, Verification::Full),
            ("postgres://db.example/o?sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Verification::Authority),
            ("postgres://db.example/o?sslmode=require&sslrootcert=system", SslMode::Require, Verification::Full),
            // Absent: encrypted, unless the bytes never leave the machine.
            ("postgres://db.example/o", SslMode::Require, Verification::None),
            ("postgres://10.0.0.5:5433/o", SslMode::Require, Verification::None),
            ("postgres://127.0.0.1,db.example/o", SslMode::Require, Verification::None),
            ("postgres://localhost/o", SslMode::Prefer, Verification::None),
            ("postgres://127.0.0.2/o", SslMode::Prefer, Verification::None),
            ("postgres://[::1]/o", SslMode::Prefer, Verification::None),
            ("postgres://octroi@localhost/o?host=/run/postgresql", SslMode::Disable, Verification::None),
            ("postgres://octroi@localhost/o?host=db.example", SslMode::Require, Verification::None),
            ("postgres:///o?host=/run/postgresql", SslMode::Disable, Verification::None),
            ("postgres:///o?host=/run/postgresql&sslmode=verify-full", SslMode::Disable, Verification::Full),
            ("postgres://%2Frun%2Fpostgresql/o?sslmode=require", SslMode::Disable, Verification::None),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.config.get_ssl_mode(), address.verification), (mode, verification), "{url}");
        }
    }

    #[test]
    fn the_rest_of_the_address_passes_on_untouched() {
        let url = "postgres://us%40er:p%26ss@db.example:5433/na%20me?application_name=x%26y&sslmode=require&sslrootcert=%2Fa%20b.pem";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.config.get_user(), Some("us@er"));
        assert_eq!(address.config.get_password(), Some(&b"p&ss"[..]));
        assert_eq!(address.config.get_ports(), [5433]);
        assert_eq!(address.config.get_dbname(), Some("na me"));
        assert_eq!(address.config.get_application_name(), Some("x&y"));
        assert_eq!(address.roots, Some(PathBuf::from("/a b.pem")));
    }

    #[test]
    fn hosts_and_ports_of_the_query_replace_those_before_the_path() {
        for (url, hosts, ports) in [
            ("postgres://a:1,b:2/n", &["a", "b"][..], &[1, 2][..]),
            ("postgres://a,b:2/n", &["a", "b"], &[5432, 2]),
            ("postgres://a/n?port=7", &["a"], &[7]),
            ("postgres://a:1/n?host=b", &["b"], &[1]),
            ("postgres://a:1/n?host=b,c&port=7,8", &["b", "c"], &[7, 8]),
            ("postgres://u@[::1]:6/n", &["::1"], &[6]),
            ("postgresql://u:p%40w@a/n?options=x@y", &["a"], &[]),
        ] {
            let config = Address::parse(url).unwrap().config;
            let named: Vec<_> = hosts.iter().map(|host| Host::Tcp((*host).to_owned())).collect();
            assert_eq!(config.get_hosts(), named, "{url}");
            assert_eq!(config.get_ports(), ports, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_without_repeating_a_password() {
        for url in [
            "postgres:///name",
            "postgres://u:hunter2@h/n?sslmode=on",
            "postgres://u:hunter2@h/n?sslcert=x",
            "mysql://h",
        ] {
            let Err(error) = Address::parse(url) else { panic!("{url} was understood") };
            let StoreError::Refused { source, .. } = &error else { panic!("{error:?}") };
            assert!(!format!("{error} {source} {source:?}").contains("hunter2"), "{source:?}");
        }
    }
}
