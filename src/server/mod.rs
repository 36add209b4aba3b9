//! Sockets, connections and their deadlines.
//!
//! Owns everything about a caller's connection that is not a request: taking the address, the
//! cap on connections, HTTP/1.1 framing (hyper's), deadlines, and how it ends. Refuses to own what
//! a request means: a [`Handler`] answers it, and `server` knows nothing else of it.

mod connection;
mod listener;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

pub use listener::{Limits, ListenError, Listeners, Worker, bind};
pub use watch::{CutCause, Watch};

/// Any error of a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What answers requests. Total: every request gets a response.
pub trait Handler: Send + Sync + 'static {
    /// What it answers with.
    type Body: http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static;

    /// Answers one request.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The other end of a caller's connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, as the socket says.
    pub address: SocketAddr,
    /// The connection it came on, to learn why it was cut.
    pub connection: Arc<Watch>,
}
