//! Plans: a list, and one with its policies.

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::read;
use super::frame::Page;
use super::parts::{Column, Field, address, code, facts, folded, link, next, or_dash, table, tag, time};
use super::{Done, done};
use crate::api::caller::Caller;
use crate::api::extract::{Form, IfMatch, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::v1::plans::{PlanInput, PlanPatch, PlanQuery, changed, found, listed, made};
use crate::api::views::PlanView;
use crate::model::operator::Permission;
use crate::model::plan::{Allowed, Plan, PlanPolicy, Policies, PolicyMode};
use crate::model::quota::Quota;
use crate::model::rate::{Rate, RateLimit};

#[derive(Default, Deserialize)]
pub(super) struct Asked {
    after: Option<Uuid>,
}

/// A plan as a form says it: one rate, one quota; or all its policies as JSON.
#[derive(Default, Deserialize)]
pub(super) struct PlanForm {
    /// Of what is shown; none: it shows a new one.
    tag: Option<String>,
    name: String,
    rate: Option<String>,
    burst: Option<String>,
    quota: Option<String>,
    concurrency: Option<String>,
    policies: Option<String>,
}

impl PlanForm {
    fn policies(&self) -> Result<Policies> {
        if let Some(text) = &self.policies {
            return serde_json::from_str(text).map_err(|error| Fault::bad_request(format!("Policies: {error}")));
        }
        let mut policies = Vec::new();
        if let Some(rate) = read::<Rate>("Rate", self.rate.as_deref())? {
            let allows = Allowed::Rate(RateLimit::new(rate, read("Burst", self.burst.as_deref())?));
            policies.push(PlanPolicy { name: self.name.clone(), allows, mode: PolicyMode::Enforce });
        }
        if let Some(quota) = read::<Quota>("Quota", self.quota.as_deref())? {
            let name = format!("{}.{}", self.name, quota.period.word());
            policies.push(PlanPolicy { name, allows: Allowed::Quota(quota), mode: PolicyMode::Enforce });
        }
        Policies::new(policies).map_err(|error| Fault::bad_request(error.to_string()))
    }
}

fn allows(policy: &PlanPolicy) -> String {
    match &policy.allows {
        Allowed::Rate(limit) => format!("{}, burst {}", limit.rate, limit.burst),
        Allowed::Quota(quota) => quota.to_string(),
    }
}

pub(super) async fn list(caller: Caller, Parameters(asked): Parameters<Asked>) -> Result<Response> {
    let query = PlanQuery { limit: Some(50), after: asked.after, name: None };
    let page = listed(&caller.store, &query).await?;
    let after =
        page.items.last().filter(|_| page.more).map(|plan| address("/plans", &[("after", &plan.id.to_string())]));
    let rows: Vec<_> = page
        .items
        .iter()
        .map(|plan| {
            vec![
                link(format!("/plans/{}", plan.id), &plan.name),
                html! { @for policy in plan.policies.iter() { div { (policy.name) ": " (allows(policy)) } } },
                or_dash(plan.concurrency.map(|most| most.to_string())),
                time(plan.created_at),
            ]
        })
        .collect();
    let columns = [Column::Text("Name"), Column::Wide("Allows"), Column::Number("At once"), Column::Text("Made")];
    let body = html! {
        (table("Plans", &columns, &rows))
        (next(after))
        @if caller.may(Permission::WritePlans) {
            h2 { "Make a plan" }
            (folded("New plan", &new_form()))
        }
    };
    Ok(Page::new("Plans", "/plans", body).for_caller(&caller))
}

fn new_form() -> Markup {
    html! {
        form.stack method="post" action="/plans/new" {
            (Field::text("name", "Name").required().hint("callers see it: letters, digits, . _ -"))
            (Field::text("rate", "Rate").hint("like 100/s; empty: none"))
            (Field::text("burst", "Burst").hint("empty: one second's worth"))
            (Field::text("quota", "Quota").hint("like 1000000/month; empty: none"))
            (Field::text("concurrency", "Requests at once, of each client").hint("empty: any number"))
            button type="submit" { "Make it" }
        }
    }
}

pub(super) async fn create(caller: Caller, Form(input): Form<PlanForm>) -> Result<Response> {
    let policies = input.policies()?;
    let concurrency = read("Requests at once", input.concurrency.as_deref())?;
    let plan = made(&caller.store, PlanInput { name: input.name, policies, concurrency }).await?;
    Ok(done(&format!("/plans/{}", plan.id), "plan-made"))
}

pub(super) async fn show(
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(said): Parameters<Done>,
) -> Result<Response> {
    let plan = found(&caller.store, id).await?;
    let rows: Vec<_> = plan
        .policies
        .iter()
        .map(|policy| vec![html! { (policy.name) }, html! { (allows(policy)) }, html! { (policy.mode.as_str()) }])
        .collect();
    let columns = [Column::Text("Policy"), Column::Text("Allows"), Column::Text("Mode")];
    let body = html! {
        (facts(&[
            ("Id", code(plan.id.to_string())),
            ("Requests at once", or_dash(plan.concurrency.map(|most| most.to_string()))),
            ("Made", time(plan.created_at)),
            ("Changed", time(plan.updated_at)),
        ]))
        h2 { "Policies" }
        (table("Policies", &columns, &rows))
        @if caller.may(Permission::WritePlans) {
            h2 { "Change" }
            (folded("Name, policies, requests at once", &change_form(&plan)))
        }
    };
    Ok(Page::new(plan.name.clone(), "/plans", body).telling(said.words()).for_caller(&caller))
}

fn change_form(plan: &Plan) -> Markup {
    let policies = serde_json::to_string_pretty(&plan.policies).unwrap_or_default();
    let most = plan.concurrency.map(|most| most.to_string()).unwrap_or_default();
    html! {
        form.stack method="post" action=(format!("/plans/{}/change", plan.id)) {
            (tag(&PlanView::from(plan)))
            (Field::text("name", "Name").value(&plan.name).required())
            div.field {
                label for="field-policies" { "Policies, as JSON" }
                textarea id="field-policies" name="policies" rows="10" aria-describedby="policies-hint" { (policies) }
                span.hint id="policies-hint" { "each has a name, a rate or a quota, and a mode: enforce or shadow" }
            }
            (Field::text("concurrency", "Requests at once, of each client").value(&most).hint("empty: any number"))
            button type="submit" { "Change it" }
        }
    }
}

pub(super) async fn change(caller: Caller, Named(id): Named<Uuid>, Form(input): Form<PlanForm>) -> Result<Response> {
    let plan = IfMatch::of_form(input.tag.clone())?.held::<PlanView, _>(found(&caller.store, id).await?)?;
    let patch = PlanPatch {
        policies: Some(input.policies()?),
        concurrency: Some(read("Requests at once", input.concurrency.as_deref())?),
        name: Some(input.name),
    };
    changed(&caller.store, &plan, patch).await?;
    Ok(done(&format!("/plans/{id}"), "plan-changed"))
}
