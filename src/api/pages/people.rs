//! Operators and admin tokens, and one's own account.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::frame::Page;
use super::keys::later;
use super::once::{number, once};
use super::parts::{Column, Field, address, badge, choice, code, confirmed, dash, folded, table, time, time_or_dash};
use super::{Done, done};
use crate::api::caller::Caller;
use crate::api::extract::{Form, Held, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::v1::operators::{ListQuery, OperatorInput, OperatorPatch, changed, listed, made};
use crate::api::v1::sessions::{PasswordChange, password_changed, set_cookie};
use crate::api::v1::tokens::{self, TokenInput, TokenQuery};
use crate::model::admin::{AdminToken, Operator};
use crate::model::operator::ActorKind;
use crate::model::secret::SecretText;

/// The last one is for tokens only.
const ROLES: [(&str, &str); 5] = [
    ("operator", "operator: changes clients, keys and plans"),
    ("auditor", "auditor: sees everything, changes nothing"),
    ("support", "support: named clients only"),
    ("owner", "owner: everything"),
    ("client", "client: its own keys and usage"),
];

#[derive(Deserialize)]
pub(super) struct OperatorForm {
    user: String,
    password: String,
    role: String,
    clients: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TokenForm {
    /// Of this form: sent twice, it makes one token.
    once: Option<String>,
    name: String,
    role: String,
    clients: Option<String>,
    expires: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct PasswordForm {
    #[serde(default)]
    present: String,
    new: String,
}

/// Ids of clients, separated by blanks.
fn ids(text: Option<&str>) -> Result<Vec<Uuid>> {
    let read = |word: &str| word.parse().map_err(|_| Fault::bad_request(format!("`{word}` is no client's id")));
    text.unwrap_or_default().split_whitespace().map(read).collect()
}

/// Where the two lists of the page begin.
#[derive(Default, Deserialize)]
pub(super) struct Asked {
    people_after: Option<Uuid>,
    tokens_after: Option<Uuid>,
}

/// Goes on with one of the two lists, and leaves the other where it is.
fn more(asked: &Asked, people: Option<Uuid>, tokens: Option<Uuid>, word: &str) -> Markup {
    let text = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let (people, tokens) = (text(people.or(asked.people_after)), text(tokens.or(asked.tokens_after)));
    let to = address("/operators", &[("people_after", &people), ("tokens_after", &tokens)]);
    html! { p { a rel="next" href=(to) { (word) } } }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(said): Parameters<Done>,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response> {
    let people = listed(&caller, &ListQuery { after: asked.people_after, ..ListQuery::default() }).await?;
    let tokens = tokens::listed(&caller, &TokenQuery { after: asked.tokens_after, ..TokenQuery::default() }).await?;
    let more_people = people.items.last().filter(|_| people.more).map(|last| last.id);
    let more_tokens = tokens.items.last().filter(|_| tokens.more).map(|last| last.id);
    let (people, tokens) = (people.items, tokens.items);
    let body = html! {
        (people_table(&people))
        @if more_people.is_some() { (more(&asked, more_people, None, "More operators")) }
        (folded("New operator", &operator_form()))
        h2 { "Change an operator" }
        @for operator in &people { (folded(&operator.name, &person(operator))) }
        h2 { "Admin tokens" }
        p { "For programs, and for clients that manage their own keys: " code { "Authorization: Bearer octroi_admin_…" } }
        (tokens_table(&tokens))
        @if more_tokens.is_some() { (more(&asked, None, more_tokens, "More tokens")) }
        (folded("New token", &token_form(&api)))
        @for token in tokens.iter().filter(|token| token.revoked_at.is_none()) {
            (confirmed(&format!("/tokens/{}/revoke", token.id), &format!("Revoke {}", token.name), "Whoever holds it is refused from now on."))
        }
    };
    Ok(Page::new("Operators", "/operators", body).telling(said.words()).for_caller(&caller))
}

fn people_table(people: &[Operator]) -> Markup {
    let rows: Vec<_> = people
        .iter()
        .map(|operator| {
            vec![
                html! { (operator.name) },
                html! { (operator.role.as_str()) },
                if operator.disabled_at.is_some() { badge("bad", "disabled") } else { badge("good", "may sign in") },
                time_or_dash(operator.last_login_at),
                time(operator.created_at),
            ]
        })
        .collect();
    let columns = [
        Column::Text("Name"),
        Column::Text("Role"),
        Column::Text("State"),
        Column::Text("Last login"),
        Column::Text("Made"),
    ];
    table("Operators", &columns, &rows)
}

fn tokens_table(tokens: &[AdminToken]) -> Markup {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            vec![
                html! { (token.name) },
                code(&token.token_id),
                html! { (token.role.as_str()) },
                if token.revoked_at.is_some() { badge("bad", "revoked") } else { badge("good", "works") },
                time_or_dash(token.expires_at),
                time_or_dash(token.last_used_at),
            ]
        })
        .collect();
    let columns = [
        Column::Text("Name"),
        Column::Text("Token id"),
        Column::Text("Role"),
        Column::Text("State"),
        Column::Text("Expires"),
        Column::Text("Last used"),
    ];
    table("Admin tokens", &columns, &rows)
}

fn operator_form() -> Markup {
    html! {
        form.stack method="post" action="/operators/new" {
            (Field::text("user", "Name").required())
            (Field { name: "password", ..Field::password("new", "Password") }.hint("at least 12 characters"))
            (choice("role", "Role", &ROLES[..ROLES.len() - 1], "operator"))
            (Field::text("clients", "Clients").hint("ids, separated by blanks; for support only"))
            button type="submit" { "Make it" }
        }
    }
}

fn token_form(api: &Api) -> Markup {
    html! {
        form.stack method="post" action="/tokens/new" {
            (number(api))
            (Field::text("name", "What it is for").required())
            (choice("role", "Role", &ROLES, "auditor"))
            (Field::text("clients", "Clients").hint("ids, separated by blanks; for support and client only"))
            (Field::text("expires", "Works for").hint("like 90d; empty: until it is revoked"))
            button type="submit" { "Make it" }
        }
    }
}

fn person(operator: &Operator) -> Markup {
    let id = operator.id;
    html! {
        @if operator.disabled_at.is_some() {
            form.actions method="post" action=(format!("/operators/{id}/enable")) { button type="submit" { "Let it sign in again" } }
        } @else {
            form.actions method="post" action=(format!("/operators/{id}/disable")) { button.danger type="submit" { "Disable" } }
        }
        @if operator.has_password {
            form.stack method="post" action=(format!("/operators/{id}/password")) {
                div.field {
                    label for=(format!("password-{id}")) { "Another password" }
                    input id=(format!("password-{id}")) name="new" type="password" required autocomplete="new-password";
                }
                button.plain type="submit" { "Set it; its sessions end" }
            }
        }
    }
}

pub(super) async fn create(caller: Caller, Form(input): Form<OperatorForm>) -> Result<Response> {
    let clients = ids(input.clients.as_deref())?;
    made(&caller, OperatorInput { name: input.user, password: input.password, role: input.role, clients }).await?;
    Ok(done("/operators", "operator-made"))
}

pub(super) async fn disable(State(api): State<Arc<Api>>, caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    set_disabled(&api, &caller, id, true).await?;
    Ok(done("/operators", "operator-disabled"))
}

pub(super) async fn enable(State(api): State<Arc<Api>>, caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    set_disabled(&api, &caller, id, false).await?;
    Ok(done("/operators", "operator-enabled"))
}

async fn set_disabled(api: &Api, caller: &Caller, id: Uuid, disabled: bool) -> Result<()> {
    let operator = caller.store.operators.find(id).await?;
    let operator = operator.ok_or_else(|| Fault::not_found(format!("there is no operator {id}")))?;
    let patch = OperatorPatch { disabled: Some(disabled), ..OperatorPatch::default() };
    changed(api, caller, &Held::anyhow(operator), patch).await.map(drop)
}

pub(super) async fn reset_password(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Form(input): Form<PasswordForm>,
) -> Result<Response> {
    api.operators.reset_password(&caller.store, id, &SecretText::new(input.new)).await?;
    Ok(done("/operators", "password-changed"))
}

pub(super) async fn create_token(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Form(form): Form<TokenForm>,
) -> Result<Response> {
    let expires_at = form.expires.as_deref().map(|text| later(&api, text)).transpose()?;
    let clients = ids(form.clients.as_deref())?;
    let input = TokenInput { name: form.name, role: form.role, clients, expires_at };
    let making = tokens::made(&api, &caller, input);
    let made = once(&caller, form.once.as_deref(), "token.create", making).await?;
    let body = html! {
        p.card.told role="status" { "Keep it now: it is not shown again." }
        p { strong id="key-label" { "The token " (made.row.name) } }
        code.key id="key" aria-labelledby="key-label" { (made.token.as_deref().unwrap_or_default()) }
        p.actions { button type="button" data-copy="key" hidden { "Copy" } }
        p { a href="/operators" { "Back to operators and tokens" } }
    };
    Ok(Page::new("A new token", "/operators", body).for_caller(&caller))
}

pub(super) async fn revoke_token(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
) -> Result<Response> {
    let revoked = api.operators.revoke_token(&caller.store, id).await?;
    revoked.ok_or_else(|| Fault::not_found(format!("there is no admin token {id}")))?;
    Ok(done("/operators", "token-revoked"))
}

pub(super) async fn account(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(said): Parameters<Done>,
) -> Result<Response> {
    let actor = caller.actor();
    let sessions =
        if actor.kind == ActorKind::Operator { api.operators.sessions_of(actor.id).await? } else { Vec::new() };
    let rows: Vec<_> = sessions
        .iter()
        .map(|session| {
            vec![
                session.address.map_or_else(dash, |from| html! { (from) }),
                time(session.created_at),
                time(session.last_seen_at),
                time(session.expires_at),
                if caller.known.session == Some(session.id) { badge("good", "this one") } else { dash() },
            ]
        })
        .collect();
    let columns = ["From", "Begun", "Last seen", "Ends", "Current"].map(Column::Text);
    let body = html! {
        p { "You are " strong { (actor.name) } ", with the role " strong { (actor.role.as_str()) } "." }
        (table("Your sessions", &columns, &rows))
        h2 { "Change your password" }
        form.stack.card method="post" action="/account" {
            (Field::password("present", "Present password"))
            (Field::password("new", "New password").hint("at least 12 characters; all sessions end, and this one is made anew"))
            button type="submit" { "Change it" }
        }
    };
    Ok(Page::new("Your account", "", body).telling(said.words()).for_caller(&caller))
}

pub(super) async fn change_password(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Form(input): Form<PasswordForm>,
) -> Result<Response> {
    let change = PasswordChange { present: input.present, new: input.new };
    let signed_in = password_changed(&api, &caller, change).await?;
    Ok((set_cookie(&api, &signed_in)?, done("/account", "password-changed")).into_response())
}
