//! An API key's record: everything about it but the key.

use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::Serialize;

use super::access::Scopes;
use super::addresses::AddressRanges;
use super::client::Client;
use super::id::{ApiKeyId, ClientId};
use super::rate::Rate;

/// HMAC-SHA-256 of a raw key under a pepper. Only this reaches a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// 64 lower-case hex digits: the form of `api_key_hash`.
    #[must_use]
    pub fn to_hex(self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads the form of `api_key_hash`.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[key hash]")
    }
}

/// How a key's hash was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HashKind {
    /// HMAC-SHA-256 under a pepper.
    #[default]
    Hmac,
    /// Plain SHA-256, imported from elsewhere; hashed again at the key's first use.
    Sha256,
}

impl HashKind {
    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Sha256 => "sha256",
        }
    }

    /// Reads the column; `None` when it holds something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "hmac" => Some(Self::Hmac),
            "sha256" => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// A row of `api_keys`, without its hash.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApiKey {
    /// `api_keys.id`
    pub id: ApiKeyId,
    /// Whose it is.
    pub client_id: ClientId,
    /// What people call it.
    pub name: String,
    /// The public part of its text, up to the secret; none for imported keys.
    pub key_id: Option<String>,
    /// How its hash was made.
    pub hash_kind: HashKind,
    /// Which pepper its hash was made with; none: not known yet.
    pub pepper_version: Option<i32>,
    /// What it may do.
    pub scopes: Scopes,
    /// A rate of its own, that narrows its client's.
    pub rate: Option<Rate>,
    /// A burst of its own.
    pub burst: Option<NonZeroU32>,
    /// From where it may be used; empty: from everywhere.
    pub allowed_addresses: AddressRanges,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, coarsely.
    pub last_used_at: Option<Timestamp>,
    /// The key that took its place.
    pub replaced_by: Option<ApiKeyId>,
}

/// Why a key that exists does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefect {
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl ApiKey {
    /// Why it does not work at `now`, if it does not.
    #[must_use]
    pub fn defect(&self, now: Timestamp) -> Option<KeyDefect> {
        self.validity().defect(now)
    }

    /// Whether its row is as it was when `read` was read, but for what moves by itself: when it was
    /// used, and how its hash is made.
    #[must_use]
    pub fn is_still(&self, read: &Self) -> bool {
        let at_rest = |key: &Self| Self {
            hash_kind: HashKind::default(),
            pepper_version: None,
            last_used_at: None,
            ..key.clone()
        };
        at_rest(self) == at_rest(read)
    }

    /// The times that decide whether it works.
    #[must_use]
    pub fn validity(&self) -> KeyValidity {
        KeyValidity { revoked_at: self.revoked_at, expires_at: self.expires_at }
    }
}

/// The times that decide whether a key works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValidity {
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
}

impl KeyValidity {
    /// Whether it has no end: it works whatever the time is.
    #[must_use]
    pub fn is_unlimited(self) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none()
    }

    /// Why the key does not work at `now`, if it does not. A revocation is a fact, not a date: a
    /// database whose clock is ahead, or a wall clock that steps back, must not undo it. What is
    /// to end later has `expires_at`.
    #[must_use]
    pub fn defect(self, now: Timestamp) -> Option<KeyDefect> {
        if self.revoked_at.is_some() {
            return Some(KeyDefect::Revoked);
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Some(KeyDefect::Expired);
        }
        None
    }
}

/// What is needed to store a key.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Whose it is.
    pub client_id: ClientId,
    /// What people call it.
    pub name: String,
    /// The public part of its text.
    pub key_id: Option<String>,
    /// Its hash.
    pub hash: KeyHash,
    /// The pepper's version.
    pub pepper_version: Option<i32>,
    /// What it may do.
    pub scopes: Scopes,
    /// A rate of its own.
    pub rate: Option<Rate>,
    /// A burst of its own.
    pub burst: Option<NonZeroU32>,
    /// From where it may be used; empty: from everywhere.
    pub allowed_addresses: AddressRanges,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
}

/// A change of what stands beside a key's text: each `Some` replaces, an inner `None` clears.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// A new name.
    pub name: Option<String>,
    /// Other scopes, all of them.
    pub scopes: Option<Scopes>,
    /// A rate of its own, or none.
    pub rate: Option<Option<Rate>>,
    /// A burst of its own, or its rate's default.
    pub burst: Option<Option<NonZeroU32>>,
    /// From where it may be used; empty: from everywhere.
    pub allowed_addresses: Option<AddressRanges>,
    /// When it stops working, or never.
    pub expires_at: Option<Option<Timestamp>>,
    /// Only if the row is still as this one was read.
    pub only_if: Option<Box<ApiKey>>,
}

/// A key that was made elsewhere.
#[derive(Clone, Debug)]
pub struct ImportedKey {
    /// Whose it is.
    pub client_id: ClientId,
    /// What people call it.
    pub name: String,
    /// The public part of its text; only of keys of our own shape.
    pub key_id: Option<String>,
    /// Its hash.
    pub hash: KeyHash,
    /// How the hash was made.
    pub hash_kind: HashKind,
    /// The pepper's version, where it is known.
    pub pepper_version: Option<i32>,
    /// What it may do.
    pub scopes: Scopes,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was made; none: now.
    pub created_at: Option<Timestamp>,
}

/// A change of keys: what is new of the successor, and how long the old one goes on.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The public part of the successor's text.
    pub key_id: Option<String>,
    /// The successor's hash.
    pub hash: KeyHash,
    /// Its pepper's version.
    pub pepper_version: Option<i32>,
    /// When the successor stops working. None: when the old one would have.
    pub expires_at: Option<Timestamp>,
    /// The time of the rotation.
    pub at: Timestamp,
    /// The old key works until then, and not longer than it would have. Not after `at`: it is
    /// revoked at once.
    pub old_until: Timestamp,
}

/// Why a key was not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRotated {
    /// There is no such key.
    Unknown,
    /// It does not work any more, so that there is nothing to carry on.
    Defect(KeyDefect),
    /// It has a successor already.
    Replaced(ApiKeyId),
}

impl ApiKey {
    /// Why it cannot be rotated at `now`, if it cannot.
    #[must_use]
    pub fn rotation_refusal(&self, now: Timestamp) -> Option<NotRotated> {
        match (self.defect(now), self.replaced_by) {
            (_, Some(successor)) => Some(NotRotated::Replaced(successor)),
            (Some(defect), None) => Some(NotRotated::Defect(defect)),
            (None, None) => None,
        }
    }
}

/// What a look-up by hash finds: the key, or a client's own legacy hash, with the client.
#[derive(Clone, Debug)]
pub struct CredentialRecord {
    /// The client.
    pub client: Client,
    /// The key; none when `clients.api_key_hash` matched.
    pub key: Option<ApiKey>,
    /// Which of the hashes asked for it was.
    pub matched: KeyHash,
    /// Which pepper its row names.
    pub pepper_version: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_its_expiry_and_when_it_is_revoked() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        for (revoked_at, expires_at, defect) in [
            (None, None, None),
            (None, at(1_001), None),
            (None, at(1_000), Some(KeyDefect::Expired)),
            (at(999), None, Some(KeyDefect::Revoked)),
            (at(1_500), None, Some(KeyDefect::Revoked)),
            (at(999), at(1), Some(KeyDefect::Revoked)),
        ] {
            let validity = KeyValidity { revoked_at, expires_at };
            assert_eq!(validity.defect(Timestamp::from_second(1_000).unwrap()), defect, "{validity:?}");
        }
    }

    #[test]
    fn hashes_travel_as_hex_and_do_not_print() {
        let hash = KeyHash(std::array::from_fn(|index| u8::try_from(index * 7).unwrap()));
        assert_eq!(KeyHash::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(KeyHash::from_hex(&hash.to_hex()[1..]), None);
        assert_eq!(KeyHash::from_hex(&"g".repeat(64)), None);
        assert_eq!(format!("{hash:?}"), "[key hash]");
    }
}
