//! From a row to a principal: who it is, and what the upstream will be told.
//!
//! Identity headers are made here, once for each load, and only cloned for a request.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::jwt::Verified;
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use crate::model::access::Scopes;
use crate::model::client::Client;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, TokenId};
use crate::model::key::{ApiKey, CredentialRecord};
use crate::model::rate::RateLimit;

/// The principal behind a key. `client` is the live one of `record.client`.
pub(super) fn principal(record: &CredentialRecord, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key = record.key.as_ref();
    let key_limiter = key.and_then(|key| {
        let limit = RateLimit::new(key.rate?, key.burst);
        Some(client.key_limiter(key.id, limit, now))
    });
    let scopes = key.map_or_else(Scopes::default, |key| key.scopes.clone());
    Principal {
        client,
        kind: CredentialKind::Key,
        // A client's legacy hash has no row of its own: usage counts under the nil key.
        api_key_id: key.map_or(ApiKeyId::NIL, |key| key.id),
        token_id: TokenId::NIL,
        key_limiter,
        headers: headers(&record.client, key.map(public_id).as_deref(), None, &scopes),
        scopes,
        allowed_addresses: key
            .map(|key| &key.allowed_addresses)
            .filter(|ranges| !ranges.is_empty())
            .cloned()
            .map(Box::new),
    }
}

/// The principal behind a token: its client, with what the token says of itself.
pub(super) fn token_principal(row: &Client, client: Arc<LiveClient>, token: &Verified) -> Principal {
    let facts = &token.facts;
    // Only tokens of our own have rows that usage can name.
    let id = facts.id.as_deref().filter(|_| token.own).and_then(|id| id.parse().ok());
    Principal {
        client,
        kind: CredentialKind::Jwt,
        api_key_id: ApiKeyId::NIL,
        token_id: id.unwrap_or(TokenId::NIL),
        key_limiter: None,
        scopes: facts.scopes.clone(),
        allowed_addresses: None,
        headers: headers(row, None, facts.subject.as_deref(), &facts.scopes),
    }
}

/// What people call a key; its row's id where it came without a public one.
fn public_id(key: &ApiKey) -> String {
    key.key_id.as_deref().map_or_else(|| key.id.to_string(), percent_encoded)
}

/// All values lie in one piece of memory, and a copy of one for a request allocates nothing.
fn headers(client: &Client, key: Option<&str>, subject: Option<&str>, scopes: &Scopes) -> IdentityHeaders {
    let client_id = Some(client.id.to_string());
    let client_name = Some(percent_encoded(&client.name));
    let scopes = (!scopes.is_empty()).then(|| scopes.to_string());
    let texts = [client_id, client_name, key.map(ToOwned::to_owned), subject.map(percent_encoded), scopes];
    let all =
        Bytes::from(texts.iter().flatten().map(String::as_str).collect::<String>().into_boxed_str().into_boxed_bytes());
    let mut taken = 0;
    let [client_id, client_name, key_id, subject, scopes] = texts.map(|text| {
        let begin = taken;
        taken += text.as_ref()?.len();
        value(all.slice(begin..taken))
    });
    IdentityHeaders { client_id, client_name, key_id, subject: subject.map(Box::new), scopes: scopes.map(Box::new) }
}

/// Every text that comes here is visible ASCII and spaces by now; what is not makes no header.
fn value(text: Bytes) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(text).ok()
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
