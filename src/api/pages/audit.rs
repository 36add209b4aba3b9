//! The audit: who changed what.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::read;
use super::frame::Page;
use super::parts::{Column, Field, address, next, or_dash, table, time};
use crate::api::caller::Caller;
use crate::api::extract::Parameters;
use crate::api::fault::Result;
use crate::api::state::Api;
use crate::api::v1::audit::{AuditQuery, listed};
use crate::model::audit::{AuditEntry, Changes};

/// Which rows, as the form says it.
#[derive(Default, Deserialize)]
pub(super) struct Asked {
    client: Option<String>,
    actor: Option<String>,
    action: Option<String>,
    from: Option<String>,
    after: Option<Uuid>,
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let query = AuditQuery {
        client: read("Client", filled(&asked.client).as_deref())?,
        actor: filled(&asked.actor),
        action: filled(&asked.action),
        from: filled(&asked.from),
        limit: Some(100),
        after: asked.after,
        ..AuditQuery::default()
    };
    let page = listed(&api, &caller, &query).await?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let onwards = page.items.last().filter(|_| page.more).map(|last| {
        address(
            "/audit",
            &[
                ("client", &text(&asked.client)),
                ("actor", &text(&asked.actor)),
                ("action", &text(&asked.action)),
                ("from", &text(&asked.from)),
                ("after", &last.id.to_string()),
            ],
        )
    });
    let rows: Vec<_> = page
        .items
        .iter()
        .map(|entry| {
            vec![
                time(entry.occurred_at),
                html! { (entry.actor_name) " " span.soft { "(" (entry.actor_kind.as_str()) ")" } },
                or_dash(entry.address.map(|address| address.to_string())),
                html! { (entry.action) },
                subject(entry),
                changes(entry),
            ]
        })
        .collect();
    let columns = [
        Column::Text("When"),
        Column::Text("Who"),
        Column::Text("From"),
        Column::Text("Did"),
        Column::Text("To"),
        Column::Wide("What changed"),
    ];
    let body = html! {
        form.line method="get" action="/audit" {
            (Field::text("client", "Client").value(&text(&asked.client)).hint("its id"))
            (Field::text("actor", "Who").value(&text(&asked.actor)).hint("a name or an id"))
            (Field::text("action", "Action").value(&text(&asked.action)).hint("key.revoke, or key. for all of keys"))
            (Field::text("from", "From").value(&text(&asked.from)).hint("like -7d"))
            button type="submit" { "Show" }
        }
        (table("Changes, the latest first", &columns, &rows))
        (next(onwards))
    };
    Ok(Page::new("Audit", "/audit", body).for_caller(&caller))
}

fn subject(entry: &AuditEntry) -> Markup {
    let place = match entry.subject_kind.as_str() {
        "client" => Some("clients"),
        "key" => Some("keys"),
        "plan" => Some("plans"),
        _ => None,
    };
    let is_id = entry.subject_id.parse::<Uuid>().is_ok();
    let shown = entry.subject_id.get(..8).unwrap_or(&entry.subject_id);
    html! {
        (entry.subject_kind) " "
        @match place.filter(|_| is_id) {
            Some(place) => { a href=(format!("/{place}/{}", entry.subject_id)) { (shown) "…" } }
            None => { @if is_id { (shown) "…" } @else { (entry.subject_id) } }
        }
    }
}

/// The members that are not what they were.
fn changes(entry: &AuditEntry) -> Markup {
    match entry.changes() {
        Changes::Whole(name) => html! { (name) },
        Changes::Members(members) => html! {
            @for member in members { div { (member.name) ": " (member.before) " → " (member.after) } }
        },
    }
}
