//! Why a request was refused, or would be: recent refusals, the story of one request, and questions.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::{client_link, name_of, named_link, names_of, read};
use super::frame::Page;
use super::parts::{
    Column, Field, address, badge, bytes, code, dash, facts, link, number, or_dash, seconds, table, time,
};
use super::usage::outcome;
use crate::api::caller::Caller;
use crate::api::extract::{Form, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::v1::explain::{ExplainInput, RefusalView, RefusalsQuery, explained, refusals_listed, story};
use crate::api::views::EventView;
use crate::model::explanation::{Explanation, Finding};
use crate::model::operator::Permission;

/// Which refusals, as the form says it.
#[derive(Default, Deserialize)]
pub(super) struct AskedRefusals {
    client: Option<String>,
    code: Option<String>,
}

pub(super) async fn refusals(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<AskedRefusals>,
) -> Result<Response> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let query = RefusalsQuery {
        client: read("Client", filled(&asked.client).as_deref())?,
        code: filled(&asked.code),
        limit: Some(200),
    };
    let found = refusals_listed(&api, &caller, &query)?;
    let names = names_of(&caller, found.iter().filter_map(|refusal| refusal.client_id)).await?;
    let rows: Vec<_> = found.iter().map(|refusal| refusal_row(&caller, &names, refusal)).collect();
    let columns = [
        Column::Text("When"),
        Column::Text("Client"),
        Column::Text("Request"),
        Column::Text("Told"),
        Column::Wide("In truth"),
        Column::Text("From"),
        Column::Text("Story"),
    ];
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let body = html! {
        p { "What this process refused lately, with the true reason: callers are told less. It is kept in memory only." }
        form.line method="get" action="/refusals" {
            (Field::text("client", "Client").value(&text(&asked.client)).hint("its id; empty: all"))
            (Field::text("code", "Code").value(&text(&asked.code)).hint("like invalid_credentials"))
            button type="submit" { "Show" }
        }
        div id="list" data-live { (table("Recent refusals, the latest first", &columns, &rows)) }
    };
    Ok(Page { refresh: Some(5), ..Page::new("Refusals", "/refusals", body) }.for_caller(&caller))
}

fn refusal_row(caller: &Caller, names: &HashMap<Uuid, String>, refusal: &RefusalView) -> Vec<Markup> {
    let may_ask = caller.may(Permission::Explain);
    let story = if may_ask { link(format!("/requests/{}", refusal.request_id), "Why?") } else { dash() };
    vec![
        time(refusal.at),
        named_link(names, refusal.client_id),
        html! { (refusal.method) " " code { (refusal.path) } },
        html! { (refusal.status) " " (refusal.code) },
        html! { (refusal.reason) },
        html! { (refusal.address) },
        story,
    ]
}

/// A question, as the form asks it, or a link.
#[derive(Default, Deserialize)]
pub(super) struct Question {
    method: Option<String>,
    url: Option<String>,
    key_id: Option<String>,
    /// By the form only: what stands in an address is remembered by browsers.
    token: Option<String>,
    address: Option<String>,
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<Question>,
) -> Result<Response> {
    if asked.token.is_some() {
        return Err(Fault::bad_request("a token does not belong into an address: put it into the form"));
    }
    answered(&api, &caller, asked).await
}

pub(super) async fn ask(State(api): State<Arc<Api>>, caller: Caller, Form(asked): Form<Question>) -> Result<Response> {
    answered(&api, &caller, asked).await
}

async fn answered(api: &Api, caller: &Caller, asked: Question) -> Result<Response> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let answer = match filled(&asked.url) {
        None => None,
        Some(url) => {
            let input = ExplainInput {
                method: filled(&asked.method).unwrap_or_else(|| "GET".to_owned()),
                url,
                key_id: filled(&asked.key_id),
                token: filled(&asked.token).map(|token| token.trim().to_owned()),
                address: filled(&asked.address),
            };
            Some(explained(api, caller, input).await?)
        }
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let body = html! {
        p { "What would become of a request, step by step, without sending it." }
        form.line method="post" action="/explain" {
            (Field::text("method", "Method").value(asked.method.as_deref().unwrap_or("GET")))
            (Field::text("url", "URL or path").value(&text(&asked.url)).required().hint("like https://api.example.com/orders"))
            (Field::text("key_id", "Key id").value(&text(&asked.key_id)).hint("never the key itself; empty: no key"))
            (Field::hidden_text("token", "Token").hint("a JWT in place of a key: judged, and written nowhere"))
            (Field::text("address", "From").value(&text(&asked.address)).hint("an IP address; may be empty"))
            button type="submit" { "Explain" }
        }
        @if let Some(answer) = &answer { (told(answer)) }
    };
    Ok(Page::new("Explain", "/explain", body).for_caller(caller))
}

/// An explanation.
fn told(answer: &Explanation) -> Markup {
    let refused = answer.code.is_some();
    html! {
        section aria-label="Answer" {
            p.card.told[!refused].fault[refused] role="status" { strong { (answer.verdict) } }
            ol.steps.card {
                @for step in &answer.steps {
                    li {
                        strong { (step.step) }
                        (badge(match step.finding { Finding::Passes => "good", Finding::Refuses => "bad", Finding::Notes => "warn" }, step.finding.as_str()))
                        span { (step.detail) }
                        @if let Some(setting) = &step.setting {
                            span.by.soft {
                                code { (setting.path) @if !setting.value.is_empty() { " = " (setting.value) } }
                                @match &setting.written_at { Some(place) => { " at " code { (place) } } None => { " (not written: the default)" } }
                            }
                        }
                    }
                }
            }
            @if !answer.limits.is_empty() {
                @let rows = answer.limits.iter().map(|limit| vec![
                    html! { (limit.policy) }, html! { (limit.allows) }, html! { (number(limit.left)) }, html! { (limit.resets_in) " s" },
                ]).collect::<Vec<_>>();
                (table("Limits as they stand", &[Column::Text("Policy"), Column::Text("Allows"), Column::Number("Left"), Column::Number("Whole in")], &rows))
            }
            @if !answer.endpoints.is_empty() {
                @let rows = answer.endpoints.iter().map(|endpoint| vec![
                    code(&endpoint.endpoint),
                    if endpoint.available { badge("good", "gets requests") } else { badge("bad", "out") },
                    html! { (number(endpoint.open)) },
                ]).collect::<Vec<_>>();
                (table("Endpoints", &[Column::Text("Endpoint"), Column::Text("State"), Column::Number("Open")], &rows))
            }
        }
    }
}

pub(super) async fn request(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(request_id): Named<String>,
) -> Result<Response> {
    let story = story(&api, &caller, &request_id).await?;
    let body = html! {
        @if let Some(refusal) = &story.refusal { (refused(&caller, refusal).await?) }
        @if let Some(event) = &story.event { (metered(&api, &caller, event).await?) }
        @if let Some(now) = &story.now {
            h2 { "What would become of it now" }
            (told(now))
        }
    };
    Ok(Page::new(format!("Request {request_id}"), "/events", body).for_caller(&caller))
}

async fn refused(caller: &Caller, refusal: &RefusalView) -> Result<Markup> {
    let client = match refusal.client_id {
        Some(id) => client_link(Some(id), &name_of(caller, id).await?),
        None => dash(),
    };
    Ok(html! {
        p.card.fault { "It was refused: the caller was told " strong { (refusal.status) " " (refusal.code) } "." }
        (facts(&[
            ("In truth", html! { (refusal.reason) }),
            ("When", time(refusal.at)),
            ("Request", html! { (refusal.method) " " code { (refusal.path) } }),
            ("Route", or_dash(refusal.route.as_ref())),
            ("Client", client),
            ("Key", refusal.api_key_id.map_or_else(dash, |id| link(format!("/keys/{id}"), id.to_string()))),
            ("From", html! { (refusal.address) }),
            ("Limits", or_dash(refusal.limit_policies.as_ref().map(code))),
            ("Left of them", or_dash(refusal.limit_levels.as_ref().map(code))),
            ("Told to wait", or_dash(refusal.retry_after.map(|seconds| format!("{seconds} s")))),
        ]))
    })
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
async fn metered(api: &Api, caller: &Caller, event: &EventView) -> Result<Markup> {
    let name = name_of(caller, event.client_id).await?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    let setting = api.gateway.setting_of_route(&event.route);
    Ok(html! {
        p.card.told { "It was admitted, and is on the bill with " strong { (number(count(event.units))) " units" } "." }
        (facts(&[
            ("Outcome", outcome(&event.outcome)),
            ("Reason", or_dash(event.reason.as_ref())),
            ("Status", or_dash(event.status.map(|status| status.to_string()))),
            ("When", time(event.occurred_at)),
            ("Took", html! { (seconds(event.duration_us as f64 / 1_000_000.0)) }),
            ("Method", html! { (event.method) }),
            ("Route", html! { (event.route) @if let Some(place) = setting.and_then(|setting| setting.written_at) { " at " code { (place) } } }),
            ("Client", client_link(Some(event.client_id), &name)),
            ("Key", event.api_key_id.map_or_else(dash, |id| link(format!("/keys/{id}"), id.to_string()))),
            ("Bytes in", html! { (bytes(count(event.bytes_in))) }),
            ("Bytes out", html! { (bytes(count(event.bytes_out))) }),
            ("Node", html! { (event.node) }),
            ("Kind", html! { (event.kind) }),
            ("Request id", code(&event.request_id)),
            ("Event", code(event.id.to_string())),
        ]))
        p { (link(address("/events", &[("client", &event.client_id.to_string())]), "Other events of the client")) }
    })
}
