//! Signing in at a provider: the authorization code flow with PKCE (RFC 6749 §4.1, RFC 7636, OpenID
//! Connect Core 1.0 §3.1).
//!
//! What must come back is in a cookie of the browser that was sent away: the state, which no other
//! browser has, and the verifier, without which the code is worth nothing. The session's cookie is
//! `SameSite=Strict`, which a browser does not send on the way back from another site: so the way back
//! ends on a page of ours, which goes on by itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use maud::{DOCTYPE, html};
use serde::Deserialize;

use super::extract::Parameters;
use super::fault::{Fault, Result};
use super::state::Api;
use super::v1::sessions::{Arrival, set_cookie};
use crate::auth::{IdTokenFault, IdTokens, Identity};
use crate::config::oidc::OidcConfig;
use crate::crypto::pepper::sha256;
use crate::model::admin::Reach;
use crate::model::causes::with_causes;
use crate::model::operator::Role;
use crate::server::outbound::Outbound;

/// A provider.
pub struct Oidc {
    /// How it is spoken with.
    pub config: OidcConfig,
    /// Verifies its tokens.
    pub tokens: IdTokens,
    /// Redeems codes.
    pub outbound: Outbound,
}

/// The cookie of who is on the way.
const COOKIE: &str = "octroi-login";

/// How long the way may take, in seconds.
const PATIENCE: u32 = 600;

/// The length of what is random: 32 bytes in base64url.
const RANDOM: usize = 43;

/// What the provider sends back.
#[derive(Deserialize)]
pub(super) struct Returned {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Redeemed {
    id_token: String,
}

fn provider(api: &Api) -> Result<&Oidc> {
    api.oidc.as_ref().ok_or_else(|| Fault::not_found("nobody signs in elsewhere: [admin.oidc] is not set"))
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Fault::internal())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Sends a browser to the provider.
pub(super) async fn depart(State(api): State<Arc<Api>>) -> Result<Response> {
    let oidc = provider(&api)?;
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()).0);
    let mut url = oidc.config.authorization_url.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &oidc.config.client_id)
        .append_pair("redirect_uri", oidc.config.redirect_url.as_str())
        .append_pair("scope", &oidc.config.scopes)
        .append_pair("state", &state)
        .append_pair("nonce", &nonce_of(&verifier))
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    let cookie = way_cookie(&api, &format!("{state}.{verifier}"), PATIENCE)?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(url.as_str())).into_response())
}

/// What the provider repeats in its token: that it was made for this way (OpenID Connect Core 1.0
/// §3.1.2.1). It tells nothing of the verifier.
fn nonce_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(format!("nonce {verifier}").as_bytes()).0)
}

/// Lax: it must come along on the way back, which begins at another site. Over TLS nobody but this very
/// host can have set it (`__Host-`).
fn way_cookie(api: &Api, text: &str, seconds: u32) -> Result<HeaderValue> {
    let (name, secure) = (way_name(api), if api.secure { "; Secure" } else { "" });
    let cookie = format!("{name}={text}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&cookie).map_err(|_| Fault::internal())
}

fn way_name(api: &Api) -> String {
    if api.secure { format!("__Host-{COOKIE}") } else { COOKIE.to_owned() }
}

fn way(api: &Api, headers: &HeaderMap) -> Option<(String, String)> {
    let wanted = way_name(api);
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, text) = pairs.find(|(name, _)| *name == wanted)?;
    let (state, verifier) = text.split_once('.')?;
    // None that we sent away has less.
    (state.len() == RANDOM && verifier.len() == RANDOM).then(|| (state.to_owned(), verifier.to_owned()))
}

/// Takes a browser back: redeems the code, and begins a session.
pub(super) async fn arrive(
    State(api): State<Arc<Api>>,
    arrival: Arrival,
    Parameters(returned): Parameters<Returned>,
) -> Result<Response> {
    let oidc = provider(&api)?;
    if let Some(error) = returned.error {
        let shown: String = error.chars().filter(char::is_ascii_graphic).take(60).collect();
        return Err(Fault::forbidden(format!("the provider says: {shown}")));
    }
    let lost = || Fault::bad_request("this is not the way that this browser was sent: sign in again");
    let (state, verifier) = way(&api, arrival.headers()).ok_or_else(lost)?;
    if returned.state.as_deref() != Some(state.as_str()) {
        return Err(lost());
    }
    let code = returned.code.ok_or_else(lost)?;
    let identity = redeem(oidc, &code, &verifier).await?;
    let role = role_of(&oidc.config, &identity)
        .ok_or_else(|| Fault::forbidden("you are known, and none of your groups has a role here"))?;
    let reach = Reach::new(role, Vec::new()).map_err(|_| Fault::internal())?;
    let (issuer, address) = (oidc.config.rules.issuer.as_str(), Some(arrival.address));
    let subject = identity.subject.as_str();
    let signed_in = api
        .operators
        .login_from_elsewhere((issuer, subject), &identity.name, reach, address, Some(&arrival.request_id))
        .await?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { "Signed in · Octroi" } meta http-equiv="refresh" content="0;url=/"; }
            body { main { h1 { "Signed in" } p { a href="/" { "Go on" } } } }
        }
    };
    let [(name, session)] = set_cookie(&api, &signed_in)?;
    let cookies = AppendHeaders([(name.clone(), session), (name, way_cookie(&api, "", 0)?)]);
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((cookies, kind, page.into_string()).into_response())
}

/// The highest role of all groups.
fn role_of(config: &OidcConfig, identity: &Identity) -> Option<Role> {
    let held: Vec<Role> = identity.groups.iter().filter_map(|group| config.roles.get(group)).copied().collect();
    [Role::Owner, Role::Operator, Role::Auditor].into_iter().find(|role| held.contains(role))
}

/// The form with which a code is redeemed.
fn redemption(config: &OidcConfig, code: &str, verifier: &str) -> Result<String> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", config.redirect_url.as_str())
        .append_pair("client_id", &config.client_id)
        .append_pair("code_verifier", verifier);
    if let Some(secret) = &config.client_secret {
        form.append_pair("client_secret", std::str::from_utf8(secret.expose()).map_err(|_| Fault::internal())?);
    }
    Ok(form.finish())
}

async fn redeem(oidc: &Oidc, code: &str, verifier: &str) -> Result<Identity> {
    let config = &oidc.config;
    let body = Bytes::from(redemption(config, code, verifier)?);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let away = || {
        Fault::unavailable("provider_unavailable", "the identity provider does not answer; passwords and tokens work")
    };
    let answer = oidc.outbound.to(&config.token_url).post(&headers, body).await.map_err(|fault| {
        tracing::warn!(error = with_causes(&fault), "the identity provider does not answer");
        away()
    })?;
    if !answer.status().is_success() {
        tracing::warn!(status = answer.status().as_u16(), "the identity provider does not redeem a code");
        return Err(Fault::forbidden("the provider does not take the code back: sign in again"));
    }
    let redeemed: Redeemed = serde_json::from_slice(answer.body()).map_err(|_| away())?;
    oidc.tokens.verify(&redeemed.id_token, &config.client_id, &nonce_of(verifier)).await.map_err(|fault| {
        tracing::warn!(%fault, "an operator could not sign in elsewhere");
        match fault {
            IdTokenFault::Refused(_) => Fault::forbidden("the provider's token is not good; the log says why"),
            IdTokenFault::NoKeys => away(),
        }
    })
}
