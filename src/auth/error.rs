//! Why a caller was not let in: the private cause.
//!
//! What the caller is told is decided in `proxy::rejection`, and it is less.

use thiserror::Error;

use crate::model::id::{ApiKeyId, ClientId};

/// The private reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// 401, without an error code (RFC 6750 §3.1).
    #[error("no credential where the route looks")]
    Missing,
    /// 400
    #[error("more than one credential")]
    Ambiguous,
    /// 401
    #[error("the credential is {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: InvalidReason,
        /// Whose it would be; nil where not known.
        client: ClientId,
        /// The key; nil where not known.
        key: ApiKeyId,
    },
    /// 403
    #[error("the client is suspended")]
    ClientSuspended {
        /// Which.
        client: ClientId,
        /// The key.
        key: ApiKeyId,
    },
    /// 403
    #[error("the credential lacks a scope the route asks for")]
    InsufficientScope,
    /// 429
    #[error("too many failed credentials from this address")]
    TooManyFailures {
        /// Whole seconds until the next try, at least 1.
        retry_after_seconds: u64,
    },
    /// 503
    #[error("the store could not say who this is")]
    Unavailable,
}

impl AuthError {
    /// An invalid credential of nobody known.
    #[must_use]
    pub fn invalid(reason: InvalidReason) -> Self {
        Self::Invalid { reason, client: ClientId::NIL, key: ApiKeyId::NIL }
    }

    /// The reason as a word: metrics and logs carry it. A closed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "ambiguous",
            Self::Invalid { reason, .. } => reason.as_str(),
            Self::ClientSuspended { .. } => "client_suspended",
            Self::InsufficientScope => "insufficient_scope",
            Self::TooManyFailures { .. } => "too_many_failures",
            Self::Unavailable => "unavailable",
        }
    }

    /// Who was refused; nil ids where not known.
    #[must_use]
    pub fn who(&self) -> (ClientId, ApiKeyId) {
        match *self {
            Self::Invalid { client, key, .. } | Self::ClientSuspended { client, key } => (client, key),
            Self::Missing
            | Self::Ambiguous
            | Self::InsufficientScope
            | Self::TooManyFailures { .. }
            | Self::Unavailable => (ClientId::NIL, ApiKeyId::NIL),
        }
    }
}

/// Why a credential is not good. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidReason {
    /// Not a key's shape: length, alphabet or check digits.
    Malformed,
    /// A kind of credential the route does not take there.
    WrongKind,
    /// No such key.
    Unknown,
    /// Revoked.
    Revoked,
    /// Expired.
    Expired,
}

impl InvalidReason {
    /// As a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongKind => "wrong_kind",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl std::fmt::Display for InvalidReason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}
