//! From a row to a principal: who it is, and what the upstream will be told.
//!
//! Identity headers are made here, once for each load, and only cloned for a request.

use std::sync::Arc;

use http::HeaderValue;

use super::jwt::Verified;
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::Client;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, TokenId};
use crate::model::issued::TokenRecord;
use crate::model::key::{ApiKey, CredentialRecord};
use crate::model::rate::RateLimit;
use crate::wire::percent;

/// The principal behind a key. `client` is the live one of `record.client`.
pub(super) fn principal(record: &CredentialRecord, client: Arc<LiveClient>, now: Monotonic) -> Principal {
    let key = record.key.as_ref();
    Principal {
        kind: CredentialKind::Key,
        token_id: TokenId::NIL,
        scopes: key.map_or_else(Scopes::default, |key| key.scopes.clone()),
        headers: headers(&record.client, key, None, key.map(|key| &key.scopes)),
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
        headers: headers(&record.client, key, Some(&record.subject), Some(&scopes)),
        scopes,
        ..of_key(key, client, now)
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
        allowed_addresses: key.map_or_else(AddressRanges::default, |key| key.allowed_addresses.clone()),
        ..Principal::nobody(client)
    }
}

/// The principal behind a stranger's token: its client, with what the token says of itself.
pub(super) fn token_principal(row: &Client, client: Arc<LiveClient>, token: &Verified) -> Principal {
    let facts = &token.facts;
    Principal {
        kind: CredentialKind::Jwt,
        scopes: facts.scopes.clone(),
        headers: headers(row, None, facts.subject.as_deref(), Some(&facts.scopes)),
        ..Principal::nobody(client)
    }
}

fn headers(client: &Client, key: Option<&ApiKey>, subject: Option<&str>, scopes: Option<&Scopes>) -> IdentityHeaders {
    let scopes = scopes.filter(|scopes| !scopes.is_empty()).map(Scopes::to_string);
    IdentityHeaders {
        client_id: value(&client.id.to_string()),
        client_name: value(&percent::encoded(&client.name)),
        key_id: key.and_then(|key| match &key.key_id {
            Some(key_id) => value(&percent::encoded(key_id)),
            None => value(&key.id.to_string()),
        }),
        subject: subject.and_then(|subject| value(&percent::encoded(subject))),
        scopes: scopes.and_then(|scopes| value(&scopes)),
    }
}

/// Every text that comes here is visible ASCII and spaces by now; what is not makes no header.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}
