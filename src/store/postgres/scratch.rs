//! A schema for a proof, and the way to a server by a detour. See `store::scratch`.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_postgres::config::Host;

use super::address::Address;
use super::pool::{Connections, Lease, Purpose, WORK};
use super::tls;
use crate::model::secret::SecretText;
use crate::store::scratch::ServerPlace;
use crate::store::{Result, StoreError};

pub(in crate::store) async fn make_schema(address: &SecretText, name: &str) -> Result<()> {
    lease(address).await?.batch(&format!("CREATE SCHEMA {name}")).await
}

pub(in crate::store) async fn drop_schema(address: &SecretText, name: &str) -> Result<()> {
    // Without the notices that name every table of it.
    let mut lease = lease(address).await?;
    lease.batch(&format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {name} CASCADE")).await
}

async fn lease(address: &SecretText) -> Result<Lease> {
    let address = Address::parse(address.expose())?;
    let connector = tls::connector(&address)?;
    Connections::new(&address, connector, Purpose::Work)?.lease("make or drop a schema", WORK).await
}

/// The same address, with every unqualified name in the schema.
pub(in crate::store) fn inside_schema(address: &SecretText, name: &str) -> SecretText {
    with(address, &[("options", &format!("-c search_path={name}"))])
}

pub(in crate::store) fn detour(address: &SecretText, near: SocketAddr) -> Result<(ServerPlace, SecretText)> {
    let config = Address::parse(address.expose())?.config;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let (ip, near_port) = (near.ip().to_string(), near.port().to_string());
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => {
            let url = with(address, &[("host", host), ("hostaddr", &ip), ("port", &near_port)]);
            Ok((ServerPlace::Tcp(host.clone(), port), url))
        }
        Some(Host::Unix(folder)) => {
            let url = with(address, &[("host", &ip), ("port", &near_port), ("sslmode", "disable")]);
            Ok((ServerPlace::Unix(folder.join(format!(".s.PGSQL.{port}"))), url))
        }
        None => {
            let source = "it names no host".into();
            Err(StoreError::Refused { operation: "read the address", source })
        }
    }
}

/// More words in the query; ours come last, and the last one counts.
fn with(address: &SecretText, words: &[(&str, &str)]) -> SecretText {
    let mut url = address.expose().to_owned();
    for (name, value) in words {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.extend([*name, "="]);
        url.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    SecretText::new(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detour_keeps_the_host_s_name() {
        let near: SocketAddr = "127.0.0.1:7777".parse().unwrap();
        for (url, place, hosts, options) in [
            (
                "postgres://me:secret@db.example/books?sslmode=verify-full",
                ServerPlace::Tcp("db.example".into(), 5432),
                vec![Host::Tcp("db.example".into())],
                1,
            ),
            (
                "postgres://me@localhost:5433/books?host=/run/pg",
                ServerPlace::Unix("/run/pg/.s.PGSQL.5433".into()),
                vec![Host::Tcp("127.0.0.1".into())],
                0,
            ),
        ] {
            let inside = inside_schema(&SecretText::new(url.into()), "apart");
            let (far, near_url) = detour(&inside, near).unwrap();
            assert_eq!(far, place);
            let config = Address::parse(near_url.expose()).unwrap().config;
            assert_eq!(config.get_hosts(), hosts);
            assert_eq!(config.get_hostaddrs().len(), options);
            assert_eq!(config.get_ports(), [7777]);
            assert_eq!(config.get_options(), Some("-c search_path=apart"));
            assert_eq!(config.get_dbname(), Some("books"));
        }
    }
}
