//! Identifiers: one type a kind, so that a key's id cannot be passed where a client's is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The nil id: "nobody", where a column may not be null.
            pub const NIL: Self = Self(Uuid::nil());

            /// Whether this is the nil id.
            #[must_use]
            pub fn is_nil(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(value: Uuid) -> Self {
                Self(value)
            }
        }
    };
}

uuid_id!(
    /// A client (the tenant): `clients.id`.
    ClientId
);
uuid_id!(
    /// A key's row: `api_keys.id`. The public part of its text is `api_keys.key_id`.
    ApiKeyId
);
uuid_id!(
    /// An issued token: `verification_tokens.jti`.
    TokenId
);
uuid_id!(
    /// A usage event: `usage_events.id`, a UUID v7 that we made.
    EventId
);

/// The id a request carries up and down the line (`X-Request-Id`): 1-64 of `[A-Za-z0-9._:-]`.
///
/// Kept inline: it is copied into the journal and two headers, and never grows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    length: u8,
    bytes: [u8; RequestId::MAX_LENGTH],
}

impl RequestId {
    /// The longest request id we accept from a trusted peer.
    pub const MAX_LENGTH: usize = 64;

    /// Reads a request id; `None` when it is empty, too long or has other characters.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
        if text.is_empty() || text.len() > Self::MAX_LENGTH || !text.iter().all(legal) {
            return None;
        }
        let mut bytes = [0; Self::MAX_LENGTH];
        bytes[..text.len()].copy_from_slice(text);
        let length = u8::try_from(text.len()).ok()?;
        Some(Self { length, bytes })
    }

    /// The id as text.
    ///
    /// # Panics
    /// Never: only ASCII passes [`RequestId::parse`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("only ASCII passes `parse`")
    }

    /// The id as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl From<EventId> for RequestId {
    /// A request id that we made *is* the event id, as text.
    fn from(event: EventId) -> Self {
        let mut bytes = [0; Self::MAX_LENGTH];
        event.0.hyphenated().encode_lower(&mut bytes);
        Self { length: 36, bytes }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl EventId {
    /// Whether it was made before this moment, to the millisecond.
    #[must_use]
    pub fn is_before(self, moment: jiff::Timestamp) -> bool {
        let milliseconds = u128::try_from(moment.as_millisecond()).unwrap_or(0);
        self.0.as_u128() >> 80 < milliseconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_of_strangers_are_bounded() {
        for (text, accepted) in [
            ("a", true),
            ("0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d", true),
            ("trace:1.2_x", true),
            ("trace;1", false),
            ("", false),
            ("two words", false),
            ("new\nline", false),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(RequestId::parse(text.as_bytes()).is_some(), accepted, "{text:?}");
        }
    }

    #[test]
    fn a_made_request_id_is_the_event_id() {
        let event = EventId(Uuid::from_u128(0x0199_f7a2_7d4c_7bce_9d6b_1f6e_2a3b_4c5d));
        assert_eq!(RequestId::from(event).as_str(), event.to_string());
    }
}
