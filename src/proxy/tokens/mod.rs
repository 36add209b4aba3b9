//! The endpoints of the token issuer: `/.octroi/token`, `revoke`, `introspect`, `jwks.json`, and its
//! metadata.
//!
//! | file | owns |
//! |---|---|
//! | `form` | from a body to parameters, each at most once |
//! | `exchange` | `token` (RFC 6749) |
//! | `existing` | `revoke` (RFC 7009) and `introspect` (RFC 7662) |
//! | `published` | `jwks.json` (RFC 7517) and the metadata document (RFC 8414) |
//!
//! They are requests like others: keys are authenticated in the same way, with the same failure
//! budget, and the client's limit is spent. They reach no upstream, so nothing is metered.
//!
//! Refuses to know how tokens are made ([`crate::issuer`]) and checked ([`crate::auth`]).

mod exchange;
mod existing;
mod form;
mod published;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::request::Parts as Head;
use http::{HeaderValue, Method, Response};
use serde_json::Value;

pub(super) use self::form::FormFault;
use self::form::{ClientSecret, Form};
use super::context::RequestContext;
use super::rejection::Rejection;
use super::shared::Gateway;
use crate::auth::{Attempt, AuthError, InvalidReason};
use crate::clients::Principal;
use crate::issuer::TokenIssuer;
use crate::limit::{self, Cost, When};
use crate::server::RequestBody;

/// An endpoint of the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `POST /.octroi/token`
    Token,
    /// `POST /.octroi/revoke`
    Revoke,
    /// `POST /.octroi/introspect`
    Introspect,
    /// `GET /.octroi/jwks.json`
    KeySet,
    /// `GET /.well-known/oauth-authorization-server`
    Metadata,
}

/// Where the metadata is (RFC 8414 §3).
pub(super) const METADATA: &str = "/.well-known/oauth-authorization-server";

impl Endpoint {
    /// The endpoint at this path below `/.octroi/`.
    pub(super) fn below(path: &str) -> Option<Self> {
        match path {
            "token" => Some(Self::Token),
            "revoke" => Some(Self::Revoke),
            "introspect" => Some(Self::Introspect),
            "jwks.json" => Some(Self::KeySet),
            _ => None,
        }
    }

    fn methods(self) -> HeaderValue {
        HeaderValue::from_static(if self.reads() { "GET, HEAD" } else { "POST" })
    }

    fn reads(self) -> bool {
        matches!(self, Self::KeySet | Self::Metadata)
    }
}

/// What an endpoint works with.
struct Visit<'a> {
    gateway: &'a Gateway,
    issuer: &'a Arc<TokenIssuer>,
    head: &'a Head,
    context: &'a mut RequestContext,
}

/// Answers at an endpoint.
pub(super) async fn answer(
    endpoint: Endpoint,
    gateway: &Gateway,
    head: &Head,
    body: RequestBody,
    context: &mut RequestContext,
) -> Result<Response<Bytes>, Rejection> {
    context.speaks_oauth();
    let served =
        if endpoint.reads() { matches!(head.method, Method::GET | Method::HEAD) } else { head.method == Method::POST };
    if !served {
        return Err(Rejection::Method(endpoint.methods()));
    }
    let issuer = gateway.issuer.as_ref().ok_or(Rejection::NoIssuer)?;
    let mut visit = Visit { gateway, issuer, head, context };
    match endpoint {
        Endpoint::KeySet => Ok(published::key_set(issuer)),
        Endpoint::Metadata => published::metadata(&visit),
        Endpoint::Token => {
            let form = Form::read(head, body).await?;
            visit.exchange(&form).await
        }
        Endpoint::Revoke => {
            let form = Form::read(head, body).await?;
            visit.revoke(&form).await
        }
        Endpoint::Introspect => {
            let form = Form::read(head, body).await?;
            visit.introspect(&form).await
        }
    }
}

impl Visit<'_> {
    /// Who presents a key: in a header, as a Basic password, or in the form. None: nobody does.
    async fn principal(&mut self, form: &Form) -> Result<Option<Arc<Principal>>, Rejection> {
        let secret = ClientSecret::find(self.head, form)?;
        let (authenticator, caller) = (&self.gateway.authenticator, self.context.caller());
        let now = self.gateway.clock.monotonic();
        let beside = secret.key();
        let found = authenticator.authenticate_key(&self.head.headers, beside, caller, now).await?;
        let Some(principal) = found else { return Ok(None) };
        self.context.identified(&principal);
        if secret.client_id().is_some_and(|named| !is_called(&principal, named)) {
            return Err(AuthError::invalid(InvalidReason::OtherClient).into());
        }
        Ok(Some(principal))
    }

    /// Who presents a key pays with its rates. Who comes with a token alone may be guessing: that is
    /// charged to the address in advance, as an unknown key is.
    async fn pay(&mut self, principal: Option<&Principal>) -> Result<Option<Attempt>, Rejection> {
        let Some(principal) = principal else {
            return Ok(Some(self.gateway.authenticator.charge_attempt(self.context.caller()).await?));
        };
        self.spend(principal).await?;
        Ok(None)
    }

    /// Spends from the rates of whoever asks; from no quota, since nothing is forwarded.
    async fn spend(&mut self, principal: &Principal) -> Result<(), Rejection> {
        limit::quotas_read(principal).await.map_err(Rejection::Quotas)?;
        let when = When { arrived: self.context.arrived(), now: self.gateway.clock.monotonic() };
        let charge = limit::charge(principal, Cost { rate: 1, units: 0 }, when).map_err(Rejection::Limit)?;
        self.context.charged(charge.standing());
        Ok(())
    }
}

/// Whether a client may be named so: by its id or name, or by its key's.
fn is_called(principal: &Principal, named: &str) -> bool {
    let headers = &principal.headers;
    let encoded = crate::wire::percent::encoded(named);
    [(&headers.client_id, named), (&headers.key_id, named), (&headers.client_name, encoded.as_str())]
        .iter()
        .any(|(known, named)| known.as_ref().is_some_and(|known| known.as_bytes() == named.as_bytes()))
        || principal.api_key_id.to_string() == named
}

/// An answer that nobody may keep (RFC 6749 §5.1).
fn private(body: &Value) -> Response<Bytes> {
    let mut response = json(body.to_string().into(), HeaderValue::from_static("no-store"));
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn json(body: Bytes, cache: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, cache);
    response
}
