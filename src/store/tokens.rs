//! Tokens that we issue: `verification_tokens` for audit and revocation, `refresh_tokens` in
//! families.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Result, StoreError};
use crate::model::id::TokenId;
use crate::model::issued::{NewRefreshToken, NewToken, RefreshRecord, TokenRecord};
use crate::model::key::KeyHash;

/// Issued tokens.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Stores a verification token, and the refresh token that goes with it: both or none.
    async fn issue(&self, token: NewToken, refresh: Option<NewRefreshToken>) -> Result<()>;
    /// The verification token with this id, with its client and key. One query. None also where its
    /// key is gone or became another client's.
    async fn find(&self, id: TokenId) -> Result<Option<TokenRecord>>;
    /// Revokes a verification token; one revoked already keeps its time. Whether it was revoked
    /// by this call.
    async fn revoke(&self, id: TokenId, at: Timestamp) -> Result<bool>;
    /// The refresh token whose text has this SHA-256, with its client and key.
    async fn find_refresh(&self, hash: KeyHash) -> Result<Option<RefreshRecord>>;
    /// Exchanges a refresh token for its successor and a verification token: all or nothing, and
    /// once. The store's clock says when. False: it was used or revoked before, and nothing was stored.
    async fn rotate(&self, used: Uuid, successor: NewRefreshToken, token: NewToken) -> Result<bool>;
    /// Stores one more verification token of the family of a refresh token that was used. False: the
    /// family is revoked, and nothing was stored.
    async fn issue_beside(&self, used: Uuid, token: NewToken) -> Result<bool>;
    /// Revokes every token of a family, also one that is being made meanwhile. Returns how many
    /// refresh tokens were revoked by this call.
    async fn revoke_family(&self, family: Uuid, at: Timestamp) -> Result<u64>;
    /// Deletes rows of tokens that ended before this time, at most so many of each kind; returns
    /// how many.
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// `refresh_tokens.nonce`: 32 hex digits.
pub(super) fn nonce(text: &str) -> Result<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
    let digits = digits.ok_or_else(|| StoreError::corrupt("refresh_tokens", "nonce", "it is not 32 hex digits"))?;
    Ok(digits.to_be_bytes())
}

/// The column's form of a nonce.
pub(super) fn nonce_text(nonce: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(nonce))
}

/// Seconds since something by the store's clock; a clock that was set back counts as none.
pub(super) fn elapsed(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_travels_as_hex() {
        for bytes in [[0; 16], [0xFF; 16], std::array::from_fn(|index| u8::try_from(index).unwrap())] {
            assert_eq!(nonce(&nonce_text(bytes)).unwrap(), bytes);
        }
        for text in ["", "0", "+0000000000000000000000000000000", &"g".repeat(32), &"0".repeat(33)] {
            assert!(nonce(text).is_err(), "{text}");
        }
    }
}
