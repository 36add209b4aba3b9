//! Who is calling: the answer of authentication.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::LiveClient;
use super::limiter::Limiter;
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::id::{ApiKeyId, TokenId};

/// Which kind of credential was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// None: an open route.
    None,
    /// An API key.
    Key,
    /// A JWT.
    Jwt,
}

/// Who is calling and what they may do. Cached; identity only, never a verdict.
#[derive(Debug)]
pub struct Principal {
    /// The client, with its limits.
    pub client: Arc<LiveClient>,
    /// How it was recognised.
    pub kind: CredentialKind,
    /// The key's row; nil when none.
    pub api_key_id: ApiKeyId,
    /// The token; nil when none.
    pub token_id: TokenId,
    /// The key's own limit, which narrows its client's.
    pub key_limiter: Option<Arc<Limiter>>,
    /// What it may do.
    pub scopes: Scopes,
    /// From where it may be used; none: from everywhere, like most.
    pub allowed_addresses: Option<Box<AddressRanges>>,
    /// What the upstream is told, ready to be inserted.
    pub headers: IdentityHeaders,
}

impl Principal {
    /// Whether it may be used from this address.
    #[must_use]
    pub fn may_call_from(&self, address: IpAddr) -> bool {
        self.allowed_addresses.as_ref().is_none_or(|ranges| ranges.admit(address))
    }

    /// The principal of a route that asks for nothing: `nobody` is the nil client.
    #[must_use]
    pub fn nobody(nobody: Arc<LiveClient>) -> Self {
        Self {
            client: nobody,
            kind: CredentialKind::None,
            api_key_id: ApiKeyId::NIL,
            token_id: TokenId::NIL,
            key_limiter: None,
            scopes: Scopes::default(),
            allowed_addresses: None,
            headers: IdentityHeaders::default(),
        }
    }
}

/// The identity headers of CONTRACT "To the upstream", made once when the principal is. There are as
/// many of these as known keys: what most of them lack takes no room.
#[derive(Clone, Debug, Default)]
pub struct IdentityHeaders {
    /// `X-Octroi-Client-Id`
    pub client_id: Option<HeaderValue>,
    /// `X-Octroi-Client-Name`, percent-encoded outside visible ASCII.
    pub client_name: Option<HeaderValue>,
    /// `X-Octroi-Key-Id`
    pub key_id: Option<HeaderValue>,
    /// `X-Octroi-Subject`
    pub subject: Option<Box<HeaderValue>>,
    /// `X-Octroi-Scopes`; absent when there are none.
    pub scopes: Option<Box<HeaderValue>>,
}
