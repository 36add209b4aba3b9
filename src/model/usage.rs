//! Usage events: what is billed.

use jiff::Timestamp;

use super::id::{ApiKeyId, ClientId, EventId, RequestId, TokenId};

/// How an admitted request ended. A closed set; `usage_events.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// The response ended as the upstream framed it, whatever its status.
    Complete = 1,
    /// The caller left first.
    ClientGone = 2,
    /// The upstream refused, reset, timed out or was malformed, before or in the body.
    UpstreamError = 3,
    /// We ended it; the reason says why.
    Cut = 4,
    /// Admitted, but nothing left for the upstream: 0 units.
    NotSent = 5,
    /// The gateway died after something had left.
    Interrupted = 6,
}

impl Outcome {
    /// Every outcome of an event, for tables and checks.
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::ClientGone, Self::UpstreamError, Self::Cut, Self::NotSent, Self::Interrupted];

    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamError => "upstream_error",
            Self::Cut => "cut",
            Self::NotSent => "not_sent",
            Self::Interrupted => "interrupted",
        }
    }

    /// Reads a journal byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| *outcome as u8 == byte)
    }
}

/// The outcome of requests that were refused: only in rollups.
pub const REJECTED: &str = "rejected";

/// What reports show as the outcome of requests that would have been refused, had their route not
/// observed, beside the outcome that they had.
pub const OBSERVED: &str = "observed";

/// Why we cut a transfer. A closed set; `usage_events.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CutReason {
    /// The credential was revoked.
    Revoked = 1,
    /// The gateway stopped.
    Shutdown = 2,
    /// A deadline of ours passed.
    Deadline = 3,
    /// The body grew past its limit.
    BodyTooLarge = 4,
}

impl CutReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Revoked, Self::Shutdown, Self::Deadline, Self::BodyTooLarge];

    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Shutdown => "shutdown",
            Self::Deadline => "deadline",
            Self::BodyTooLarge => "body_too_large",
        }
    }

    /// Reads a journal byte; zero and unknown are none.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }
}

/// The method as it is counted: the registered ones, and one word for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the method it names (RFC 9110 §9.3, RFC 5789)")]
pub enum CountedMethod {
    Get = 1,
    Head = 2,
    Post = 3,
    Put = 4,
    Delete = 5,
    Options = 6,
    Patch = 7,
    Other = 8,
}

impl CountedMethod {
    const ALL: [Self; 8] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Delete, Self::Options, Self::Patch, Self::Other];

    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Other => "other",
        }
    }

    /// Sorts a method into the closed set.
    #[must_use]
    pub fn of(method: &str) -> Self {
        Self::ALL.into_iter().find(|counted| counted.as_str() == method).unwrap_or(Self::Other)
    }

    /// Reads a journal byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().find(|method| *method as u8 == byte).unwrap_or(Self::Other)
    }
}

/// What is known when a request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The event's id.
    pub id: EventId,
    /// The request's id, as sent up and down.
    pub request_id: RequestId,
    /// Who pays; nil on open routes.
    pub client_id: ClientId,
    /// The key's row; nil when none was used.
    pub api_key_id: ApiKeyId,
    /// The token; nil when none was used.
    pub token_id: TokenId,
    /// When it was admitted.
    pub occurred_at: Timestamp,
    /// The route, as an index into the table of names the journal was opened with.
    pub route: u16,
    /// The method.
    pub method: CountedMethod,
    /// What it costs.
    pub units: u32,
    /// What it is an entry of.
    pub kind: EventKind,
}

/// What is known when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What the caller was sent; none when nothing was.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why we cut it, if we did.
    pub reason: Option<CutReason>,
    /// From admission to the end, in microseconds.
    pub duration_us: u64,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    /// What it cost, where the upstream said so; else what was admitted.
    pub units: Option<u32>,
}

/// A row of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `usage_events`, as Admission and Settlement explain them")]
pub struct UsageEvent {
    pub id: EventId,
    pub request_id: String,
    pub client_id: ClientId,
    /// Null when nil.
    pub api_key_id: Option<ApiKeyId>,
    /// Null when nil.
    pub token_id: Option<TokenId>,
    pub occurred_at: Timestamp,
    pub route: String,
    pub method: &'static str,
    pub status: Option<u16>,
    pub outcome: Outcome,
    pub reason: Option<CutReason>,
    pub duration_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub units: u32,
    pub node: String,
    pub kind: EventKind,
}

/// What an event is of. A request has one event, and before it, while its transfer goes on for
/// long, interim records: of each amount their sum with the event's is the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A request that was to be forwarded.
    Request,
    /// An interim record of the request with this event: no request of its own.
    Stream(EventId),
    /// A request that another proxy forwards, and that was only let pass here.
    Delegated,
}

impl EventKind {
    /// As the column `kind` holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => REQUEST,
            Self::Stream(_) => STREAM,
            Self::Delegated => DELEGATED,
        }
    }

    /// Of an interim record, the request's event; the column `parent_id`.
    #[must_use]
    pub fn parent(self) -> Option<EventId> {
        match self {
            Self::Stream(parent) => Some(parent),
            Self::Request | Self::Delegated => None,
        }
    }
}

/// The kind of a request's own event.
pub const REQUEST: &str = "request";
/// The kind of an interim record: bytes of a transfer that goes on, and no request, time or units.
pub const STREAM: &str = "stream";
/// The kind of an event of a request that another proxy forwards.
pub const DELEGATED: &str = "delegated";

/// Refusals of one kind within one hour, on their way into `usage_hourly`; or what would have been
/// refused, on its way into `usage_observed`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RejectedCount {
    /// The hour's beginning.
    pub hour: Timestamp,
    /// Who was refused; nil when not known.
    pub client_id: ClientId,
    /// The key; nil when not known.
    pub api_key_id: ApiKeyId,
    /// The route; empty when none was found.
    pub route: String,
    /// The status sent.
    pub status: u16,
    /// The code of the refusal.
    pub reason: &'static str,
    /// It was not refused, because its route observes.
    pub observed: bool,
    /// How many.
    pub requests: u64,
}
