//! Sockets and HTTP/1.1 towards callers: who may connect, how long anything may take, and what
//! answers when there is no request yet.
//!
//! | file | owns |
//! |---|---|
//! | [`listener`] | binding, accepting within the cap, the end of accepting |
//! | [`acme`] | a certificate that is ordered and renewed by ourselves |
//! | `arrival` | what comes before HTTP: the PROXY protocol, the TLS handshake |
//! | [`tls`] | what handshakes are made with, and how that changes |
//! | [`certificates`] | certificates and keys from files, and which a caller gets |
//! | `connection` | one connection, from the lane to hyper to its end |
//! | `resting` | one that has asked nothing yet, or nothing for a while |
//! | `fast_lane` | plain HTTP/1.1, read and answered by ourselves |
//! | `http2` | a connection of HTTP/2, a watch for each of its streams |
//! | `places` | how many may be connected, in all and from one address |
//! | `peer` | the connection as a handler sees it |
//! | `watch` | what a connection is doing and since when; the sweep that finds it too slow |
//! | `stream` | a socket, of whatever kind |
//! | [`dial`] | connections to upstreams |
//! | [`names`] | the addresses behind their names |
//! | `caller_io` | the socket, observed; answers of hyper's own get a body |
//! | `request_body` | the body of a request, with its deadline |
//!
//! Refuses to own: what a request means. That is a [`Handler`], which this module calls and
//! which never fails.

pub mod acme;
mod arrival;
mod caller_io;
pub mod certificates;
mod connection;
pub mod dial;
mod fast_lane;
mod http2;
pub mod listener;
pub mod names;
pub mod outbound;
mod peer;
mod places;
mod request_body;
mod resting;
pub mod spans;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
mod watch;

use std::any::Any;
use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

pub use arrival::{Entrance, Secured, Speaks};
pub use listener::{Bound, bind, bind_unix, serve};
pub use peer::Peer;
pub use places::{Crowds, Places};
pub use request_body::{BodyFault, BrokenBody, RequestBody};
pub use stream::Stream;

/// What an exchange rests on, whatever that is to the handler.
pub type Grant = Arc<dyn Any + Send + Sync>;

/// What answers requests. Total: whatever goes wrong is a response.
pub trait Handler: Send + Sync + 'static {
    /// The body of its responses. Dropped unfinished, it was cut; [`Peer::cut_reason`] says
    /// whether by us.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Answers one request. Dropped when the caller leaves or is cut.
    fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers what is no request: the response is sent as it is, then the connection closes.
    fn refuse(&self, refusal: Refusal, address: IpAddr) -> Response<Bytes>;

    /// Whether what a long exchange rests on still stands; asked about once a second of those
    /// that have lasted some seconds, on the worker's thread. If not, the connection is cut.
    fn still_stands(&self, _grant: &Grant) -> bool {
        true
    }

    /// How often the handler, or the body of its response, is polled and reminded
    /// ([`Peer::take_reminder`]) while one exchange goes on; none: never.
    fn remind_each(&self) -> Option<std::time::Duration> {
        None
    }

    /// Called on the worker's thread each tick (about 50 ms): for work that must not cost a
    /// timer per request. `late`: for how long the worker had other work first, as any request has
    /// to wait now.
    fn tick(&self, _late: std::time::Duration) {}
}

/// Why a connection is turned away before there is a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What was sent is not HTTP/1.1.
    Malformed,
    /// The target is longer than the parser's buffer.
    UriTooLong,
    /// The head is larger than the parser's buffer, or has more lines than it counts.
    HeadersTooLarge,
    /// The head was not there in time.
    HeadTimeout,
    /// `server.limits.connections` are open.
    Overloaded,
}
