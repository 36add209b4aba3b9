//! The other end of a connection, as a handler sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::watch::{CoarseClock, Verdict, Watch};
use super::{Grant, Secured};
use crate::config::server::TimeoutConfig;
use crate::model::usage::CutReason;

/// The other end of a connection, as a [`Handler`](super::Handler) sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Watch>);

impl Peer {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self(watch)
    }

    /// A peer without a connection: nothing is ever late, nothing is ever cut. For tests and
    /// benches of handlers.
    #[must_use]
    pub fn detached(address: SocketAddr) -> Self {
        let forever = Duration::MAX;
        let timeouts = TimeoutConfig {
            tls_handshake: forever,
            request_head: forever,
            body_idle: forever,
            write_idle: forever,
            keep_alive: forever,
        };
        Self(Watch::new(address, CoarseClock::new(), timeouts))
    }

    /// The address, an IPv4 one never in its IPv6 form.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.ip()
    }

    /// The same as a header's value, made once per connection.
    #[must_use]
    pub fn address_value(&self) -> &HeaderValue {
        self.0.ip_value()
    }

    /// What TLS told; none: the connection has none.
    #[must_use]
    pub fn secured(&self) -> Option<&Secured> {
        self.0.secured()
    }

    /// Why we cut the connection; none: we did not.
    #[must_use]
    pub fn cut_reason(&self) -> Option<CutReason> {
        match self.0.verdict() {
            Verdict::Stalled => Some(CutReason::Deadline),
            Verdict::Shutdown => Some(CutReason::Shutdown),
            Verdict::Revoked => Some(CutReason::Revoked),
            Verdict::None | Verdict::Close | Verdict::HeadTimeout => None,
        }
    }

    /// What the exchange under way rests on, until its response has ended: asked after with
    /// [`Handler::still_stands`](super::Handler::still_stands) once it has lasted a while.
    pub fn rests_on(&self, grant: Grant) {
        self.0.rests_on(grant);
    }

    /// Whether the request line had a fragment, which the parser has dropped. Asking forgets.
    #[must_use]
    pub fn take_fragment(&self) -> bool {
        self.0.take_fragment()
    }

    /// Has the handler, or the body of its response, polled again when `after` has passed,
    /// unless [`Self::disarm`] comes first. One deadline at a time: HTTP/1.1 has one request at
    /// a time.
    pub fn arm(&self, after: Duration) {
        self.0.arm(after);
    }

    /// Forgets the deadline.
    pub fn disarm(&self) {
        self.0.disarm();
    }

    /// Whether it is time again for what a long exchange does each
    /// [`Handler::remind_each`](super::Handler::remind_each). Asking forgets.
    #[must_use]
    pub fn take_reminder(&self) -> bool {
        self.0.take_reminder()
    }

    /// Whether the deadline that was set has passed.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.0.is_late()
    }
}
