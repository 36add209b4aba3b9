//! Rows for unit tests.

use uuid::Uuid;

use super::access::Scopes;
use super::addresses::AddressRanges;
use super::client::{Allowance, Client, ClientStatus};
use super::id::{ApiKeyId, ClientId};
use super::key::{ApiKey, HashKind};

/// When all of them were made.
pub(crate) const MADE_AT: &str = "2026-11-22T12:00:00Z";

/// An active client without limits of its own.
pub(crate) fn client(number: u128) -> Client {
    let created_at = MADE_AT.parse().unwrap();
    Client {
        id: ClientId(Uuid::from_u128(number)),
        name: format!("client {number}"),
        status: ClientStatus::Active,
        rate: None,
        burst: None,
        plan_id: None,
        allowance: Allowance::default(),
        metadata: serde_json::json!({}),
        created_at,
        updated_at: created_at,
    }
}

/// A key of the client with the same number.
pub(crate) fn api_key(number: u128) -> ApiKey {
    ApiKey {
        id: ApiKeyId(Uuid::from_u128(number << 64)),
        client_id: ClientId(Uuid::from_u128(number)),
        name: "default".into(),
        key_id: Some(format!("octroi_live_{number:012}")),
        hash_kind: HashKind::Hmac,
        pepper_version: Some(2),
        scopes: Scopes::default(),
        rate: None,
        burst: None,
        allowed_addresses: AddressRanges::default(),
        created_at: MADE_AT.parse().unwrap(),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    }
}
