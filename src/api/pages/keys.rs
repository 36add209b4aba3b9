//! Keys: one, what can be done to it, and the page that shows a new one once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::{ends, name_of, read};
use super::frame::Page;
use super::once::{number, once};
use super::parts::{
    Column, Field, address, badge, choice, code, confirmed, dash, facts, folded, link, next, or_dash, table, tag, time,
    time_or_dash,
};
use super::{Done, done};
use crate::api::caller::Caller;
use crate::api::extract::{Form, IfMatch, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::v1::clients as v1_clients;
use crate::api::v1::keys::{KeyInput, KeyPatch, RotateInput, changed, found, listed, made, revoked, rotated};
use crate::api::views::{KeyView, MadeKeyView};
use crate::config::units::{self, DURATION_FORM};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, KeyDefect};
use crate::model::operator::Permission;

/// What a form says of a key; what is empty is not there.
#[derive(Default, Deserialize)]
pub(super) struct KeyForm {
    /// Of this form: sent twice, it makes one key.
    once: Option<String>,
    /// Of what is shown; none: it shows a new one.
    tag: Option<String>,
    name: Option<String>,
    env: Option<String>,
    scopes: Option<String>,
    addresses: Option<String>,
    rate: Option<String>,
    burst: Option<String>,
    expires: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct RotateForm {
    once: Option<String>,
    grace: Option<String>,
}

/// The most keys that are shown on a client's own page.
const SHOWN: u32 = 200;

/// A client's working keys, for its own page; the others are a link away.
pub(super) async fn working(api: &Api, caller: &Caller, client: ClientId) -> Result<Markup> {
    caller.reach(Permission::ReadKeys, client)?;
    let now = api.clock.wall();
    let turn = caller.turn(api).await?;
    let keys = caller.store.keys.working(client, now, SHOWN).await?;
    drop(turn);
    Ok(html! {
        (table_of("Working keys, the newest first", &keys.items, now))
        @if keys.more { p.soft { "The newest " (SHOWN) " of them." } }
        p { (link(format!("/clients/{client}/keys"), "All keys, also those that are over")) }
    })
}

/// Where a list goes on.
#[derive(Default, Deserialize)]
pub(super) struct Onwards {
    after: Option<Uuid>,
}

/// All keys of a client, page by page.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(asked): Parameters<Onwards>,
) -> Result<Response> {
    let client = v1_clients::found(&caller, Permission::ReadKeys, ClientId(id)).await?;
    let page = listed(&caller, Some(client.id), Some(SHOWN), asked.after).await?;
    let path = format!("/clients/{id}/keys");
    let after = page.items.last().filter(|_| page.more).map(|key| address(&path, &[("after", &key.id.to_string())]));
    let body = html! {
        p { "Of " (link(format!("/clients/{id}"), &client.name)) }
        (table_of("Keys, the oldest first", &page.items, api.clock.wall()))
        (next(after))
    };
    Ok(Page::new("Keys", "/clients", body).for_caller(&caller))
}

/// A list of keys.
fn table_of(caption: &str, keys: &[ApiKey], now: Timestamp) -> Markup {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            vec![
                link(format!("/keys/{}", key.id), &key.name),
                or_dash(key.key_id.as_ref().map(code)),
                state(key, now),
                or_dash((!key.scopes.is_empty()).then(|| key.scopes.to_string())),
                ends(key.expires_at),
                time_or_dash(key.last_used_at),
                time(key.created_at),
            ]
        })
        .collect();
    let columns = [
        Column::Text("Name"),
        Column::Text("Key id"),
        Column::Text("State"),
        Column::Wide("Scopes"),
        Column::Text("Expires"),
        Column::Text("Last used"),
        Column::Text("Made"),
    ];
    table(caption, &columns, &rows)
}

fn state(key: &ApiKey, now: Timestamp) -> Markup {
    match key.defect(now) {
        None => badge("good", "works"),
        Some(KeyDefect::Revoked) => badge("bad", "revoked"),
        Some(KeyDefect::Expired) => badge("warn", "expired"),
    }
}

/// The fields of a new key.
pub(super) fn form(api: &Api, client: &str) -> Markup {
    html! {
        form.stack method="post" action=(format!("/clients/{client}/keys")) {
            (number(api))
            (Field::text("name", "Name").hint("what people call it; empty: default"))
            (choice("env", "Its text says", &[("live", "live"), ("test", "test")], "live"))
            (Field::text("scopes", "Scopes").hint("separated by blanks, like orders:read"))
            (Field::text("addresses", "From these addresses only").hint("separated by blanks, like 192.0.2.0/24; empty: from everywhere"))
            (Field::text("rate", "Rate of its own").hint("like 10/s; it narrows its client's"))
            (Field::text("burst", "Burst").hint("empty: one second's worth"))
            (Field::text("expires", "Works for").hint("like 90d; empty: until it is revoked"))
            button type="submit" { "Make it" }
        }
    }
}

fn words(text: Option<&str>) -> Option<Vec<String>> {
    text.map(|text| text.split_whitespace().map(ToOwned::to_owned).collect())
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(client): Named<Uuid>,
    Form(input): Form<KeyForm>,
) -> Result<Response> {
    let expires_at = input.expires.as_deref().map(|text| later(&api, text)).transpose()?;
    let new = KeyInput {
        name: input.name,
        env: input.env,
        scopes: words(input.scopes.as_deref()),
        rate: read("Rate", input.rate.as_deref())?,
        burst: read("Burst", input.burst.as_deref())?,
        allowed_addresses: words(input.addresses.as_deref()),
        expires_at,
    };
    let making = made(&api, &caller, ClientId(client), new);
    let made = once(&caller, input.once.as_deref(), "key.create", making).await?;
    shown_once(&caller, &made).await
}

/// So long after now.
pub(super) fn later(api: &Api, text: &str) -> Result<Timestamp> {
    let wrong = || Fault::bad_request(format!("`{text}` is not a duration: write {DURATION_FORM}"));
    let duration = units::parse_duration(text.trim()).ok_or_else(wrong)?;
    api.clock.wall().checked_add(duration).map_err(|_| wrong())
}

/// A new key, which nobody is shown again.
async fn shown_once(caller: &Caller, made: &MadeKeyView) -> Result<Response> {
    let client = name_of(caller, made.row.client_id).await?;
    let body = html! {
        p.card.told role="status" { "Keep it now: it is not shown again." }
        p { strong id="key-label" { "The key of " (client) } }
        code.key id="key" aria-labelledby="key-label" { (made.key.as_deref().unwrap_or_default()) }
        p.actions { button type="button" data-copy="key" hidden { "Copy" } }
        (facts(&[
            ("Name", html! { (made.row.name) }),
            ("Key id", or_dash(made.row.key_id.as_ref().map(code))),
            ("Expires", ends(made.row.expires_at)),
        ]))
        p {
            (link(format!("/keys/{}", made.row.id), "What is known of it")) " · "
            (link(format!("/clients/{}", made.row.client_id), "Back to the client"))
        }
    };
    Ok(Page::new("A new key", "/clients", body).for_caller(caller))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(said): Parameters<Done>,
) -> Result<Response> {
    let key = found(&caller, Permission::ReadKeys, ApiKeyId(id)).await?;
    let client = name_of(&caller, key.client_id.0).await?;
    let now = api.clock.wall();
    let named = key.key_id.clone().unwrap_or_else(|| key.id.to_string());
    let body = html! {
        (facts(&[
            ("State", state(&key, now)),
            ("Client", link(format!("/clients/{}", key.client_id), &client)),
            ("Key id", or_dash(key.key_id.as_ref().map(code))),
            ("Row", code(key.id.to_string())),
            ("Scopes", or_dash((!key.scopes.is_empty()).then(|| key.scopes.to_string()))),
            ("From", or_dash((!key.allowed_addresses.is_empty()).then(|| key.allowed_addresses.to_string()))),
            ("Rate of its own", or_dash(key.rate.map(|rate| rate.to_string()))),
            ("Made", time(key.created_at)),
            ("Expires", ends(key.expires_at)),
            ("Revoked", time_or_dash(key.revoked_at)),
            ("Last used", time_or_dash(key.last_used_at)),
            ("Replaced by", key.replaced_by.map_or_else(dash, |id| link(format!("/keys/{id}"), id.to_string()))),
        ]))
        @if caller.may(Permission::Explain) {
            p { (link(address("/explain", &[("key_id", &named)]), "Why would a request with it be refused?")) }
        }
        @if caller.may(Permission::WriteKeys) && key.revoked_at.is_none() {
            h2 { "Change" }
            (folded("Name, scopes and limits", &change_form(&key)))
            @if key.replaced_by.is_none() { (folded("Rotate", &rotate_form(&api, &key))) }
            (confirmed(&format!("/keys/{}/revoke", key.id), "Revoke", "Its calls are refused within a second, everywhere, for good."))
        }
    };
    Ok(Page::new(key.name.clone(), "/clients", body).telling(said.words()).for_caller(&caller))
}

fn change_form(key: &ApiKey) -> Markup {
    let rate = key.rate.map(|rate| rate.to_string()).unwrap_or_default();
    let burst = key.burst.map(|burst| burst.to_string()).unwrap_or_default();
    let (scopes, ranges) = (key.scopes.to_string(), key.allowed_addresses.to_string());
    html! {
        form.stack method="post" action=(format!("/keys/{}/change", key.id)) {
            (tag(&KeyView::from(key)))
            (Field::text("name", "Name").value(&key.name).required())
            (Field::text("scopes", "Scopes").value(&scopes).hint("separated by blanks"))
            (Field::text("addresses", "From these addresses only").value(&ranges).hint("separated by blanks; empty: from everywhere"))
            (Field::text("rate", "Rate of its own").value(&rate).hint("empty: its client's alone"))
            (Field::text("burst", "Burst").value(&burst).hint("empty: one second's worth"))
            button type="submit" { "Change it" }
        }
    }
}

fn rotate_form(api: &Api, key: &ApiKey) -> Markup {
    html! {
        form.stack method="post" action=(format!("/keys/{}/rotate", key.id)) {
            (number(api))
            p { "A new key takes its place, with the same rights; it is shown once." }
            (Field::text("grace", "The old one works for").value("24h").hint("0s revokes it at once"))
            button type="submit" { "Rotate it" }
        }
    }
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Form(input): Form<KeyForm>,
) -> Result<Response> {
    let key = found(&caller, Permission::WriteKeys, ApiKeyId(id)).await?;
    let key = IfMatch::of_form(input.tag)?.held::<KeyView, _>(key)?;
    let patch = KeyPatch {
        name: input.name,
        scopes: Some(words(input.scopes.as_deref()).unwrap_or_default()),
        rate: Some(read("Rate", input.rate.as_deref())?),
        burst: Some(read("Burst", input.burst.as_deref())?),
        allowed_addresses: Some(words(input.addresses.as_deref()).unwrap_or_default()),
        expires_at: None,
    };
    changed(&api, &caller, &key, patch).await?;
    Ok(done(&format!("/keys/{id}"), "key-changed"))
}

pub(super) async fn revoke(State(api): State<Arc<Api>>, caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    revoked(&api, &caller, ApiKeyId(id)).await?;
    Ok(done(&format!("/keys/{id}"), "key-revoked"))
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Form(input): Form<RotateForm>,
) -> Result<Response> {
    let rotation = RotateInput { grace: input.grace, expires_at: None };
    let rotating = rotated(&api, &caller, ApiKeyId(id), rotation);
    let made = once(&caller, input.once.as_deref(), "key.rotate", rotating).await?;
    shown_once(&caller, &made).await
}
