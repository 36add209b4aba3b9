//! From a row to a principal: who it is, and what the upstream will be told.
//!
//! Identity headers are made here, once for each load, and only cloned for a request.

use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;

use super::jwt::Verified;
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::Client;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, TokenId};
use crate::model::key::CredentialRecord;
use crate::model::rate::RateLimit;

/// The principal behind a key. `client` is the live one of `record.client`.
pub(super) fn principal(record: &CredentialRecord, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key = record.key.as_ref();
    let key_limiter = key.and_then(|key| {
        let limit = RateLimit::new(key.rate?, key.burst);
        Some(client.key_limiter(key.id, limit, now))
    });
    Principal {
        client,
        kind: CredentialKind::Key,
        // A client's legacy hash has no row of its own: usage counts under the nil key.
        api_key_id: key.map_or(ApiKeyId::NIL, |key| key.id),
        token_id: TokenId::NIL,
        key_limiter,
        scopes: key.map_or_else(Scopes::default, |key| key.scopes.clone()),
        allowed_addresses: key.map_or_else(AddressRanges::default, |key| key.allowed_addresses.clone()),
        headers: headers(record),
    }
}

/// The principal behind a token: its client, with what the token says of itself.
pub(super) fn token_principal(row: &Client, client: Arc<LiveClient>, token: &Verified) -> Principal {
    let facts = &token.facts;
    // Only tokens of our own have rows that usage can name.
    let id = facts.id.as_deref().filter(|_| token.own).and_then(|id| id.parse().ok());
    let scopes = (!facts.scopes.is_empty()).then(|| facts.scopes.to_string());
    Principal {
        client,
        kind: CredentialKind::Jwt,
        api_key_id: ApiKeyId::NIL,
        token_id: id.unwrap_or(TokenId::NIL),
        key_limiter: None,
        scopes: facts.scopes.clone(),
        allowed_addresses: AddressRanges::default(),
        headers: IdentityHeaders {
            client_id: value(&row.id.to_string()),
            client_name: value(&percent_encoded(&row.name)),
            key_id: None,
            subject: facts.subject.as_deref().and_then(|subject| value(&percent_encoded(subject))),
            scopes: scopes.and_then(|scopes| value(&scopes)),
        },
    }
}

fn headers(record: &CredentialRecord) -> IdentityHeaders {
    let key = record.key.as_ref();
    let scopes = key.filter(|key| !key.scopes.is_empty()).map(|key| key.scopes.to_string());
    IdentityHeaders {
        client_id: value(&record.client.id.to_string()),
        client_name: value(&percent_encoded(&record.client.name)),
        key_id: key.and_then(|key| match &key.key_id {
            Some(key_id) => value(&percent_encoded(key_id)),
            None => value(&key.id.to_string()),
        }),
        subject: None,
        scopes: scopes.and_then(|scopes| value(&scopes)),
    }
}

/// Every text that comes here is visible ASCII and spaces by now; what is not makes no header.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// Percent-encoded outside visible ASCII. The percent sign is encoded too, so that decoding
/// always gives the name back.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_as_visible_ascii() {
        for (name, encoded) in [
            ("Acme", "Acme"),
            ("Acme GmbH & Co", "Acme%20GmbH%20&%20Co"),
            ("Müller", "M%C3%BCller"),
            ("100%", "100%25"),
            ("a\r\nX-Evil: 1", "a%0D%0AX-Evil:%201"),
        ] {
            assert_eq!(percent_encoded(name), encoded);
        }
    }
}
