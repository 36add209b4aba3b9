//! What a connection is doing, and what is to become of it.

use crate::wire::websocket::Goodbye;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::server) enum Phase {
    /// Nothing has come yet.
    Fresh,
    /// A head is on its way.
    Head,
    /// A request is being handled.
    Request,
    /// The last response is out.
    Idle,
    /// The same for a while: it has given back what it can do without.
    Resting,
    /// Closed for writing; what still comes is thrown away.
    Linger,
}

impl Phase {
    pub(super) const ALL: [Self; 6] = [Self::Fresh, Self::Head, Self::Request, Self::Idle, Self::Resting, Self::Linger];

    /// Whether it is between requests, and owes nobody anything.
    pub(in crate::server) fn is_idle(self) -> bool {
        matches!(self, Self::Fresh | Self::Idle | Self::Resting)
    }
}

/// What is to happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::server) enum Verdict {
    /// It goes on.
    None,
    /// Closed without a word.
    Close,
    /// Told that its head came too late, and closed.
    HeadTimeout,
    /// Cut in the middle: the caller does not read.
    Stalled,
    /// Cut in the middle: the process stops.
    Shutdown,
    /// Cut in the middle: what the exchange rests on was withdrawn.
    Revoked,
}

impl Verdict {
    pub(super) const ALL: [Self; 6] =
        [Self::None, Self::Close, Self::HeadTimeout, Self::Stalled, Self::Shutdown, Self::Revoked];

    /// What a tunnel is told before it is broken off.
    pub(in crate::server) fn goodbye(self) -> Option<Goodbye> {
        match self {
            Self::Revoked => Some(Goodbye::PolicyViolation),
            Self::Shutdown => Some(Goodbye::GoingAway),
            Self::None | Self::Close | Self::HeadTimeout | Self::Stalled => None,
        }
    }
}
