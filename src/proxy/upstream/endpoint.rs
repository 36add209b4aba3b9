//! One endpoint on one worker: its connections, those that are kept and those to be opened.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::connection::Connection;
use super::streams::{Lease, StreamPool};
use crate::config::upstream::{Endpoint, Transport, UpstreamConfig};
use crate::proxy::pool::Pool;
use crate::server::Speaks;
use crate::server::dial::Dialer;

/// See the module.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) dialer: Dialer,
    pub(super) is_secure: bool,
    pub(super) authority: HeaderValue,
    pub(super) pool: Arc<Pool>,
    pub(super) streams: StreamPool,
}

/// A connection that is this request's, or a place on one that is shared.
pub(super) enum Link {
    Own(Box<Connection>),
    Shared(Lease),
}

impl EndpointState {
    /// Nothing is open yet.
    pub(super) fn new(upstream: &UpstreamConfig, endpoint: &Endpoint, dialer: &Dialer) -> Self {
        Self {
            dialer: dialer.clone(),
            is_secure: endpoint.transport == Transport::Tls,
            authority: HeaderValue::from_str(&endpoint.authority).expect("configuration takes only authorities"),
            pool: Pool::new(upstream, dialer.name()),
            streams: StreamPool::new(upstream, dialer.name()),
        }
    }

    /// One that is open already.
    pub(super) fn kept(&self, is_tunnel: bool, towards: Option<IpAddr>) -> Option<Link> {
        // Who switches protocols shares its connection with nobody, before or after.
        if is_tunnel {
            return None;
        }
        let shared = if self.dialer.may_be_http2() { self.streams.take_spread().map(Link::Shared) } else { None };
        shared.or_else(|| self.pool.take(towards).map(Link::Own))
    }

    /// A new one; or, of HTTP/2, one that somebody else has just opened.
    pub(super) async fn open(&self, towards: Option<IpAddr>) -> io::Result<Link> {
        if !self.dialer.may_be_http2() {
            let dialed = self.dialer.dial(towards).await?;
            return Ok(Link::Own(Box::new(Connection::new(dialed.stream, dialed.address))));
        }
        let _turn = self.streams.opening.lock().await;
        if let Some(lease) = self.streams.take_spread() {
            return Ok(Link::Shared(lease));
        }
        let dialed = match self.dialer.dial(self.streams.next_address().or(towards)).await {
            Ok(dialed) => dialed,
            // One to another address is as good.
            Err(error) => return self.streams.take().map(Link::Shared).ok_or(error),
        };
        Ok(match dialed.speaks {
            Speaks::Http1 => Link::Own(Box::new(Connection::new(dialed.stream, dialed.address))),
            Speaks::Http2 => {
                let opened = self.streams.open(dialed.stream, dialed.address).await;
                Link::Shared(opened.map_err(io::Error::other)?)
            }
        })
    }
}
