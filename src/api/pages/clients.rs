//! Clients: a list, and one with its usage against its quota, its keys, and what can be done to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::chart::{Bar, bars};
use super::frame::Page;
use super::parts::{
    Column, Field, address, badge, choice, code, confirmed, dash, facts, folded, link, next, number, or_dash, table,
    tag, time, time_or_dash,
};
use super::{Done, done, keys};
use crate::api::caller::Caller;
use crate::api::extract::{Form, Held, IfMatch, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::v1::clients::{ClientInput, ClientPatch, ClientQuery, changed, erased, found, listed, made};
use crate::api::v1::plans::{PlanQuery, listed as plans_listed};
use crate::api::v1::sums::{SumQuery, summed};
use crate::api::views::ClientView;
use crate::model::client::{Client, own_policy};
use crate::model::id::ClientId;
use crate::model::operator::Permission;
use crate::model::plan::{Allowed, Plan, PolicyMode};

#[derive(Default, Deserialize)]
pub(super) struct Asked {
    name: Option<String>,
    after: Option<Uuid>,
}

/// What a form says of a client; what is empty is not there.
#[derive(Default, Deserialize)]
pub(super) struct ClientForm {
    /// Of what is shown; none: it shows a new one.
    tag: Option<String>,
    name: String,
    rate: Option<String>,
    burst: Option<String>,
    plan: Option<Uuid>,
    quota: Option<String>,
    concurrency: Option<String>,
}

/// A field as the type it is for.
pub(super) fn read<T: std::str::FromStr>(label: &str, text: Option<&str>) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = text else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|error| Fault::bad_request(format!("{label}: {error}")))
}

pub(super) async fn list(caller: Caller, Parameters(asked): Parameters<Asked>) -> Result<Response> {
    let name = asked.name.filter(|name| !name.is_empty());
    let query = ClientQuery { limit: Some(50), after: asked.after, name: name.clone() };
    let page = listed(&caller, &query).await?;
    let after =
        page.items.last().filter(|_| page.more).map(|client| address("/clients", &[("after", &client.id.to_string())]));
    let rows: Vec<_> = page
        .items
        .iter()
        .map(|client| {
            vec![
                link(format!("/clients/{}", client.id), &client.name),
                state(client),
                or_dash(client.allowance.plan.as_ref().map(|plan| plan.name.clone())),
                or_dash(client.rate.map(|rate| rate.to_string())),
                or_dash(client.allowance.quota.as_ref().map(ToString::to_string)),
                time(client.created_at),
            ]
        })
        .collect();
    let columns = [
        Column::Wide("Name"),
        Column::Text("State"),
        Column::Text("Plan"),
        Column::Text("Own rate"),
        Column::Text("Own quota"),
        Column::Text("Made"),
    ];
    let plans = plans(&caller).await?;
    let body = html! {
        form.line method="get" action="/clients" {
            (Field::text("name", "Name").value(name.as_deref().unwrap_or_default()).hint("whole; without it, all"))
            button.plain type="submit" { "Find" }
        }
        (table("Clients", &columns, &rows))
        (next(after))
        @if caller.may(Permission::WriteClients) {
            h2 { "Make a client" }
            (folded("New client", &form("/clients/new", None, &plans, "Make it")))
        }
    };
    Ok(Page::new("Clients", "/clients", body).for_caller(&caller))
}

/// Plans to choose from, for whoever may see them.
async fn plans(caller: &Caller) -> Result<Vec<Plan>> {
    if !caller.may(Permission::ReadPlans) {
        return Ok(Vec::new());
    }
    let query = PlanQuery { limit: Some(1_000), ..PlanQuery::default() };
    Ok(plans_listed(&caller.store, &query).await?.items)
}

fn state(client: &Client) -> Markup {
    if client.is_suspended() { badge("bad", "suspended") } else { badge("good", "active") }
}

fn form(action: &str, client: Option<&Client>, plans: &[Plan], word: &str) -> Markup {
    let text = |value: Option<String>| value.unwrap_or_default();
    let name = client.map(|client| client.name.clone()).unwrap_or_default();
    let rate = text(client.and_then(|client| client.rate).map(|rate| rate.to_string()));
    let burst = text(client.and_then(|client| client.burst).map(|burst| burst.to_string()));
    let quota = text(client.and_then(|client| client.allowance.quota.as_ref()).map(ToString::to_string));
    let most = text(client.and_then(|client| client.allowance.concurrency).map(|most| most.to_string()));
    let plan = text(client.and_then(|client| client.plan_id).map(|id| id.to_string()));
    let ids: Vec<(String, String)> = plans.iter().map(|plan| (plan.id.to_string(), plan.name.clone())).collect();
    let options: Vec<(&str, &str)> =
        std::iter::once(("", "none")).chain(ids.iter().map(|(id, name)| (id.as_str(), name.as_str()))).collect();
    html! {
        form.stack method="post" action=(action) {
            @if let Some(client) = client { (tag(&ClientView::from(client))) }
            (Field::text("name", "Name").value(&name).required())
            (choice("plan", "Plan", &options, &plan))
            (Field::text("rate", "Rate of its own").value(&rate).hint("like 100/s; empty: its plan's, or the default"))
            (Field::text("burst", "Burst").value(&burst).hint("how much may be spent at once; empty: one second's worth"))
            (Field::text("quota", "Quota of its own").value(&quota).hint("like 1000000/month or 5000/day@Europe/Berlin"))
            (Field::text("concurrency", "Requests at once").value(&most).hint("empty: any number"))
            button type="submit" { (word) }
        }
    }
}

pub(super) async fn create(caller: Caller, Form(input): Form<ClientForm>) -> Result<Response> {
    let input = ClientInput {
        rate: read("Rate", input.rate.as_deref())?,
        burst: read("Burst", input.burst.as_deref())?,
        plan_id: input.plan,
        quota: read("Quota", input.quota.as_deref())?,
        concurrency: read("Requests at once", input.concurrency.as_deref())?,
        metadata: None,
        name: input.name,
    };
    let client = made(&caller.store, input).await?;
    Ok(done(&format!("/clients/{}", client.id), "client-made"))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(said): Parameters<Done>,
) -> Result<Response> {
    let client = found(&caller, Permission::ReadClients, ClientId(id)).await?;
    let id = client.id.to_string();
    let days = days(&api, &caller, client.id).await?;
    let quotas = quotas(&api, &caller, &client).await?;
    let working = keys::working(&api, &caller, client.id).await?;
    let plans = plans(&caller).await?;
    let erased = caller.store.erasure.erased_at(client.id).await?;
    let plan = client.allowance.plan.as_ref().map(|plan| {
        let may_see = caller.may(Permission::ReadPlans);
        if may_see {
            link(format!("/plans/{}", plan.id), &plan.name)
        } else {
            html! { (plan.name) }
        }
    });
    // A plan's rates take the place of the default.
    let by_plan = client.allowance.plan.as_ref().is_some_and(|plan| {
        plan.policies
            .iter()
            .any(|policy| matches!(policy.allows, Allowed::Rate(_)) && policy.mode == PolicyMode::Enforce)
    });
    let default = if by_plan { "by its plan".to_owned() } else { format!("default: {}", api.default_limit.rate) };
    let body = html! {
        (facts(&[
            ("State", state(&client)),
            ("Id", code(&id)),
            ("Plan", plan.unwrap_or_else(dash)),
            ("Rate", html! { (client.rate.map_or(default, |rate| rate.to_string())) }),
            ("Requests at once", or_dash(client.allowance.concurrency.map(|most| most.to_string()))),
            ("Metadata", html! { code { (client.metadata.to_string()) } }),
            ("Made", time(client.created_at)),
            ("Changed", time(client.updated_at)),
        ]))
        h2 { "Usage" }
        (quotas)
        (bars("Requests in the last 30 days", &days))
        p {
            (link(address("/usage", &[("client", &id), ("by", "day")]), "Explore")) " · "
            (link(address("/events", &[("client", &id)]), "Single events")) " · "
            (link(address("/refusals", &[("client", &id)]), "Recent refusals"))
            @if caller.may(Permission::ReadAudit) { " · " (link(address("/audit", &[("client", &id)]), "Audit")) }
        }
        h2 { "Keys" }
        (working)
        @if caller.may(Permission::WriteKeys) { (folded("New key", &keys::form(&api, &client.id.to_string()))) }
        @if caller.may(Permission::WriteClients) {
            h2 { "Change" }
            (folded("Name, plan and limits", &form(&format!("/clients/{id}/change"), Some(&client), &plans, "Change it")))
            @if let Some(at) = erased {
                p.soft { "Erased " (time(at)) ": it is suspended for good." }
            } @else if client.is_suspended() {
                form.actions method="post" action=(format!("/clients/{id}/resume")) { button type="submit" { "Resume" } }
            } @else {
                (confirmed(&format!("/clients/{id}/suspend"), "Suspend", "All its calls are refused until it is resumed."))
            }
        }
        @if caller.may(Permission::EraseClients) {
            (confirmed(&format!("/clients/{id}/erase"), "Erase",
                "Its name, metadata and keys go for good, here and in the audit. What it used stays billed. Nothing brings it back."))
        }
    };
    Ok(Page::new(client.name.clone(), "/clients", body).telling(said.words()).for_caller(&caller))
}

/// The days that a client's page shows.
const DAYS: i64 = 30;

async fn days(api: &Api, caller: &Caller, client: ClientId) -> Result<Vec<Bar>> {
    let now = api.clock.wall();
    let ago = |days| now.checked_sub(SignedDuration::from_hours(24 * days)).unwrap_or_default();
    let query = SumQuery {
        client: Some(client.0),
        // The day itself and not so long ago: the first bar is of a whole day, too.
        from: Some(ago(DAYS - 1).strftime("%Y-%m-%d").to_string()),
        by: Some("day".to_owned()),
        ..SumQuery::default()
    };
    let summed = summed(api, caller, &query).await?;
    let mut found = Vec::new();
    for back in (0..DAYS).rev() {
        let at = ago(back);
        let day = at.strftime("%Y-%m-%d").to_string();
        let sum = summed.rows.iter().find(|row| row.by.first().is_some_and(|by| by.starts_with(&day)));
        let (requests, rejected) = sum.map_or((0, 0), |sum| (sum.requests, sum.rejected));
        found.push(Bar { label: at.strftime("%d %b").to_string(), requests, rejected });
    }
    Ok(found)
}

/// What is used of each quota, by the ledger.
async fn quotas(api: &Api, caller: &Caller, client: &Client) -> Result<Markup> {
    let now: Timestamp = api.clock.wall();
    let mut parts = Vec::new();
    for (policy, quota) in client.enforced_quotas() {
        let name = if policy == own_policy(quota) { "its own" } else { &policy };
        let window = quota.period.window(now);
        let used = u64::try_from(caller.store.quotas.units(client.id, window).await?).unwrap_or(0);
        let most = quota.units.get();
        let id = format!("quota-{}", parts.len());
        parts.push(html! {
            div.card {
                label for=(id) { "Quota " (name) " (" (quota) "): " (number(used)) " of " (number(most)) " units used" }
                meter id=(id) min="0" max=(most) high=(most / 5 * 4) value=(used.min(most)) { (used) " of " (most) }
                p.soft { "Until " (time(window.end)) }
            }
        });
    }
    Ok(html! { @for part in parts { (part) } })
}

pub(super) async fn change(caller: Caller, Named(id): Named<Uuid>, Form(input): Form<ClientForm>) -> Result<Response> {
    let client = found(&caller, Permission::WriteClients, ClientId(id)).await?;
    let client = IfMatch::of_form(input.tag)?.held::<ClientView, _>(client)?;
    let patch = ClientPatch {
        rate: Some(read("Rate", input.rate.as_deref())?),
        burst: Some(read("Burst", input.burst.as_deref())?),
        plan_id: Some(input.plan),
        quota: Some(read("Quota", input.quota.as_deref())?),
        concurrency: Some(read("Requests at once", input.concurrency.as_deref())?),
        name: Some(input.name),
        ..ClientPatch::default()
    };
    changed(&caller.store, &client, patch).await?;
    Ok(done(&format!("/clients/{id}"), "client-changed"))
}

pub(super) async fn suspend(caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    set_status(&caller, id, "suspended", "suspended").await
}

pub(super) async fn resume(caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    set_status(&caller, id, "active", "resumed").await
}

async fn set_status(caller: &Caller, id: Uuid, status: &str, deed: &'static str) -> Result<Response> {
    let client = Held::anyhow(found(caller, Permission::WriteClients, ClientId(id)).await?);
    let patch = ClientPatch { status: Some(status.to_owned()), ..ClientPatch::default() };
    changed(&caller.store, &client, patch).await?;
    Ok(done(&format!("/clients/{id}"), deed))
}

pub(super) async fn erase(State(api): State<Arc<Api>>, caller: Caller, Named(id): Named<Uuid>) -> Result<Response> {
    erased(&api, &caller, ClientId(id)).await?;
    Ok(done(&format!("/clients/{id}"), "erased"))
}

/// The names of clients, for pages that have their ids; none for those that are gone.
pub(super) async fn names_of(caller: &Caller, ids: impl Iterator<Item = Uuid>) -> Result<HashMap<Uuid, String>> {
    let ids: BTreeSet<Uuid> = ids.filter(|id| !id.is_nil()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<ClientId> = ids.into_iter().map(ClientId).collect();
    let found = caller.store.clients.find_many(&ids).await?;
    Ok(found.into_iter().map(|client| (client.id.0, client.name)).collect())
}

/// A client as a link by its name, as [`names_of`] told it; by its id where there is none.
pub(super) fn named_link(names: &HashMap<Uuid, String>, id: Option<Uuid>) -> Markup {
    let name = id.map(|id| names.get(&id).cloned().unwrap_or_else(|| id.to_string()));
    client_link(id, name.as_deref().unwrap_or_default())
}

/// The name of a client, for pages that have its id; the id where there is none.
pub(super) async fn name_of(caller: &Caller, id: Uuid) -> Result<String> {
    let found = caller.store.clients.find(ClientId(id)).await?;
    Ok(found.map_or_else(|| id.to_string(), |client| client.name))
}

/// A client by its name, as a link; nobody is nobody.
pub(super) fn client_link(id: Option<Uuid>, name: &str) -> Markup {
    match id.filter(|id| !id.is_nil()) {
        Some(id) => link(format!("/clients/{id}"), name),
        None => dash(),
    }
}

/// When, or never.
pub(super) fn ends(at: Option<Timestamp>) -> Markup {
    at.map_or_else(|| html! { span.soft { "never" } }, |at| time_or_dash(Some(at)))
}
