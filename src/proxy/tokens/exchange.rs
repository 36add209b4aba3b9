//! `token`: a key, or a refresh token, for a verification token (RFC 6749 §4.4, §6).

use bytes::Bytes;
use http::Response;
use serde_json::json;

use super::super::rejection::Rejection;
use super::form::{Form, FormFault};
use super::{Visit, private};
use crate::auth::AuthError;
use crate::issuer::{Asked, GrantFault, Issued, RefreshFault};
use crate::model::access::Scopes;
use crate::model::secret::SecretText;

impl Visit<'_> {
    pub(super) async fn exchange(&mut self, form: &Form) -> Result<Response<Bytes>, Rejection> {
        let issued = match form.required("grant_type")? {
            "client_credentials" => self.exchange_key(form).await?,
            "refresh_token" => self.exchange_refresh_token(form).await?,
            _ => return Err(Rejection::UnsupportedGrant),
        };
        Ok(answer(&issued))
    }

    async fn exchange_key(&mut self, form: &Form) -> Result<Issued, Rejection> {
        let asked = asked(form)?;
        let principal = self.principal(form).await?.ok_or(AuthError::Missing)?;
        self.spend(&principal).await?;
        Ok(self.issuer.grant(&principal, asked).await?)
    }

    /// A key beside the refresh token is not needed, and must be its client's where it is there. The
    /// token's own client only pays for what it may get: with a dead one nobody spends its limit.
    async fn exchange_refresh_token(&mut self, form: &Form) -> Result<Issued, Rejection> {
        let asked = asked(form)?;
        let text = SecretText::new(form.required("refresh_token")?.to_owned());
        let by = self.principal(form).await?;
        let attempt = self.pay(by.as_deref()).await?;
        let presented = self.issuer.find_refresh(&text).await?.ok_or(GrantFault::from(RefreshFault::Unknown))?;
        // Also when another key came along: whoever holds that one may stand elsewhere.
        if !presented.principal.may_call_from(self.context.caller()) {
            return Err(AuthError::AddressDenied.into());
        }
        if let Some(attempt) = attempt {
            self.context.identified(&presented.principal);
            if self.issuer.is_worth_something(&presented) {
                attempt.was_good();
                self.spend(&presented.principal).await?;
            }
        }
        let by = by.map(|principal| principal.client.id);
        Ok(self.issuer.refresh(presented, asked, by).await?)
    }
}

/// `offline_access` asks for a refresh token and is no scope of ours; asked for alone, it stands
/// beside all the key's scopes.
fn asked(form: &Form) -> Result<Asked, FormFault> {
    let wanted: Vec<&str> = form.one("scope")?.unwrap_or_default().split(' ').filter(|name| !name.is_empty()).collect();
    let names: Vec<String> = wanted.iter().filter(|name| **name != OFFLINE_ACCESS).map(ToString::to_string).collect();
    let scopes = if names.is_empty() { None } else { Some(Scopes::new(names).map_err(|_| FormFault::Scope)?) };
    Ok(Asked {
        scopes,
        offline: wanted.contains(&OFFLINE_ACCESS),
        audiences: form.all("audience").map(ToOwned::to_owned).collect(),
    })
}

fn answer(issued: &Issued) -> Response<Bytes> {
    let mut body = json!({
        "access_token": issued.access_token.expose(),
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
    });
    // RFC 6749 knows no scope without a name (§3.3).
    if issued.scopes.iter().next().is_some() {
        body["scope"] = issued.scopes.to_string().into();
    }
    if let Some(refresh_token) = &issued.refresh_token {
        body["refresh_token"] = refresh_token.expose().into();
    }
    private(&body)
}

/// OpenID Connect's word for it.
const OFFLINE_ACCESS: &str = "offline_access";
