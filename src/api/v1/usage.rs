//! `/v1/usage/…`: single events, closed months. Sums are in `sums`; what is done with the books as a
//! whole is in `books`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

pub(in crate::api) use super::sums::AmountsView;
use super::{Problems, moment};
use crate::api::caller::Caller;
use crate::api::extract::{Body, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{EventView, Listed};
use crate::model::id::ClientId;
use crate::model::month::Month;
use crate::model::operator::Permission;
use crate::store::UsageSum;
use crate::store::events::{EventQuery, EventRow};
use crate::store::months::Closing;

/// Which events.
#[derive(Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct EventsQuery {
    /// Only this client's.
    pub(in crate::api) client: Option<Uuid>,
    /// Of requests that arrived from then on: RFC 3339, a day (UTC) or how long ago; a day without it.
    pub(in crate::api) from: Option<String>,
    /// And before then.
    pub(in crate::api) to: Option<String>,
    /// Only of this outcome.
    pub(in crate::api) outcome: Option<String>,
    /// Only of this route.
    pub(in crate::api) route: Option<String>,
    /// Only of the request with this id, which its caller was told.
    pub(in crate::api) request_id: Option<String>,
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
}

/// List single events, oldest first.
#[utoipa::path(get, path = "/v1/usage/events", tag = "usage", params(EventsQuery),
    responses((status = 200, body = Listed<EventView>), Problems))]
pub(in crate::api) async fn events(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<EventsQuery>,
) -> Result<Json<Listed<EventView>>> {
    let (rows, next) = events_listed(&api, &caller, &query).await?;
    Ok(Json(Listed { items: rows.iter().map(EventView::from).collect(), next: next.map(|id| id.to_string()) }))
}

/// The events that are asked for, and where those that follow begin.
pub(in crate::api) async fn events_listed(
    api: &Api,
    caller: &Caller,
    query: &EventsQuery,
) -> Result<(Vec<EventRow>, Option<Uuid>)> {
    let client = caller.confined_to(Permission::ReadUsage, query.client.map(ClientId))?;
    let now = api.clock.wall();
    let day_ago = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
    let from = moment("from", query.from.as_deref(), now)?.unwrap_or(day_ago);
    let to = moment("to", query.to.as_deref(), now)?.unwrap_or(Timestamp::MAX);
    let limit = super::limit(query.limit)?;
    let asked = EventQuery {
        client,
        outcome: query.outcome.clone(),
        route: query.route.clone(),
        request_id: query.request_id.clone(),
        ..EventQuery::between(from, to)
    };
    let _turn = caller.turn(api).await?;
    let mut rows = caller.store.events.events(&asked, query.after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|row| row.id);
    Ok((rows, next))
}

/// Show one event: its id is also the id of the request, where we made that.
#[utoipa::path(get, path = "/v1/usage/events/{id}", tag = "usage", params(("id" = Uuid, Path)),
    responses((status = 200, body = EventView), Problems))]
pub(in crate::api) async fn event(caller: Caller, Named(id): Named<Uuid>) -> Result<Json<EventView>> {
    let found = event_found(&caller, id).await?;
    found
        .as_ref()
        .map(|row| Json(EventView::from(row)))
        .ok_or_else(|| Fault::not_found(format!("there is no event {id}; one shows within 2 s of its request's end")))
}

/// An event by its id, if it is there for whoever asks.
pub(in crate::api) async fn event_found(caller: &Caller, id: Uuid) -> Result<Option<EventRow>> {
    let Some(at) = time_of(id) else { return Ok(None) };
    let second = SignedDuration::from_secs(2);
    let from = at.checked_sub(second).unwrap_or(Timestamp::UNIX_EPOCH);
    let asked = EventQuery::between(from, at.checked_add(second).unwrap_or(Timestamp::MAX));
    // The id before it: its own is then the first that comes after.
    let before = Uuid::from_u128(id.as_u128().saturating_sub(1));
    let rows = caller.store.events.events(&asked, Some(before), 1).await?;
    let found = rows.into_iter().find(|row| row.id == id);
    Ok(found.filter(|row| caller.reach(Permission::ReadUsage, ClientId(row.client_id)).is_ok()))
}

/// The time in a UUID v7; none: it is another kind.
fn time_of(id: Uuid) -> Option<Timestamp> {
    let (7, milliseconds) = (id.get_version_num(), id.as_u128() >> 80) else { return None };
    Timestamp::from_millisecond(i64::try_from(milliseconds).ok()?).ok()
}

/// A closed month.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MonthView {
    /// Like `2026-10`.
    month: String,
    closed_at: Timestamp,
    /// Nodes and journals that were not waited for.
    without: String,
    /// A row for each client.
    items: Vec<MonthItem>,
    total: AmountsView,
}

/// What a client used in a closed month.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MonthItem {
    client: Uuid,
    #[serde(flatten)]
    amounts: AmountsView,
}

/// Who is not waited for.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct CloseInput {
    /// Nodes and journals that are gone for good.
    #[serde(default)]
    without: Vec<String>,
}

/// What a closed month was frozen at.
#[utoipa::path(get, path = "/v1/usage/months/{month}", tag = "usage", params(("month" = String, Path)),
    responses((status = 200, body = MonthView), Problems))]
pub(in crate::api) async fn statement(caller: Caller, Named(month): Named<String>) -> Result<Json<MonthView>> {
    let client = caller.confined_to(Permission::ReadUsage, None)?;
    Ok(Json(month_view(&caller, month_of(&month)?, client).await?))
}

/// Freeze a month that is over; what comes later is an adjustment in the open one.
#[utoipa::path(post, path = "/v1/usage/months/{month}/close", tag = "usage", request_body = CloseInput,
    params(("month" = String, Path)), responses((status = 200, body = MonthView), Problems))]
pub(in crate::api) async fn close(
    caller: Caller,
    Named(month): Named<String>,
    Body(input): Body<CloseInput>,
) -> Result<Json<MonthView>> {
    let month = month_of(&month)?;
    match caller.store.months.close(month, &input.without).await? {
        Closing::Closed | Closing::Already => {}
        Closing::NotOver => return Err(Fault::conflict(format!("{month} is not over: it ends at {}", month.ends()))),
        Closing::Owing(debtors) => {
            let said = debtors.iter().map(|debtor| match debtor.journal {
                Some(journal) => format!("node {} (journal {journal})", debtor.node),
                None => format!("node {}", debtor.node),
            });
            let said: Vec<String> = said.collect();
            let detail = format!(
                "{month} cannot be closed: these may still owe entries for it: {}; wait for them, or name in `without` \
                 those that are gone for good",
                said.join(", ")
            );
            return Err(Fault::conflict(detail));
        }
    }
    Ok(Json(month_view(&caller, month, None).await?))
}

async fn month_view(caller: &Caller, month: Month, client: Option<ClientId>) -> Result<MonthView> {
    let months = &caller.store.months;
    let missing = || Fault::not_found(format!("{month} is not closed"));
    let closed = months.closed(month).await?.ok_or_else(missing)?;
    let totals = months.totals(month, client).await?;
    let total = totals.iter().fold(UsageSum::default(), |total, (_, sum)| total.plus(sum));
    let items = totals.iter().map(|(client, sum)| MonthItem { client: *client, amounts: AmountsView::from(sum) });
    Ok(MonthView {
        month: closed.month,
        closed_at: closed.closed_at,
        without: closed.without,
        items: items.collect(),
        total: AmountsView::from(&total),
    })
}

/// A month, as a path names it.
pub(super) fn month_of(text: &str) -> Result<Month> {
    text.parse().map_err(|_| Fault::bad_request(format!("`{text}` is not a month: write one like 2026-10")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_looked_for_at_the_time_in_its_id() {
        let id: Uuid = "019adeb6-3c00-7000-8000-000000000001".parse().unwrap();
        assert_eq!(time_of(id).map(Timestamp::as_millisecond), Some(0x019a_deb6_3c00));
        assert_eq!(time_of(Uuid::nil()), None);
        assert_eq!(time_of(Uuid::max()), None);
    }
}
