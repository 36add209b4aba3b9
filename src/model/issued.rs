//! Tokens that we issue: what their rows say.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::access::Scopes;
use super::client::Client;
use super::id::{ApiKeyId, ClientId, TokenId};
use super::key::{ApiKey, KeyDefect, KeyHash, KeyValidity};

/// What a token or a family of refresh tokens is granted: by which key, to do what, for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Whose it is.
    pub client_id: ClientId,
    /// The key it came from; none: the client's own legacy hash.
    pub api_key_id: Option<ApiKeyId>,
    /// What it may do, and never more than its key may.
    pub scopes: Scopes,
    /// Whom it is for, with spaces between; none: the gateway's own audiences.
    pub audience: Option<String>,
}

/// What is needed to store a verification token.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// `jti`
    pub id: TokenId,
    /// What it is granted.
    pub grant: Grant,
    /// The family of the refresh token that it was issued with.
    pub family_id: Option<Uuid>,
    /// `sub`
    pub subject: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A row of `verification_tokens`, with what decides whether it holds.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// `jti`
    pub id: TokenId,
    /// `sub`
    pub subject: String,
    /// What it was granted.
    pub scopes: Scopes,
    /// Whom it is for.
    pub audience: Option<String>,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// Whose it is.
    pub client: Client,
    /// What it came from, and stands and falls with.
    pub origin: TokenOrigin,
}

/// What a token came from.
#[derive(Clone, Debug)]
pub enum TokenOrigin {
    /// This key.
    Key(Box<ApiKey>),
    /// The client's own legacy hash: whether it still has one.
    LegacyHash {
        /// Whether there is one still.
        present: bool,
    },
}

impl TokenOrigin {
    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<&ApiKey> {
        match self {
            Self::Key(key) => Some(key),
            Self::LegacyHash { .. } => None,
        }
    }

    /// Why nothing that came from it holds at `now`.
    #[must_use]
    pub fn defect(&self, now: Timestamp) -> Option<KeyDefect> {
        match self {
            Self::Key(key) => key.defect(now),
            Self::LegacyHash { present } => (!present).then_some(KeyDefect::Revoked),
        }
    }
}

impl TokenRecord {
    /// The times that decide whether it holds: its own and its key's.
    #[must_use]
    pub fn validity(&self) -> KeyValidity {
        let of_origin = match &self.origin {
            TokenOrigin::Key(key) => key.validity(),
            TokenOrigin::LegacyHash { present: true } => KeyValidity::default(),
            TokenOrigin::LegacyHash { present: false } => {
                KeyValidity { revoked_at: Some(self.issued_at), expires_at: None }
            }
        };
        let ends = of_origin.expires_at.map_or(self.expires_at, |ends| ends.min(self.expires_at));
        KeyValidity { revoked_at: self.revoked_at.or(of_origin.revoked_at), expires_at: Some(ends) }
    }

    /// What it may do now: what it was granted, as far as its key may still.
    #[must_use]
    pub fn scopes_now(&self) -> Scopes {
        match &self.origin {
            TokenOrigin::Key(key) => self.scopes.within(&key.scopes),
            TokenOrigin::LegacyHash { .. } => Scopes::default(),
        }
    }
}

/// What is needed to store a refresh token. Never the token itself.
#[derive(Clone, Debug)]
pub struct NewRefreshToken {
    /// `refresh_tokens.id`
    pub id: Uuid,
    /// All that descend from one grant.
    pub family_id: Uuid,
    /// The one it takes the place of; none: the first of its family.
    pub parent_id: Option<Uuid>,
    /// SHA-256 of its text.
    pub hash: KeyHash,
    /// With its text it makes its successor.
    pub nonce: [u8; 16],
    /// What the family is granted.
    pub grant: Grant,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends, unless it is used before.
    pub expires_at: Timestamp,
}

/// A row of `refresh_tokens`, with what decides whether it holds.
#[derive(Clone, Debug)]
pub struct RefreshRecord {
    /// `refresh_tokens.id`
    pub id: Uuid,
    /// All that descend from one grant.
    pub family_id: Uuid,
    /// With its text it makes its successor.
    pub nonce: [u8; 16],
    /// What the family is granted.
    pub scopes: Scopes,
    /// Whom its tokens are for.
    pub audience: Option<String>,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends, unless it is used before.
    pub expires_at: Timestamp,
    /// How long ago it was exchanged for its successor, by the store's clock: the processes' may
    /// differ by more than a grace.
    pub used_for: Option<Duration>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// Whose it is.
    pub client: Client,
    /// The key that its family came from.
    pub key: ApiKey,
}

impl RefreshRecord {
    /// What its tokens are granted.
    #[must_use]
    pub fn grant(&self) -> Grant {
        Grant {
            client_id: self.client.id,
            api_key_id: Some(self.key.id),
            scopes: self.scopes.clone(),
            audience: self.audience.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{api_key, client};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn record(origin: TokenOrigin, revoked_at: Option<Timestamp>) -> TokenRecord {
        TokenRecord {
            id: TokenId::NIL,
            subject: "s".into(),
            scopes: Scopes::new(["a".into(), "b:read".into()]).unwrap(),
            audience: None,
            issued_at: at(1_000),
            expires_at: at(1_300),
            revoked_at,
            client: client(1),
            origin,
        }
    }

    fn of_key(change: impl FnOnce(&mut ApiKey)) -> TokenOrigin {
        let mut key = api_key(1);
        key.scopes = Scopes::new(["a".into(), "b:*".into()]).unwrap();
        change(&mut key);
        TokenOrigin::Key(Box::new(key))
    }

    #[test]
    fn a_token_ends_with_its_key_at_the_latest() {
        for (origin, revoked_at, now, defect) in [
            (of_key(|_| {}), None, 1_299, None),
            (of_key(|_| {}), None, 1_300, Some(KeyDefect::Expired)),
            (of_key(|_| {}), Some(at(1_001)), 1_100, Some(KeyDefect::Revoked)),
            (of_key(|key| key.expires_at = Some(at(1_100))), None, 1_100, Some(KeyDefect::Expired)),
            (of_key(|key| key.expires_at = Some(at(9_000))), None, 1_300, Some(KeyDefect::Expired)),
            (of_key(|key| key.revoked_at = Some(at(1_050))), None, 1_060, Some(KeyDefect::Revoked)),
            (TokenOrigin::LegacyHash { present: true }, None, 1_299, None),
            (TokenOrigin::LegacyHash { present: false }, None, 1_001, Some(KeyDefect::Revoked)),
        ] {
            let record = record(origin, revoked_at);
            assert_eq!(record.validity().defect(at(now)), defect, "{:?} at {now}", record.origin);
        }
    }

    #[test]
    fn a_token_may_never_do_more_than_its_key_may_now() {
        let scopes = |origin| record(origin, None).scopes_now().to_string();
        assert_eq!(scopes(of_key(|_| {})), "a b:read");
        assert_eq!(scopes(of_key(|key| key.scopes = Scopes::new(["b:*".into()]).unwrap())), "b:read");
        assert_eq!(scopes(of_key(|key| key.scopes = Scopes::default())), "");
        assert_eq!(scopes(TokenOrigin::LegacyHash { present: true }), "");
    }
}
