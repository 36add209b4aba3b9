//! Connections to upstreams: TCP or a Unix socket, and TLS where the endpoint asks for it.
//!
//! An upstream's certificate is always verified: against the web's authorities, or against those
//! that the configuration names.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::Speaks;
use super::certificates::{CertificateFault, read_authorities, read_chain, read_key};
use super::names::{Lookup, Name, System};
use super::stream::Stream;
use super::tls::{H2, HTTP11, TlsFault};
use crate::config::upstream::{Endpoint, Transport, UpstreamProtocol, UpstreamTlsConfig};

/// How an upstream's TLS is spoken.
#[derive(Clone)]
pub struct UpstreamTls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl UpstreamTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn load(settings: &UpstreamTlsConfig, protocol: UpstreamProtocol) -> Result<Self, TlsFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(authorities(settings.ca_file.as_deref())?);
        let mut config = match &settings.client_certificate {
            None => builder.with_no_client_auth(),
            Some(files) => builder.with_client_auth_cert(read_chain(&files.certificate)?, read_key(&files.key)?)?,
        };
        config.alpn_protocols = match protocol {
            UpstreamProtocol::Http1 => vec![HTTP11.to_vec()],
            UpstreamProtocol::H2 => vec![H2.to_vec()],
            UpstreamProtocol::Auto => vec![H2.to_vec(), HTTP11.to_vec()],
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name: settings.server_name.clone() })
    }
}

impl std::fmt::Debug for UpstreamTls {
    /// Without keys.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UpstreamTls").field("name", &self.name).finish_non_exhaustive()
    }
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, CertificateFault> {
    let web = || RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    file.map_or_else(|| Ok(web()), read_authorities)
}

/// What is written before the port.
#[derive(Clone, Debug)]
enum Host {
    Address(IpAddr),
    /// Its clones know what one of them learns.
    Name(Arc<Name>),
}

/// A new connection.
#[derive(Debug)]
pub struct Dialed {
    /// It.
    pub stream: Stream,
    /// What is spoken on it.
    pub speaks: Speaks,
    /// Where it leads, where a name was looked up for it.
    pub address: Option<IpAddr>,
}

/// Where an endpoint is, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Dialer {
    endpoint: Endpoint,
    host: Host,
    protocol: UpstreamProtocol,
    /// With [`Transport::Tls`].
    tls: Option<UpstreamTls>,
}

impl Dialer {
    /// `tls`: of the upstream, for endpoints that speak it.
    #[must_use]
    pub fn new(endpoint: &Endpoint, protocol: UpstreamProtocol, tls: Option<&UpstreamTls>) -> Self {
        Self::with_lookup(endpoint, protocol, tls, Box::new(System))
    }

    /// The same, with names looked up elsewhere than in the system.
    #[must_use]
    pub fn with_lookup(
        endpoint: &Endpoint,
        protocol: UpstreamProtocol,
        tls: Option<&UpstreamTls>,
        lookup: Box<dyn Lookup>,
    ) -> Self {
        let by_name = || Host::Name(Name::new(&endpoint.host, lookup));
        let host = endpoint.host.parse().map_or_else(|_| by_name(), Host::Address);
        let tls = tls.filter(|_| endpoint.transport == Transport::Tls).cloned();
        Self { endpoint: endpoint.clone(), host, protocol, tls }
    }

    /// The name that is looked up, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&Arc<Name>> {
        match &self.host {
            Host::Name(name) if !matches!(self.endpoint.transport, Transport::Unix(_)) => Some(name),
            Host::Name(_) | Host::Address(_) => None,
        }
    }

    /// Who is dialed.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.endpoint.authority
    }

    /// Whether every connection speaks HTTP/2, which is known before there is one.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.protocol == UpstreamProtocol::H2
    }

    /// Whether a connection may turn out to speak HTTP/2.
    #[must_use]
    pub fn may_be_http2(&self) -> bool {
        match self.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::H2 => true,
            UpstreamProtocol::Auto => self.tls.is_some(),
        }
    }

    /// A connection. `preferred`: which address of a name is tried first.
    ///
    /// # Errors
    /// Nobody took it, or TLS could not be agreed on.
    pub async fn dial(&self, preferred: Option<IpAddr>) -> io::Result<Dialed> {
        let plain = if self.is_http2() { Speaks::Http2 } else { Speaks::Http1 };
        if let Transport::Unix(path) = &self.endpoint.transport {
            let stream = Stream::Unix(UnixStream::connect(path).await?);
            return Ok(Dialed { stream, speaks: plain, address: None });
        }
        let (stream, address) = match &self.host {
            Host::Address(address) => (TcpStream::connect((*address, self.endpoint.port)).await?, None),
            Host::Name(name) => {
                let (stream, address) = name.connect(self.endpoint.port, preferred).await?;
                (stream, Some(address))
            }
        };
        // Requests are written whole; without the option the connection still works.
        let _ = stream.set_nodelay(true);
        let stream = Stream::Tcp(stream);
        let (stream, speaks) = match &self.tls {
            None => (stream, plain),
            Some(tls) => {
                let secured = self.secure(stream, tls).await;
                if let (Err(_), Some(name), Some(address)) = (&secured, self.name(), address) {
                    name.doubt(address);
                }
                secured?
            }
        };
        Ok(Dialed { stream, speaks, address })
    }

    async fn secure(&self, stream: Stream, tls: &UpstreamTls) -> io::Result<(Stream, Speaks)> {
        let name = match &tls.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(self.endpoint.host.clone()).map_err(io::Error::other)?,
        };
        let stream = tls.connector.connect(name, stream).await?;
        let speaks = if stream.get_ref().1.alpn_protocol() == Some(H2) { Speaks::Http2 } else { Speaks::Http1 };
        if self.is_http2() && speaks == Speaks::Http1 {
            return Err(io::Error::other("the upstream does not speak HTTP/2 (ALPN)"));
        }
        Ok((Stream::Tls(Box::new(stream.into())), speaks))
    }
}
