//! Outbound HTTP: a GET of a document, or POSTs of what is to be told, to addresses that an
//! operator's configuration names.
//!
//! Strict on purpose, because what answers may be hostile or lost: a deadline for everything,
//! a bound on the body, no redirects, no proxies from the environment, no decompression, and no
//! addresses of private networks unless allowed. The address that is judged is the one that is
//! connected to: a name is resolved once.
//!
//! Refuses to know what the document means, to cache and to try again.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, HOST, USER_AGENT};
use http::request::Builder;
use http::response::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

/// How far one fetch may go.
#[derive(Clone, Debug)]
pub struct OutboundRules {
    /// For everything, from the resolver to the last byte.
    pub deadline: Duration,
    /// The largest body.
    pub body_max: usize,
    /// Whether it may lead into private networks.
    pub allow_private_addresses: bool,
    /// PEM of the authorities that servers' certificates may have; none: the web's.
    pub ca_file: Option<PathBuf>,
}

/// Fetches documents. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    rules: OutboundRules,
    tls: TlsConnector,
}

/// Why there is no document.
#[derive(Debug, Error)]
pub enum OutboundFault {
    /// It was not there in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The URL has no host, or a scheme that is not HTTP.
    #[error("not an address that is fetched")]
    Address,
    /// The host has no address.
    #[error("the host cannot be resolved")]
    Resolve(#[source] std::io::Error),
    /// The host lies in a private network.
    #[error("{0} lies in a private network")]
    Private(IpAddr),
    /// Nobody takes the connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The server is not who it should be, or no TLS server.
    #[error("no TLS with the server")]
    Tls(#[source] std::io::Error),
    /// The host's name can be on no certificate.
    #[error("the host's name can be on no certificate")]
    Name(#[from] InvalidDnsNameError),
    /// What came is not HTTP, or broke off.
    #[error("the answer broke off")]
    Broken(#[from] hyper::Error),
    /// Another status than 200; redirects are not followed.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// Compressed, though that was not asked for.
    #[error("the answer is encoded")]
    Encoded,
    /// The body is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// The file of authorities cannot be used.
#[derive(Debug, Error)]
#[error("{}: {reason}", path.display())]
pub struct AuthorityFault {
    path: PathBuf,
    reason: String,
}

impl Outbound {
    /// A fetcher by these rules.
    ///
    /// # Errors
    /// The file of authorities cannot be read, or holds none.
    ///
    /// # Panics
    /// Never: aws-lc has the default versions of TLS.
    pub fn new(rules: OutboundRules) -> Result<Self, AuthorityFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("aws-lc has the default versions");
        let config = builder.with_root_certificates(roots(rules.ca_file.as_ref())?).with_no_client_auth();
        Ok(Self { rules, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The same with another deadline.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { rules: OutboundRules { deadline, ..self.rules.clone() }, tls: self.tls.clone() }
    }

    /// The body of a 200.
    ///
    /// # Errors
    /// Everything else.
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, OutboundFault> {
        let deadline = self.rules.deadline;
        timeout(deadline, self.fetch_in_time(url)).await.unwrap_or(Err(OutboundFault::Late(deadline)))
    }

    async fn fetch_in_time(&self, url: &Url) -> Result<Bytes, OutboundFault> {
        let request = request(Request::get(target(url)), url)?
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(CONNECTION, "close")
            .body(Full::default())
            .map_err(|_| OutboundFault::Address)?;
        let response = self.link(url).await?.exchange(request, self.rules.body_max).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(OutboundFault::Status(status)),
        }
    }

    /// One request with this method, headers and body; the answer, whatever its status.
    ///
    /// # Errors
    /// There was none that could be read, in time.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, OutboundFault> {
        let deadline = self.rules.deadline;
        let exchange = async {
            let mut request = request(Request::builder().method(method).uri(target(url)), url)?
                .header(CONNECTION, "close")
                .body(Full::new(body))
                .map_err(|_| OutboundFault::Address)?;
            request.headers_mut().extend(headers.clone());
            self.link(url).await?.exchange(request, self.rules.body_max).await
        };
        timeout(deadline, exchange).await.unwrap_or(Err(OutboundFault::Late(deadline)))
    }

    /// A GET whose answer is read as it comes, for as long as it lasts; its head in time.
    ///
    /// # Errors
    /// There was no head that could be read, in time.
    pub async fn open_stream(&self, url: &Url, headers: &HeaderMap) -> Result<(Parts, Pieces), OutboundFault> {
        let deadline = self.rules.deadline;
        let opened = async {
            let mut request = request(Request::get(target(url)), url)?
                .header(CONNECTION, "close")
                .body(Full::default())
                .map_err(|_| OutboundFault::Address)?;
            request.headers_mut().extend(headers.clone());
            let mut link = self.link(url).await?;
            let Link { sender, drive } = &mut link;
            let response = tokio::select! {
                response = sender.send_request(request) => response?,
                () = drive => unreachable!("it stays pending"),
            };
            let (head, body) = response.into_parts();
            Ok((head, Pieces { body, link }))
        };
        timeout(deadline, opened).await.unwrap_or(Err(OutboundFault::Late(deadline)))
    }

    /// Posts to this address, one request after the other on a connection that is kept.
    pub fn to<'o>(&'o self, url: &'o Url) -> Posts<'o> {
        Posts { outbound: self, url, link: None }
    }

    /// A connection to the URL's host, for a protocol other than HTTP.
    ///
    /// # Errors
    /// Nobody takes it in time, or it may not lead there.
    pub async fn open(&self, url: &Url, port: u16) -> Result<TcpStream, OutboundFault> {
        let host = url.host().ok_or(OutboundFault::Address)?;
        // Not one of the web's schemes: the URL's parser leaves addresses as names.
        let host = match host {
            Host::Domain(name) => name.parse().map_or(Host::Domain(name), |address| match address {
                IpAddr::V4(address) => Host::Ipv4(address),
                IpAddr::V6(address) => Host::Ipv6(address),
            }),
            host => host,
        };
        let deadline = self.rules.deadline;
        let connect = self.connect(&host, url.port().unwrap_or(port));
        timeout(deadline, connect).await.unwrap_or(Err(OutboundFault::Late(deadline)))
    }

    /// TLS with the URL's host on such a connection.
    ///
    /// # Errors
    /// The server is not who it should be.
    pub async fn secure(&self, url: &Url, stream: TcpStream) -> Result<TlsStream<TcpStream>, OutboundFault> {
        let name = match url.host().ok_or(OutboundFault::Address)? {
            Host::Domain(name) => ServerName::try_from(name.to_owned())?,
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(address)),
        };
        self.tls.connect(name, stream).await.map_err(OutboundFault::Tls)
    }

    /// A connection that speaks HTTP.
    async fn link(&self, url: &Url) -> Result<Link, OutboundFault> {
        let host = url.host().ok_or(OutboundFault::Address)?;
        let port = url.port_or_known_default().ok_or(OutboundFault::Address)?;
        let stream = self.connect(&host, port).await?;
        match url.scheme() {
            "https" => Link::over(self.secure(url, stream).await?).await,
            "http" => Link::over(stream).await,
            _ => Err(OutboundFault::Address),
        }
    }

    /// Connects to the first address that takes the connection, of those that may be connected to.
    async fn connect(&self, host: &Host<&str>, port: u16) -> Result<TcpStream, OutboundFault> {
        let addresses: Vec<SocketAddr> = match host {
            Host::Ipv4(address) => vec![((*address), port).into()],
            Host::Ipv6(address) => vec![((*address), port).into()],
            Host::Domain(name) => lookup_host((*name, port)).await.map_err(OutboundFault::Resolve)?.collect(),
        };
        let nothing = || OutboundFault::Resolve(std::io::ErrorKind::NotFound.into());
        let mut fault = None;
        for address in addresses {
            if !self.rules.allow_private_addresses && is_private(address.ip()) {
                fault.get_or_insert(OutboundFault::Private(address.ip()));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => fault = Some(OutboundFault::Connect { address, source }),
            }
        }
        Err(fault.unwrap_or_else(nothing))
    }
}

/// An answer that is read as it comes.
pub struct Pieces {
    body: Incoming,
    link: Link,
}

impl Pieces {
    /// The next piece; none: it is over.
    ///
    /// # Errors
    /// It broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutboundFault> {
        let Self { body, link } = self;
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = &mut link.drive => unreachable!("it stays pending"),
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[pieces of an answer]")
    }
}

/// Requests to one address.
pub struct Posts<'o> {
    outbound: &'o Outbound,
    url: &'o Url,
    link: Option<Link>,
}

impl Posts<'_> {
    /// Posts a body; the answer, whatever its status.
    ///
    /// # Errors
    /// There was none that could be read, in time.
    pub async fn post(&mut self, headers: &HeaderMap, body: Bytes) -> Result<Response<Bytes>, OutboundFault> {
        let deadline = self.outbound.rules.deadline;
        timeout(deadline, self.post_in_time(headers, body)).await.unwrap_or(Err(OutboundFault::Late(deadline)))
    }

    async fn post_in_time(&mut self, headers: &HeaderMap, body: Bytes) -> Result<Response<Bytes>, OutboundFault> {
        let mut request = request(Request::post(target(self.url)), self.url)?
            .body(Full::new(body))
            .map_err(|_| OutboundFault::Address)?;
        request.headers_mut().extend(headers.clone());
        let mut link = match self.link.take().filter(Link::is_open) {
            Some(link) => link,
            None => self.outbound.link(self.url).await?,
        };
        let response = link.exchange(request, self.outbound.rules.body_max).await?;
        let closes = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        if !response.headers().get(CONNECTION).is_some_and(closes) {
            self.link = Some(link);
        }
        Ok(response)
    }
}

impl std::fmt::Debug for Posts<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Posts").field("outbound", &self.outbound).finish_non_exhaustive()
    }
}

/// A connection that speaks HTTP, and what moves its bytes.
struct Link {
    sender: http1::SendRequest<Full<Bytes>>,
    drive: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Link {
    async fn over<S>(stream: S) -> Result<Self, OutboundFault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(HEAD_MAX).handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        // The connection may end before its last bytes were read; what is wrong with it shows there.
        let drive = Box::pin(async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        });
        Ok(Self { sender, drive })
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body_max: usize,
    ) -> Result<Response<Bytes>, OutboundFault> {
        let Self { sender, drive } = self;
        let exchange = async {
            sender.ready().await?;
            whole(sender.send_request(request).await?, body_max).await
        };
        tokio::select! {
            outcome = exchange => outcome,
            () = drive => unreachable!("it stays pending"),
        }
    }
}

/// An answer with its body.
async fn whole(response: Response<Incoming>, body_max: usize) -> Result<Response<Bytes>, OutboundFault> {
    if response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(OutboundFault::Encoded);
    }
    let too_large = || OutboundFault::TooLarge(body_max);
    let (head, mut body) = response.into_parts();
    if body.size_hint().lower() > body_max as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + data.len() > body_max {
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    Ok(Response::from_parts(head, whole.freeze()))
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Outbound").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn target(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// What every request says.
fn request(builder: Builder, url: &Url) -> Result<Builder, OutboundFault> {
    let host = url.host().ok_or(OutboundFault::Address)?;
    let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    Ok(builder.header(HOST, authority).header(USER_AGENT, concat!("octroi/", env!("CARGO_PKG_VERSION"))))
}

fn roots(ca_file: Option<&PathBuf>) -> Result<RootCertStore, AuthorityFault> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let fault = |reason: &dyn std::fmt::Display| AuthorityFault { path: path.clone(), reason: reason.to_string() };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))? {
        roots.add(certificate.map_err(|error| fault(&error))?).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() { Err(fault(&"it holds no certificate")) } else { Ok(roots) }
}

/// Whether an address is not one of the public internet: of this machine, a private network, a
/// reserved block, or an IPv6 form that leads to such an IPv4 address.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    match first {
        // "This network", private, loopback; multicast, reserved and broadcast.
        0 | 10 | 127 | 224.. => true,
        // Carriers' shared space (RFC 6598).
        100 => second & 0xC0 == 64,
        // Link-local, where clouds keep their machines' credentials.
        169 => second == 254,
        172 => second & 0xF0 == 16,
        192 => second == 168 || (second == 0 && (third == 0 || third == 2)) || (second == 88 && third == 99),
        // Benchmarks (RFC 2544), documentation.
        198 => second & 0xFE == 18 || (second == 51 && third == 100),
        203 => second == 0 && third == 113,
        _ => false,
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Only global unicast is public; of it, not Teredo and other protocols' (2001::/23), nor
        // documentation.
        [0x2001, second, ..] => second < 0x200 || second == 0xdb8,
        [0x3fff, second, ..] => second < 0x1000,
        [first, ..] => first & 0xE000 != 0x2000,
    }
}

/// The largest head of an answer.
const HEAD_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests;
