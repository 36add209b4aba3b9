//! Signing in and out.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use super::frame::Page;
use super::parts::Field;
use super::{Done, done};
use crate::api::caller::Caller;
use crate::api::extract::{Form, Parameters};
use crate::api::fault::Result;
use crate::api::state::Api;
use crate::api::v1::sessions::{Arrival, begun, no_cookie, set_cookie};

/// Where to go afterwards, and what went wrong before.
#[derive(Default, Deserialize)]
pub(super) struct Wish {
    to: Option<String>,
    done: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    user: String,
    password: String,
    to: Option<String>,
}

/// Only pages of ours: a link to sign in must not lead elsewhere.
fn own_page(to: Option<&str>) -> &str {
    let is_ours = |to: &&str| {
        to.starts_with('/')
            && !to.starts_with("//")
            && !to.contains(|letter: char| letter == '\\' || letter.is_control())
    };
    to.filter(is_ours).unwrap_or("/")
}

pub(super) async fn show(State(api): State<Arc<Api>>, Parameters(wish): Parameters<Wish>) -> Response {
    let told = Done { done: wish.done.clone() }.words();
    form(&api, own_page(wish.to.as_deref()), None, "").telling(told).for_nobody()
}

fn form(api: &Api, to: &str, wrong: Option<&str>, user: &str) -> Page {
    let body = html! {
        @if !api.operators.can_sign_in() {
            p.card.fault role="alert" { "Nobody can sign in: " code { "JWT_SECRET" } " is not set where the gateway runs. Admin tokens work." }
        }
        @if let Some(wrong) = wrong { p.card.fault role="alert" { (wrong) } }
        form.stack.card method="post" action="/login" {
            input type="hidden" name="to" value=(to);
            (Field::text("user", "Name").value(user).required())
            (Field::password("password", "Password"))
            button type="submit" { "Sign in" }
        }
        @if let Some(oidc) = &api.oidc {
            p { a href="/login/oidc" { "Sign in at " (oidc.config.authorization_url.host_str().unwrap_or("the provider")) } }
        }
        p.soft { "The first operator is made with " code { "octroi admin create NAME" } "." }
    };
    Page::new("Sign in", "", body)
}

pub(super) async fn sign_in(
    State(api): State<Arc<Api>>,
    arrival: Arrival,
    Form(input): Form<SignIn>,
) -> Result<Response> {
    let to = own_page(input.to.as_deref()).to_owned();
    match begun(&api, &arrival, &input.user, input.password).await {
        Ok(signed_in) => Ok((set_cookie(&api, &signed_in)?, Redirect::to(&to)).into_response()),
        // Told where it can be done again.
        Err(fault) if fault.status.is_client_error() && fault.code != "cross_site" => {
            let mut response = form(&api, &to, Some(&fault.detail), &input.user).for_nobody();
            *response.status_mut() = fault.status;
            Ok(response)
        }
        Err(fault) => Err(fault),
    }
}

pub(super) async fn sign_out(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response> {
    api.operators.logout(&caller.known, Some(&caller.request_id)).await?;
    Ok((no_cookie(&api)?, done("/login", "signed-out")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_pages_of_ours_only() {
        for (to, page) in [
            (Some("/clients?after=1"), "/clients?after=1"),
            (Some("//evil.example"), "/"),
            (Some("https://evil.example"), "/"),
            (Some("/\\evil.example"), "/"),
            (None, "/"),
        ] {
            assert_eq!(own_page(to), page, "{to:?}");
        }
        assert_eq!(super::super::parts::address("/login", &[("to", "/a?b=c&d")]), "/login?to=%2Fa%3Fb%3Dc%26d");
    }
}
