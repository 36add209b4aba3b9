//! From an accepted socket to a connection that speaks HTTP: the PROXY protocol's header, then the
//! TLS handshake, each only where the listener asks for it, both within one deadline.
//!
//! Whoever does not get through is closed without a word: there is no protocol yet to say one in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::acme::ACME_TLS;
use super::certificates;
use super::stream::Stream;
use super::tls::{H2, Tls};
use crate::config::listener::ListenProtocol;
use crate::wire::proxy_protocol::{self, Beginning, LENGTH_MAX};

/// What a listener asks of those who connect.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// What is spoken.
    pub protocol: ListenProtocol,
    /// Whether a PROXY protocol header comes first.
    pub proxy_protocol: bool,
    /// For [`ListenProtocol::Https`].
    pub tls: Option<Arc<Tls>>,
}

impl Entrance {
    /// HTTP/1.1, at once.
    #[must_use]
    pub fn plain() -> Self {
        Self { protocol: ListenProtocol::Http, proxy_protocol: false, tls: None }
    }

    /// Whether HTTP/1.1 begins with the first byte.
    pub(super) fn is_open(&self) -> bool {
        self.protocol == ListenProtocol::Http && !self.proxy_protocol
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What TLS told about a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// Whom the caller's certificate is for; none: it showed none.
    pub subject: Option<certificates::Subject>,
}

/// A connection that is ready for its first request.
pub(super) struct Arrived {
    pub(super) stream: Stream,
    pub(super) address: SocketAddr,
    pub(super) speaks: Speaks,
    /// None: there is no TLS.
    pub(super) secured: Option<Secured>,
}

/// Why nobody arrived.
#[derive(Debug, Error)]
pub(super) enum Lost {
    #[error("it took too long")]
    Late,
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("the peer is no trusted proxy, and this listener takes only those")]
    NoProxy,
    #[error("the connection does not begin with a PROXY protocol header")]
    NoHeader,
    #[error("no TLS with the caller")]
    Tls(#[source] std::io::Error),
    #[error("an authority looked whether a name is ours")]
    Looked,
}

/// Goes through all that `entrance` asks for, within `limit`. `trusted`: whose PROXY protocol
/// header counts.
pub(super) async fn arrive(
    stream: Stream,
    address: SocketAddr,
    entrance: &Entrance,
    trusted: &[IpNet],
    limit: Duration,
) -> Result<Arrived, Lost> {
    tokio::time::timeout(limit, through(stream, address, entrance, trusted)).await.unwrap_or(Err(Lost::Late))
}

async fn through(stream: Stream, peer: SocketAddr, entrance: &Entrance, trusted: &[IpNet]) -> Result<Arrived, Lost> {
    let (stream, address) = if entrance.proxy_protocol {
        // Who may open a Unix socket is said by its folder.
        let is_trusted = matches!(stream, Stream::Unix(_))
            || trusted.iter().any(|network| network.contains(&peer.ip().to_canonical()));
        if !is_trusted {
            return Err(Lost::NoProxy);
        }
        read_header(stream, peer).await?
    } else {
        (stream, peer)
    };
    let Some(tls) = entrance.tls.as_ref().filter(|_| entrance.protocol == ListenProtocol::Https) else {
        let speaks = if entrance.protocol == ListenProtocol::H2c { Speaks::Http2 } else { Speaks::Http1 };
        return Ok(Arrived { stream, address, speaks, secured: None });
    };
    let mut stream = tls.acceptor().accept(stream).await.map_err(Lost::Tls)?;
    if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
        // RFC 8737 §3: it has seen what it came for.
        let _ = stream.shutdown().await;
        return Err(Lost::Looked);
    }
    let session = stream.get_ref().1;
    let speaks = if session.alpn_protocol() == Some(H2) { Speaks::Http2 } else { Speaks::Http1 };
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let secured = Secured { subject: shown.and_then(certificates::subject) };
    Ok(Arrived { stream: Stream::Tls(Box::new(stream.into())), address, speaks, secured: Some(secured) })
}

/// Takes the header off; what was read behind it comes first again.
async fn read_header(mut stream: Stream, peer: SocketAddr) -> Result<(Stream, SocketAddr), Lost> {
    let mut bytes = BytesMut::with_capacity(LENGTH_MAX);
    loop {
        match proxy_protocol::read(&bytes) {
            Beginning::Whole(said) => {
                let rest: Bytes = bytes.split_off(said.length).freeze();
                return Ok((stream.replaying(rest), said.source.unwrap_or(peer)));
            }
            Beginning::Other => return Err(Lost::NoHeader),
            Beginning::Partial => {}
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Lost::NoHeader);
        }
    }
}
