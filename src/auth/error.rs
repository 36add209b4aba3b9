//! Why a caller was not let in: the private cause.
//!
//! What the caller is told is decided in `proxy::rejection`, and it is less.

use thiserror::Error;

use super::jwt::TokenFault;
use crate::model::id::{ApiKeyId, ClientId};

/// The private reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// 401, without an error code (RFC 6750 §3.1).
    #[error("no credential where the route looks")]
    Missing,
    /// 400
    #[error("more than one credential: {0}")]
    Ambiguous(&'static str),
    /// 401
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: InvalidReason,
        /// Whose it would be, where known.
        client: Option<ClientId>,
        /// The key, where known.
        key: Option<ApiKeyId>,
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
    /// 403
    #[error("the key may not be used from this address")]
    AddressDenied,
    /// 429
    #[error("too many failed credentials from this address")]
    TooManyFailures {
        /// Whole seconds until the next try, at least 1.
        retry_after_seconds: u64,
    },
    /// 503
    #[error("the keys of the token's issuer are not there")]
    IssuerUnavailable,
    /// 503
    #[error("the store could not say who this is")]
    Unavailable,
}

/// Why a credential is not good. A closed set: metrics carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidReason {
    /// Not a key's shape: length, alphabet or check digits.
    #[error("malformed")]
    Malformed,
    /// A kind of credential the route does not take.
    #[error("wrong_kind")]
    WrongKind,
    /// No such key.
    #[error("unknown")]
    Unknown,
    /// Revoked.
    #[error("revoked")]
    Revoked,
    /// Expired.
    #[error("expired")]
    Expired,
    /// A good key, presented as another client's.
    #[error("other_client")]
    OtherClient,
    /// A token that does not hold.
    #[error(transparent)]
    Token(TokenFault),
}

impl AuthError {
    /// The reason as metrics and the access log carry it: a closed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous(_) => "ambiguous",
            Self::Invalid { reason, .. } => reason.as_str(),
            Self::ClientSuspended { .. } => "client_suspended",
            Self::InsufficientScope => "insufficient_scope",
            Self::AddressDenied => "address_denied",
            Self::TooManyFailures { .. } => "too_many_failures",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::Unavailable => "unavailable",
        }
    }

    /// A credential that belongs to nobody we know.
    #[must_use]
    pub fn invalid(reason: InvalidReason) -> Self {
        Self::Invalid { reason, client: None, key: None }
    }
}

impl InvalidReason {
    /// As metrics and the access log carry it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongKind => "wrong_kind",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::OtherClient => "other_client",
            Self::Token(fault) => fault.as_str(),
        }
    }
}
