//! `revoke` (RFC 7009) and `introspect` (RFC 7662): what became of a token, and what should.

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response};
use serde_json::{Value, json};

use super::super::rejection::Rejection;
use super::form::Form;
use super::{Visit, private};
use crate::auth::AuthError;
use crate::clients::Principal;
use crate::issuer::PresentedRefresh;
use crate::model::id::ClientId;
use crate::model::issued::TokenRecord;
use crate::model::secret::SecretText;

/// A token that we issued.
enum Existing {
    Verification(Box<TokenRecord>),
    Refresh(Box<PresentedRefresh>),
}

impl Existing {
    fn client(&self) -> ClientId {
        match self {
            Self::Verification(record) => record.client.id,
            Self::Refresh(presented) => presented.principal.client.id,
        }
    }
}

impl Visit<'_> {
    /// Whoever holds a token may end it; with a key, only the client's own. What is unknown is as
    /// good as revoked, so the answer is the same.
    pub(super) async fn revoke(&mut self, form: &Form) -> Result<Response<Bytes>, Rejection> {
        let text = SecretText::new(form.required("token")?.to_owned());
        let principal = self.principal(form).await?;
        let attempt = self.pay(principal.as_deref()).await?;
        let existing = self.find(&text).await?;
        let by = principal.map(|principal| principal.client.id);
        let ended = match existing.filter(|existing| by.is_none_or(|client| client == existing.client())) {
            Some(Existing::Verification(record)) => self.issuer.revoke(record.id).await?,
            Some(Existing::Refresh(presented)) => self.issuer.revoke_refresh(&presented).await?,
            None => false,
        };
        // One token, over and over, is as much work as guesses.
        if let Some(attempt) = attempt.filter(|_| ended) {
            attempt.was_good();
        }
        let mut response = Response::new(Bytes::new());
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// A client asks about its own tokens; a service that verifies everybody's has a key with the
    /// scope [`INTROSPECT`].
    pub(super) async fn introspect(&mut self, form: &Form) -> Result<Response<Bytes>, Rejection> {
        let text = SecretText::new(form.required("token")?.to_owned());
        let principal = self.principal(form).await?.ok_or(AuthError::Missing)?;
        self.spend(&principal).await?;
        let existing = self.find(&text).await?;
        let said = existing.filter(|existing| may_ask(&principal, existing)).and_then(|existing| self.state(&existing));
        Ok(private(&said.unwrap_or_else(|| json!({ "active": false }))))
    }

    async fn find(&self, text: &SecretText) -> Result<Option<Existing>, Rejection> {
        if let Some(presented) = self.issuer.find_refresh(text).await? {
            return Ok(Some(Existing::Refresh(Box::new(presented))));
        }
        let record = self.gateway.authenticator.inspect(text.expose().as_bytes()).await?;
        Ok(record.map(|record| Existing::Verification(Box::new(record))))
    }

    /// What is said of a token that holds; none: it does not, and nothing is.
    fn state(&self, existing: &Existing) -> Option<Value> {
        match existing {
            Existing::Verification(record) => {
                let audience = match &record.audience {
                    Some(audience) => audience.split(' ').map(ToOwned::to_owned).collect(),
                    None => self.issuer.audiences().to_vec(),
                };
                self.issuer.defect(record).is_none().then(|| {
                    json!({
                        "active": true,
                        "token_type": "Bearer",
                        "iss": self.issuer.name(),
                        "sub": record.subject,
                        "client_id": record.client.id,
                        "aud": audience,
                        "scope": record.scopes_now().to_string(),
                        "jti": record.id,
                        "iat": record.issued_at.as_second(),
                        "exp": record.expires_at.as_second(),
                    })
                })
            }
            Existing::Refresh(presented) => self.issuer.holds(presented).then(|| {
                let record = presented.record();
                json!({
                    "active": true,
                    "token_type": "refresh_token",
                    "iss": self.issuer.name(),
                    "client_id": record.client.id,
                    "scope": record.scopes.within(&record.key.scopes).to_string(),
                    "iat": record.issued_at.as_second(),
                    "exp": record.expires_at.as_second(),
                })
            }),
        }
    }
}

/// By this very name: a key with `*` may do everything of its client's, not of everybody's.
fn may_ask(principal: &Principal, existing: &Existing) -> bool {
    principal.client.id == existing.client() || principal.scopes.iter().any(|scope| scope == INTROSPECT)
}

/// Lets a key ask about every client's tokens.
const INTROSPECT: &str = "octroi:introspect";
