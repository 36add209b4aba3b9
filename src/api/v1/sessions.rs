//! `/v1/sessions`: signing in and out, with a cookie that a browser keeps.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Problems;
use crate::api::caller::{Caller, RequestId, cookie_name, same_site};
use crate::api::extract::Body;
use crate::api::fault::{Fault, Result};
use crate::api::state::{Api, Peer};
use crate::api::views::{Listed, SessionView};
use crate::model::operator::ActorKind;
use crate::model::secret::SecretText;
use crate::operators::SignedIn;

/// A name and its password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct LoginInput {
    pub(in crate::api) name: String,
    #[schema(format = Password)]
    pub(in crate::api) password: String,
}

/// The password that was, and the one that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PasswordChange {
    #[schema(format = Password)]
    pub(in crate::api) present: String,
    #[schema(min_length = 12, max_length = 1000, format = Password)]
    pub(in crate::api) new: String,
}

/// Who is signed in, or whose token it is.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct CallerView {
    /// `operator`, `token` or `shell`.
    kind: &'static str,
    id: Uuid,
    name: String,
    role: &'static str,
    /// The clients that a support or client role is for.
    clients: Vec<Uuid>,
}

impl CallerView {
    fn of(actor: &crate::model::operator::Actor) -> Self {
        Self {
            kind: actor.kind.as_str(),
            id: actor.id,
            name: actor.name.clone(),
            role: actor.role.as_str(),
            clients: actor.clients.iter().map(|client| client.0).collect(),
        }
    }
}

/// What is known of a request before anybody is.
pub(in crate::api) struct Arrival {
    pub(in crate::api) address: IpAddr,
    pub(in crate::api) request_id: String,
    method: Method,
    headers: HeaderMap,
}

impl Arrival {
    /// What came with it.
    pub(in crate::api) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl<S: Sync> FromRequestParts<S> for Arrival {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let address = parts.extensions.get::<Peer>().ok_or_else(Fault::internal)?.0.ip();
        let request_id = parts.extensions.get::<RequestId>().ok_or_else(Fault::internal)?.0.clone();
        Ok(Self { address, request_id, method: parts.method.clone(), headers: parts.headers.clone() })
    }
}

/// Sign in: the answer sets a cookie. Tries are throttled for each name and each address.
#[utoipa::path(post, path = "/v1/sessions", tag = "operators", request_body = LoginInput, security(()),
    responses((status = 201, body = CallerView), Problems))]
pub(in crate::api) async fn login(
    State(api): State<Arc<Api>>,
    arrival: Arrival,
    Body(input): Body<LoginInput>,
) -> Result<Response> {
    let signed_in = begun(&api, &arrival, &input.name, input.password).await?;
    let shown = CallerView::of(&signed_in.known.actor);
    Ok((StatusCode::CREATED, set_cookie(&api, &signed_in)?, Json(shown)).into_response())
}

/// Begins a session.
pub(in crate::api) async fn begun(api: &Api, arrival: &Arrival, name: &str, password: String) -> Result<SignedIn> {
    // A stranger's page must not sign somebody in as another.
    let by_browser = arrival.headers.contains_key(header::ORIGIN) || arrival.headers.contains_key("sec-fetch-site");
    if by_browser {
        same_site(api, &arrival.method, &arrival.headers)?;
    }
    let password = SecretText::new(password);
    Ok(api.operators.login(name, &password, arrival.address, Some(&arrival.request_id)).await?)
}

/// The cookie of a session. It ends with the session; off TLS, where `__Host-` and `Secure` are not to
/// be had, on loopback only.
pub(in crate::api) fn set_cookie(api: &Api, signed_in: &SignedIn) -> Result<[(header::HeaderName, HeaderValue); 1]> {
    let seconds = (signed_in.expires_at.as_second() - api.clock.wall().as_second()).max(0);
    cookie_header(api, signed_in.text.expose(), seconds)
}

/// The cookie of nobody.
pub(in crate::api) fn no_cookie(api: &Api) -> Result<[(header::HeaderName, HeaderValue); 1]> {
    cookie_header(api, "", 0)
}

fn cookie_header(api: &Api, text: &str, seconds: i64) -> Result<[(header::HeaderName, HeaderValue); 1]> {
    let name = cookie_name(api.secure);
    let secure = if api.secure { "; Secure" } else { "" };
    let cookie = format!("{name}={text}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut value = HeaderValue::from_str(&cookie).map_err(|_| Fault::internal())?;
    value.set_sensitive(true);
    Ok([(header::SET_COOKIE, value)])
}

/// Say who is signed in, or whose token it is.
#[utoipa::path(get, path = "/v1/sessions/current", tag = "operators",
    responses((status = 200, body = CallerView), Problems))]
pub(in crate::api) async fn current(caller: Caller) -> Json<CallerView> {
    Json(CallerView::of(caller.actor()))
}

/// List one's own sessions, the latest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "operators",
    responses((status = 200, body = Listed<SessionView>), Problems))]
pub(in crate::api) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<Listed<SessionView>>> {
    if caller.actor().kind != ActorKind::Operator {
        return Ok(Json(Listed::whole(Vec::new())));
    }
    let sessions = api.operators.sessions_of(caller.actor().id).await?;
    let shown = sessions.iter().map(|session| SessionView::of(session, caller.known.session)).collect();
    Ok(Json(Listed::whole(shown)))
}

/// Sign out: the session ends on the server.
#[utoipa::path(delete, path = "/v1/sessions/current", tag = "operators", responses((status = 204), Problems))]
pub(in crate::api) async fn logout(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response> {
    api.operators.logout(&caller.known, Some(&caller.request_id)).await?;
    Ok((StatusCode::NO_CONTENT, no_cookie(&api)?).into_response())
}

/// Change one's own password; all sessions end, and the answer's cookie is a new one's.
#[utoipa::path(put, path = "/v1/sessions/current/password", tag = "operators", request_body = PasswordChange,
    responses((status = 204), Problems))]
pub(in crate::api) async fn change_password(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(input): Body<PasswordChange>,
) -> Result<Response> {
    let signed_in = password_changed(&api, &caller, input).await?;
    Ok((StatusCode::NO_CONTENT, set_cookie(&api, &signed_in)?).into_response())
}

/// Changes the password of whoever asks.
pub(in crate::api) async fn password_changed(api: &Api, caller: &Caller, input: PasswordChange) -> Result<SignedIn> {
    if caller.actor().kind != ActorKind::Operator {
        return Err(Fault::conflict("a token has no password: sign in"));
    }
    let (present, new) = (SecretText::new(input.present), SecretText::new(input.new));
    let request_id = Some(caller.request_id.as_str());
    Ok(api.operators.change_password(&caller.known, &present, &new, caller.address, request_id).await?)
}
