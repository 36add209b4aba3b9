//! What is done with the books as a whole, as by the command line: compared, made anew, sent again,
//! signed, and asked again under another plan.
//!
//! It may take minutes: books are read one after the other (`Api::books`), for so long at most, and
//! never more of them than a year.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::sync::MutexGuard;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::usage::month_of;
use super::{Problems, clients, moment, plans};
use crate::api::caller::Caller;
use crate::api::extract::{Body, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::issuer::{SignedStatement, StatementFault};
use crate::limit::{self, ReplayReport, Trial};
use crate::metering::{self, Comparison, Reconciliation, Redrained, Scope};
use crate::model::id::ClientId;
use crate::model::operator::Permission;

/// The longest span that is read at once.
const DAYS: i64 = 366;

/// How long reading may take: less than a connection lives.
const PATIENCE: Duration = Duration::from_mins(10);

/// Which books.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ReconcileQuery {
    /// Only this client's.
    client: Option<Uuid>,
    /// From this hour on: RFC 3339, a day (UTC) or how long ago, like `-24h`; the month's start without it.
    from: Option<String>,
    /// Up to this time, not including it; its hour is taken whole; the current one without it. At most 366
    /// days after `from`.
    to: Option<String>,
}

/// Which sums.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RebuildInput {
    /// From this hour on: RFC 3339, a day (UTC) or how long ago, like `-24h`; the month's start without it.
    from: Option<String>,
    /// Up to this time, not including it; its hour is taken whole; the current one without it. At most 366
    /// days after `from`.
    to: Option<String>,
}

/// Which requests.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ReplayQuery {
    /// Whose.
    client: Uuid,
    /// Those that arrived from then on: RFC 3339, a day (UTC) or how long ago; a day without it.
    from: Option<String>,
    /// And before then; now without it. At most 366 days after `from`.
    to: Option<String>,
}

/// Compare journal, events and sums: the journals of the machine of the process that answers, and the
/// store. Books that differ are a 200 with `equal: false`.
#[utoipa::path(get, path = "/v1/usage/reconcile", tag = "usage", params(ReconcileQuery),
    responses((status = 200, body = Reconciliation), Problems))]
pub(in crate::api) async fn reconcile(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<ReconcileQuery>,
) -> Result<Json<Reconciliation>> {
    let client = match query.client {
        Some(id) => Some(clients::found(&caller, Permission::ReadUsage, ClientId(id)).await?.id),
        None => None,
    };
    let scope = scope(&api, query.from.as_deref(), query.to.as_deref(), client)?;
    let comparison = in_turn(&api, Comparison::of(&caller.store, &api.journals, scope)).await?.0?;
    Ok(Json(comparison.report()))
}

/// Make the sums of hours that differ anew from their events, in one transaction, and compare again.
/// Hours whose events are deleted, and those of closed months, stay as they are: 409.
#[utoipa::path(post, path = "/v1/usage/reconcile", tag = "usage", request_body = RebuildInput,
    responses((status = 200, body = Reconciliation), Problems))]
pub(in crate::api) async fn rebuild(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(input): Body<RebuildInput>,
) -> Result<Json<Reconciliation>> {
    let scope = scope(&api, input.from.as_deref(), input.to.as_deref(), None)?;
    let (comparison, _turn) = in_turn(&api, Comparison::of(&caller.store, &api.journals, scope)).await?;
    let mut comparison = comparison?;
    // Reading may be given up; what changes something is finished.
    comparison.rebuild().await?;
    Ok(Json(comparison.report()))
}

/// Send everything again that the machine of the process that answers still has: heals a store that lost
/// commits. What the store has is not summed twice.
#[utoipa::path(post, path = "/v1/usage/redrain", tag = "usage",
    responses((status = 200, body = Redrained), Problems))]
pub(in crate::api) async fn redrain(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<Redrained>> {
    let busy = |_| Fault::conflict("what this machine has is being sent again already: wait for that to end");
    let _turn = api.redraining.try_lock().map_err(busy)?;
    Ok(Json(metering::redrain(&api.journals, &caller.store).await?))
}

/// What a client used in a closed month, signed: the client can prove it, and nobody can change it.
#[utoipa::path(get, path = "/v1/usage/months/{month}/statements/{client}", tag = "usage",
    params(("month" = String, Path), ("client" = Uuid, Path)),
    responses((status = 200, body = SignedStatement), Problems))]
pub(in crate::api) async fn signed_statement(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named((month, client)): Named<(String, Uuid)>,
) -> Result<Json<SignedStatement>> {
    let month = month_of(&month)?;
    let client = clients::found(&caller, Permission::ReadUsage, ClientId(client)).await?;
    let signatory = api.issuer.as_ref().ok_or(StatementFault::NoKey)?.signatory()?;
    Ok(Json(signatory.sign(caller.store.months.as_ref(), &client, month).await?))
}

/// What a plan would have refused of what a client has done. Nobody has to be on it.
#[utoipa::path(get, path = "/v1/plans/{id}/replay", tag = "plans", params(("id" = Uuid, Path), ReplayQuery),
    responses((status = 200, body = ReplayReport), Problems))]
pub(in crate::api) async fn replay(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(query): Parameters<ReplayQuery>,
) -> Result<Json<ReplayReport>> {
    let now = api.clock.wall();
    let day_ago = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
    let from = moment("from", query.from.as_deref(), now)?.unwrap_or(day_ago);
    let to = moment("to", query.to.as_deref(), now)?.unwrap_or(now);
    check_span(from, to)?;
    let plan = plans::found(&caller.store, id).await?;
    let client = clients::found(&caller, Permission::ReadUsage, ClientId(query.client)).await?;
    let trial = Trial { client, plan, by_cost: api.rates_by_cost, from, to };
    let report = in_turn(&api, limit::replay(&caller.store, trial)).await?.0?;
    Ok(Json(report))
}

/// The hours that are asked for.
fn scope(api: &Api, from: Option<&str>, to: Option<&str>, client: Option<ClientId>) -> Result<Scope> {
    let now = api.clock.wall();
    let scope = Scope::of(moment("from", from, now)?, moment("to", to, now)?, client, now);
    check_span(scope.from, scope.to)?;
    Ok(scope)
}

/// That there is something between these, and no more than is read at once.
fn check_span(from: Timestamp, to: Timestamp) -> Result<()> {
    if from >= to {
        return Err(Fault::bad_request(format!("`from` ({from}) does not lie before `to` ({to})")));
    }
    if to.duration_since(from) > SignedDuration::from_hours(DAYS * 24) {
        let detail = format!("{from} to {to} is more than {DAYS} days: ask for fewer at once by `from` and `to`");
        return Err(Fault::bad_request(detail));
    }
    Ok(())
}

/// Reads when nobody else does, and not for ever; what was read, and the turn, which lasts as long as it
/// is held.
async fn in_turn<T>(api: &Api, reading: impl Future<Output = T>) -> Result<(T, MutexGuard<'_, ()>)> {
    let reading = async {
        let turn = api.books.lock().await;
        (reading.await, turn)
    };
    let late = |_| {
        let minutes = PATIENCE.as_secs() / 60;
        let detail = format!("not done in {minutes} minutes, others' turns included: ask for less by `from` and `to`");
        Fault::bad_request(detail)
    };
    tokio::time::timeout(PATIENCE, reading).await.map_err(late)
}
