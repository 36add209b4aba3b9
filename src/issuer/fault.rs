//! Why nothing was issued: the private cause. What the caller is told is decided in `proxy`.

use thiserror::Error;

use crate::model::key::KeyDefect;

/// Why a grant was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GrantFault {
    /// More was asked than the key may do.
    #[error("a scope that the key does not have")]
    Scope,
    /// More scopes than a token carries.
    #[error("more scopes than a token carries")]
    TooManyScopes,
    /// A refresh token was asked for, and no secret is configured to make its successors with.
    #[error("a refresh token was asked for, and JWT_SECRET is not set")]
    NoRefreshTokens,
    /// A refresh token was asked for by a client's own legacy hash, which cannot be revoked.
    #[error("a refresh token was asked for with a legacy hash, which is no key")]
    LegacyHash,
    /// An audience that is none, or that the family was not granted.
    #[error("an audience that is not granted")]
    Audience,
    /// The refresh token does not hold.
    #[error("the refresh token: {0}")]
    Refresh(#[from] RefreshFault),
    /// The store did not answer.
    #[error("the store of tokens did not answer")]
    Unavailable,
    /// The key that signs does not.
    #[error("the signing key cannot sign")]
    Signing,
}

/// Why a refresh token, or a verification token, does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RefreshFault {
    /// There is no such token.
    #[error("unknown")]
    Unknown,
    /// It, or the key it came from, has ended.
    #[error("expired")]
    Expired,
    /// It, its family, or the key it came from was revoked.
    #[error("revoked")]
    Revoked,
    /// It was used before, and too long ago for a lost answer: whoever has it may have stolen it.
    #[error("used again")]
    Reused,
    /// Its client is suspended.
    #[error("the client is suspended")]
    Suspended,
    /// It is another client's than the key that came with it.
    #[error("another client's")]
    OtherClient,
}

impl RefreshFault {
    /// Of a key's defect.
    pub(super) fn of(defect: KeyDefect) -> Self {
        match defect {
            KeyDefect::Revoked => Self::Revoked,
            KeyDefect::Expired => Self::Expired,
        }
    }
}
