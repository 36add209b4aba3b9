//! From a store's record to a cached identity.

use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use super::error::{AuthError, InvalidReason};
use crate::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use crate::model::access::Scopes;
use crate::model::clock::{Clock, Monotonic};
use crate::model::id::{ApiKeyId, TokenId};
use crate::model::key::{ApiKey, CredentialRecord};

/// An identity as it was loaded. Who somebody is, never whether they may: expiry, revocation and
/// status are judged at every use.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) principal: Arc<Principal>,
    pub(super) loaded_at: Monotonic,
    /// Its client's generation when it was loaded; any other voids it.
    generation: u64,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl Identity {
    pub(super) fn new(record: &CredentialRecord, client: Arc<LiveClient>, loaded_at: Monotonic) -> Self {
        let key = record.key.as_ref();
        let scopes = key.map(|key| key.scopes.clone()).unwrap_or_default();
        Self {
            loaded_at,
            generation: client.generation(),
            expires_at: key.and_then(|key| key.expires_at),
            revoked_at: key.and_then(|key| key.revoked_at),
            principal: Arc::new(Principal {
                headers: identity_headers(record, &scopes),
                client,
                kind: CredentialKind::Key,
                api_key_id: key.map_or(ApiKeyId::NIL, |key| key.id),
                token_id: TokenId::NIL,
                scopes,
            }),
        }
    }

    /// Whether no change was heard of since it was loaded.
    pub(super) fn is_current(&self) -> bool {
        self.generation == self.principal.client.generation()
    }

    /// Whether it opens anything now.
    pub(super) fn judge(&self, clock: &dyn Clock) -> Result<(), AuthError> {
        let (client, key) = (self.principal.client.id, self.principal.api_key_id);
        let invalid = |reason| Err(AuthError::Invalid { reason, client, key });
        // The wall clock is read only where a key has an end.
        if self.revoked_at.is_some_and(|at| at <= clock.wall()) {
            return invalid(InvalidReason::Revoked);
        }
        if self.expires_at.is_some_and(|at| at <= clock.wall()) {
            return invalid(InvalidReason::Expired);
        }
        if self.principal.client.is_suspended() {
            return Err(AuthError::ClientSuspended { client, key });
        }
        Ok(())
    }
}

fn identity_headers(record: &CredentialRecord, scopes: &Scopes) -> IdentityHeaders {
    IdentityHeaders {
        client_id: HeaderValue::try_from(record.client.id.to_string()).ok(),
        client_name: HeaderValue::try_from(visible(&record.client.name)).ok(),
        key_id: record.key.as_ref().and_then(|key| HeaderValue::try_from(public_id(key)).ok()),
        subject: None,
        // Absent and not empty: an upstream must not read "no scopes" as "some header is there".
        scopes: if scopes.is_empty() { None } else { HeaderValue::try_from(scopes.to_string()).ok() },
    }
}

fn public_id(key: &ApiKey) -> String {
    key.key_id.clone().unwrap_or_else(|| key.id.to_string())
}

/// Percent-encodes everything outside visible ASCII, and `%` itself, so that it can be undone.
fn visible(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_as_visible_ascii() {
        for (name, header) in
            [("acme", "acme"), ("Zoë & Söhne", "Zo%C3%AB%20&%20S%C3%B6hne"), ("100%", "100%25"), ("a\r\nb", "a%0D%0Ab")]
        {
            assert_eq!(visible(name), header);
        }
    }
}
