//! `/v1/plans`, and the marks that clients reached of their quotas.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::clients::present;
use super::{Problems, moment};
use crate::api::caller::Caller;
use crate::api::extract::{Body, Held, IfMatch, Named, Parameters, Tagged};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{Listed, PlanView};
use crate::model::id::ClientId;
use crate::model::operator::Permission;
use crate::model::plan::{NewPlan, Plan, PlanChange, Policies, QuotaMark, check_name};
use crate::store::plans::MarkPlace;
use crate::store::{Page, Store};

/// Which plans.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PlanQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
    /// Only the one of this name.
    pub(in crate::api) name: Option<String>,
}

/// A policy of a plan: a rate, or a quota.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `model::plan` reads")]
pub(in crate::api) struct PolicyInput {
    /// What callers see: letters, digits, `.`, `_`, `-`.
    #[schema(min_length = 1, max_length = 40, pattern = "^[A-Za-z0-9._-]+$")]
    name: String,
    /// Like `100/s`.
    #[schema(pattern = "^[1-9][0-9]{0,8}/[smhd]$")]
    rate: Option<String>,
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    burst: Option<u32>,
    /// Like `1000000/month` or `5000/day@Europe/Berlin`.
    #[schema(pattern = "^[1-9][0-9]{0,14}/(day|month)$")]
    quota: Option<String>,
    /// `enforce`, or `shadow`: counted, and refuses nothing.
    #[schema(pattern = "^(enforce|shadow)$")]
    mode: Option<String>,
}

/// A plan that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PlanInput {
    /// Unique: letters, digits, `.`, `_`, `-`.
    #[schema(min_length = 1, max_length = 40, pattern = "^[A-Za-z0-9._-]+$")]
    pub(in crate::api) name: String,
    #[serde(default)]
    #[schema(value_type = Vec<PolicyInput>)]
    pub(in crate::api) policies: Policies,
    /// How many requests each of its clients may have open at once.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub(in crate::api) concurrency: Option<NonZeroU32>,
}

/// What is to be changed: members that are left out stay, null takes away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PlanPatch {
    #[serde(default)]
    #[schema(min_length = 1, max_length = 40, pattern = "^[A-Za-z0-9._-]+$")]
    pub(in crate::api) name: Option<String>,
    /// All of them.
    #[serde(default)]
    #[schema(value_type = Option<Vec<PolicyInput>>)]
    pub(in crate::api) policies: Option<Policies>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub(in crate::api) concurrency: Option<Option<NonZeroU32>>,
}

/// Which marks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct MarkQuery {
    /// Only this client's.
    client: Option<Uuid>,
    /// Reached from then on: RFC 3339, a day (UTC) or how long ago, like `-24h`; 31 days without it.
    from: Option<String>,
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    after: Option<String>,
}

/// A client reached 80 or 100 percent of a quota.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MarkView {
    pub(in crate::api) client_id: Uuid,
    pub(in crate::api) policy: String,
    pub(in crate::api) window_start: Timestamp,
    pub(in crate::api) window_end: Timestamp,
    pub(in crate::api) percent: u32,
    pub(in crate::api) quota: u64,
    pub(in crate::api) used: u64,
    pub(in crate::api) mode: &'static str,
    pub(in crate::api) reached_at: Timestamp,
}

impl From<&QuotaMark> for MarkView {
    fn from(mark: &QuotaMark) -> Self {
        Self {
            client_id: mark.client_id.0,
            policy: mark.policy.clone(),
            window_start: mark.window_start,
            window_end: mark.window_end,
            percent: u32::from(mark.percent),
            quota: mark.quota,
            used: mark.used,
            mode: mark.mode.as_str(),
            reached_at: mark.reached_at,
        }
    }
}

/// List plans, oldest first.
#[utoipa::path(get, path = "/v1/plans", tag = "plans", params(PlanQuery),
    responses((status = 200, body = Listed<PlanView>), Problems))]
pub(in crate::api) async fn list(
    caller: Caller,
    Parameters(query): Parameters<PlanQuery>,
) -> Result<Json<Listed<PlanView>>> {
    let page = listed(&caller.store, &query).await?;
    Ok(Json(Listed::of(&page, |plan| plan.id.to_string(), |plan| PlanView::from(plan))))
}

/// The plans that are asked for.
pub(in crate::api) async fn listed(store: &Store, query: &PlanQuery) -> Result<Page<Plan>> {
    if let Some(name) = &query.name {
        return Ok(Page { items: store.plans.find_by_name(name).await?.into_iter().collect(), more: false });
    }
    if let Some(after) = query.after
        && store.plans.find(after).await?.is_none()
    {
        return Err(super::no_cursor(after));
    }
    Ok(store.plans.list(query.after, super::limit(query.limit)?).await?)
}

/// Make a plan.
#[utoipa::path(post, path = "/v1/plans", tag = "plans", request_body = PlanInput,
    responses((status = 201, body = PlanView), Problems))]
pub(in crate::api) async fn create(
    caller: Caller,
    Body(input): Body<PlanInput>,
) -> Result<(StatusCode, Tagged<PlanView>)> {
    Ok((StatusCode::CREATED, Tagged(PlanView::from(&made(&caller.store, input).await?))))
}

/// Makes a plan.
pub(in crate::api) async fn made(store: &Store, input: PlanInput) -> Result<Plan> {
    check_name(&input.name).map_err(|error| Fault::bad_request(error.to_string()))?;
    let new = NewPlan { name: input.name, policies: input.policies, concurrency: input.concurrency };
    Ok(store.plans.create(new).await?)
}

/// Show a plan.
#[utoipa::path(get, path = "/v1/plans/{id}", tag = "plans", params(("id" = Uuid, Path)),
    responses((status = 200, body = PlanView), Problems))]
pub(in crate::api) async fn show(caller: Caller, Named(id): Named<Uuid>) -> Result<Tagged<PlanView>> {
    Ok(Tagged(PlanView::from(&found(&caller.store, id).await?)))
}

/// The plan.
pub(in crate::api) async fn found(store: &Store, id: Uuid) -> Result<Plan> {
    store.plans.find(id).await?.ok_or_else(|| Fault::not_found(format!("there is no plan {id}")))
}

/// Change a plan; its clients are under the new limits within a second. With `If-Match`, only if it is
/// still as it was read.
#[utoipa::path(patch, path = "/v1/plans/{id}", tag = "plans", request_body = PlanPatch,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = PlanView), Problems))]
pub(in crate::api) async fn update(
    caller: Caller,
    Named(id): Named<Uuid>,
    condition: IfMatch,
    Body(patch): Body<PlanPatch>,
) -> Result<Tagged<PlanView>> {
    let plan = condition.held::<PlanView, _>(found(&caller.store, id).await?)?;
    Ok(Tagged(PlanView::from(&changed(&caller.store, &plan, patch).await?)))
}

/// Changes a plan.
pub(in crate::api) async fn changed(store: &Store, held: &Held<Plan>, patch: PlanPatch) -> Result<Plan> {
    let id = held.row.id;
    patch.name.as_deref().map(check_name).transpose().map_err(|error| Fault::bad_request(error.to_string()))?;
    let only_if = held.only_if();
    let change = PlanChange { name: patch.name, policies: patch.policies, concurrency: patch.concurrency, only_if };
    store.plans.update(id, change).await?.ok_or_else(|| Fault::not_found(format!("there is no plan {id}")))
}

/// Who reached 80 or 100 percent of a quota, the latest first.
#[utoipa::path(get, path = "/v1/quota-marks", tag = "plans", params(MarkQuery),
    responses((status = 200, body = Listed<MarkView>), Problems))]
pub(in crate::api) async fn marks(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<MarkQuery>,
) -> Result<Json<Listed<MarkView>>> {
    let client = caller.confined_to(Permission::ReadUsage, query.client.map(ClientId))?;
    let now = api.clock.wall();
    let month_ago = now.checked_sub(SignedDuration::from_hours(31 * 24)).unwrap_or(now);
    let since = moment("from", query.from.as_deref(), now)?.unwrap_or(month_ago);
    let after = query.after.map(|text| text.parse::<MarkPlace>()).transpose();
    let after = after.map_err(|error| Fault::bad_request(format!("`after`: {error}")))?;
    let limit = super::limit(query.limit)?;
    let mut found = caller.store.quotas.marks(client, since, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|mark| MarkPlace::from(mark).to_string());
    Ok(Json(Listed { items: found.iter().map(MarkView::from).collect(), next }))
}
