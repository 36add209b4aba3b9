//! The dashboard: pages that are made on the server and work without JavaScript.
//!
//! A page reads with the functions of `v1`, under the same permissions, and shows with those of
//! `parts`. What changes something is a form that is posted, checked to come from a page of our own
//! (`caller::same_site`), done by the same functions, and answered with a redirect, so that going back
//! and reloading does nothing twice; what shows a key or token once says so when it is sent again (`once`).
//!
//! To add a page: a function in a file here, a row in [`routes`] with who may see it, an entry of
//! `frame::PLACES` if people should find it.

mod assets;
mod audit;
mod chart;
mod clients;
mod docs;
mod explain;
mod frame;
mod keys;
mod once;
mod overview;
mod parts;
mod people;
mod plans;
mod settings;
mod sign_in;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use maud::html;
use serde::Deserialize;
use utoipa::openapi::OpenApi;

use super::caller::{Access, guard};
use super::fault::Fault;
use super::oidc;
use super::state::Api;
use crate::model::operator::Permission as P;
use frame::Page;

/// Pages, each with who may see it.
struct Pages {
    api: Arc<Api>,
    router: Router<Arc<Api>>,
}

impl Pages {
    #[must_use]
    fn page(self, access: Access, path: &str, handler: MethodRouter<Arc<Api>>) -> Self {
        let handler = handler.layer(from_fn_with_state((Arc::clone(&self.api), access), guard));
        Self { router: self.router.route(path, handler), ..self }
    }
}

/// All pages.
pub(super) fn routes(api: &Arc<Api>, document: &Arc<OpenApi>) -> Router<Arc<Api>> {
    let described = Arc::clone(document);
    let open = Router::new()
        .route("/assets/{name}", get(assets::serve))
        .route("/login", get(sign_in::show).post(sign_in::sign_in))
        .route("/login/oidc", get(oidc::depart))
        .route("/login/callback", get(oidc::arrive))
        .route("/docs", get(move || async move { docs::show(&described) }));
    let known = Access::Known;
    Pages { api: Arc::clone(api), router: open }
        .page(known, "/logout", post(sign_in::sign_out))
        .page(known, "/account", get(people::account).post(people::change_password))
        .page(known, "/", get(overview::show))
        .page(Access::To(P::ReadClients), "/clients", get(clients::list))
        .page(Access::To(P::WriteClients), "/clients/new", post(clients::create))
        .page(Access::To(P::ReadClients), "/clients/{id}", get(clients::show))
        .page(Access::To(P::WriteClients), "/clients/{id}/change", post(clients::change))
        .page(Access::To(P::WriteClients), "/clients/{id}/suspend", post(clients::suspend))
        .page(Access::To(P::WriteClients), "/clients/{id}/resume", post(clients::resume))
        .page(Access::To(P::EraseClients), "/clients/{id}/erase", post(clients::erase))
        .page(Access::To(P::ReadKeys), "/clients/{id}/keys", get(keys::list))
        .page(Access::To(P::WriteKeys), "/clients/{id}/keys", post(keys::create))
        .page(Access::To(P::ReadKeys), "/keys/{id}", get(keys::show))
        .page(Access::To(P::WriteKeys), "/keys/{id}/change", post(keys::change))
        .page(Access::To(P::WriteKeys), "/keys/{id}/revoke", post(keys::revoke))
        .page(Access::To(P::WriteKeys), "/keys/{id}/rotate", post(keys::rotate))
        .page(Access::To(P::ReadPlans), "/plans", get(plans::list))
        .page(Access::To(P::WritePlans), "/plans/new", post(plans::create))
        .page(Access::To(P::ReadPlans), "/plans/{id}", get(plans::show))
        .page(Access::To(P::WritePlans), "/plans/{id}/change", post(plans::change))
        .page(Access::To(P::ReadUsage), "/usage", get(usage::show))
        .page(Access::To(P::ReadUsage), "/usage.csv", get(usage::csv))
        .page(Access::To(P::ReadUsage), "/events", get(usage::events))
        .page(Access::To(P::ReadUsage), "/refusals", get(explain::refusals))
        .page(Access::To(P::Explain), "/explain", get(explain::show).post(explain::ask))
        .page(Access::To(P::Explain), "/requests/{request_id}", get(explain::request))
        .page(Access::To(P::ReadAudit), "/audit", get(audit::show))
        .page(Access::To(P::ManageOperators), "/operators", get(people::list))
        .page(Access::To(P::ManageOperators), "/operators/new", post(people::create))
        .page(Access::To(P::ManageOperators), "/operators/{id}/disable", post(people::disable))
        .page(Access::To(P::ManageOperators), "/operators/{id}/enable", post(people::enable))
        .page(Access::To(P::ManageOperators), "/operators/{id}/password", post(people::reset_password))
        .page(Access::To(P::ManageOperators), "/tokens/new", post(people::create_token))
        .page(Access::To(P::ManageOperators), "/tokens/{id}/revoke", post(people::revoke_token))
        .page(Access::To(P::ReadGateway), "/settings", get(settings::show))
        .router
}

/// Whether whoever asks is a person with a browser: then faults are pages.
pub(super) fn wants_page(request: &Request) -> bool {
    let path = request.uri().path();
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    !path.starts_with("/v1") && path != "/openapi.json" && accepts.contains("text/html")
}

/// Why a form was not done that showed something else than there is.
const CHANGED_MEANWHILE: &str =
    "It was changed meanwhile, and nothing was changed now: look at it again, and say what is still to be changed.";

/// A fault as a page; whoever is not signed in is sent to sign in.
pub(super) fn fault(fault: &Fault, request_id: &str, asked: &(Method, String)) -> Response {
    let (method, path) = asked;
    if fault.status == StatusCode::UNAUTHORIZED && !path.starts_with("/login") {
        let back = if method.is_safe() { path.as_str() } else { "/" };
        return Redirect::to(&parts::address("/login", &[("to", back)])).into_response();
    }
    // What a form showed is no longer so: whoever sent it has to look at what is.
    let changed = path.strip_suffix("/change").filter(|_| fault.status == StatusCode::PRECONDITION_FAILED);
    let body = html! {
        p.card.fault role="alert" {
            @if changed.is_some() { (CHANGED_MEANWHILE) } @else { (fault.detail) }
        }
        @if let Some(path) = changed { p { a href=(path) { "Look at it again" } } }
        p { a href="/" { "To the overview" } }
        p.soft { "Request " code { (request_id) } }
    };
    let title = fault.status.canonical_reason().unwrap_or("Error");
    let mut response = Page::new(title, "", body).for_nobody();
    *response.status_mut() = fault.status;
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What a redirect says was done.
#[derive(Default, Deserialize)]
pub(super) struct Done {
    done: Option<String>,
}

/// What can be said to be done: a word for the address, a sentence for people.
const DEEDS: [(&str, &str); 15] = [
    ("client-made", "The client was made."),
    ("client-changed", "The client was changed; it is in force within a second."),
    ("suspended", "The client is suspended: its calls are refused."),
    ("resumed", "The client may call again."),
    ("erased", "The client's personal data are gone. What it used stays in the sums."),
    ("key-changed", "The key was changed."),
    ("key-revoked", "The key is revoked: its calls are refused within a second."),
    ("plan-made", "The plan was made."),
    ("plan-changed", "The plan was changed; its clients are under it within a second."),
    ("operator-made", "The operator was made."),
    ("operator-disabled", "The operator may sign in no more; its sessions have ended."),
    ("operator-enabled", "The operator may sign in again."),
    ("password-changed", "The password was changed; other sessions have ended."),
    ("token-revoked", "The token is revoked."),
    ("signed-out", "You are signed out."),
];

impl Done {
    fn words(&self) -> Option<&'static str> {
        let done = self.done.as_deref()?;
        DEEDS.into_iter().find(|(deed, _)| *deed == done).map(|(_, words)| words)
    }
}

/// Goes on to a page that says what was done.
fn done(path: &str, deed: &'static str) -> Response {
    Redirect::to(&parts::address(path, &[("done", deed)])).into_response()
}
