//! From a row to a principal: who it is, and what the upstream will be told.
//!
//! Identity headers are made here, once for each load, and only cloned for a request.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::jwt::Verified;
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use crate::model::access::Scopes;
use crate::model::client::Client;
use crate::model::clock::Monotonic;
use crate::model::id::ApiKeyId;
use crate::model::issued::TokenRecord;
use crate::model::key::{ApiKey, CredentialRecord};
use crate::model::rate::RateLimit;
use crate::wire::percent;

/// The principal behind a key. `client` is the live one of `record.client`.
pub(super) fn principal(record: &CredentialRecord, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key = record.key.as_ref();
    let scopes = key.map_or_else(Scopes::default, |key| key.scopes.clone());
    Principal {
        kind: CredentialKind::Key,
        headers: headers(&record.client, key, None, &scopes),
        scopes,
        ..of_key(key, client, now)
    }
}

/// The principal behind a token of our own: its key's, with fewer scopes and an id.
pub(super) fn issued_principal(record: &TokenRecord, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key = record.origin.key();
    let scopes = record.scopes_now();
    Principal {
        kind: CredentialKind::Jwt,
        token_id: record.id,
        headers: headers(&record.client, key, Some(&record.subject), &scopes),
        scopes,
        ..of_key(key, client, now)
    }
}

/// The principal behind a stranger's token: its client, with what the token says of itself.
pub(super) fn token_principal(row: &Client, client: Arc<LiveClient>, token: &Verified) -> Principal {
    let facts = &token.facts;
    Principal {
        kind: CredentialKind::Jwt,
        scopes: facts.scopes.clone(),
        headers: headers(row, None, facts.subject.as_deref(), &facts.scopes),
        ..Principal::nobody(client)
    }
}

/// What follows from a key alone, whatever was presented for it. A client's legacy hash has no row
/// of its own: usage counts under the nil key.
fn of_key(key: Option<&ApiKey>, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key_limiter = key.and_then(|key| {
        let limit = RateLimit::new(key.rate?, key.burst);
        Some(client.key_limiter(key.id, limit, now))
    });
    Principal {
        api_key_id: key.map_or(ApiKeyId::NIL, |key| key.id),
        key_limiter,
        allowed_addresses: key
            .map(|key| &key.allowed_addresses)
            .filter(|ranges| !ranges.is_empty())
            .cloned()
            .map(Box::new),
        ..Principal::nobody(client)
    }
}

/// What people call a key; its row's id where it came without a public one.
fn public_id(key: &ApiKey) -> String {
    key.key_id.as_deref().map_or_else(|| key.id.to_string(), percent::encoded)
}

/// All values lie in one piece of memory, and a copy of one for a request allocates nothing.
fn headers(client: &Client, key: Option<&ApiKey>, subject: Option<&str>, scopes: &Scopes) -> IdentityHeaders {
    let client_id = Some(client.id.to_string());
    let client_name = Some(percent::encoded(&client.name));
    let scopes = (!scopes.is_empty()).then(|| scopes.to_string());
    let texts = [client_id, client_name, key.map(public_id), subject.map(percent::encoded), scopes];
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
