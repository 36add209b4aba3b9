//! `/v1/usage`: sums from the rollups, page by page.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Problems, moment};
use crate::api::caller::Caller;
use crate::api::extract::Parameters;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::config::moment as time;
use crate::model::id::ClientId;
use crate::model::operator::Permission;
use crate::store::{Page, UsageColumn, UsageQuery, UsageSum};

/// The longest page, and the one that is given where nobody says: rows are small, and each page has the
/// store read the whole period.
pub(in crate::api) const LONGEST_PAGE: u32 = 10_000;

/// Which usage, summed how.
#[derive(Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct SumQuery {
    /// Only this client's.
    pub(in crate::api) client: Option<Uuid>,
    /// From this hour on: RFC 3339, a day (UTC) or how long ago, like `-24h`; the month's start without it.
    pub(in crate::api) from: Option<String>,
    /// Up to this time, not including it; its hour is taken whole.
    pub(in crate::api) to: Option<String>,
    /// One row for each combination of these, separated by commas: client, key, route, status, outcome,
    /// hour, day, month.
    pub(in crate::api) by: Option<String>,
    /// At most so many rows; 10000 without it.
    #[param(minimum = 1, maximum = 10_000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the answer before, to the same question.
    pub(in crate::api) after: Option<String>,
}

/// Sums.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct SumsView {
    /// The first hour.
    pub(in crate::api) from: Timestamp,
    /// Up to this hour.
    pub(in crate::api) to: Timestamp,
    pub(in crate::api) by: Vec<&'static str>,
    /// A row for each combination: the values of `by`, then the amounts.
    #[schema(value_type = Vec<Object>)]
    pub(in crate::api) items: Vec<Map<String, Value>>,
    /// What to give as `after` for the rows that follow; null at the end.
    #[schema(required)]
    pub(in crate::api) next: Option<String>,
    /// Of all rows, also those that are not on this page.
    pub(in crate::api) total: AmountsView,
}

/// Amounts of usage.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::api) struct AmountsView {
    /// Events.
    pub(in crate::api) requests: u64,
    pub(in crate::api) units: u64,
    pub(in crate::api) bytes_in: u64,
    pub(in crate::api) bytes_out: u64,
    pub(in crate::api) duration_us: u64,
    /// Refusals; not among `requests`.
    pub(in crate::api) rejected: u64,
    /// What would have been refused, had its route not observed; among `requests`.
    pub(in crate::api) would_reject: u64,
}

impl From<&UsageSum> for AmountsView {
    fn from(sum: &UsageSum) -> Self {
        Self {
            requests: sum.requests,
            units: sum.units,
            bytes_in: sum.bytes_in,
            bytes_out: sum.bytes_out,
            duration_us: sum.duration_us,
            rejected: sum.rejected,
            would_reject: sum.would_reject,
        }
    }
}

/// What usage can be summed by.
const COLUMNS: [(&str, UsageColumn); 8] = [
    ("client", UsageColumn::Client),
    ("key", UsageColumn::Key),
    ("route", UsageColumn::Route),
    ("status", UsageColumn::Status),
    ("outcome", UsageColumn::Outcome),
    ("hour", UsageColumn::Hour),
    ("day", UsageColumn::Day),
    ("month", UsageColumn::Month),
];

/// Sums of what was used, in the order of the values they are by.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(SumQuery),
    responses((status = 200, body = SumsView), Problems))]
pub(in crate::api) async fn sums(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<SumQuery>,
) -> Result<Json<SumsView>> {
    let summed = summed(&api, &caller, &query).await?;
    let items = summed.rows.iter().map(|row| item(&summed.by, row)).collect();
    let by = summed.by.iter().map(|(name, _)| *name).collect();
    let total = AmountsView::from(&summed.total);
    Ok(Json(SumsView { from: summed.from, to: summed.to, by, items, next: summed.next, total }))
}

/// A page of sums as the store gave them, and the sum of all.
pub(in crate::api) struct Summed {
    pub(in crate::api) from: Timestamp,
    pub(in crate::api) to: Timestamp,
    pub(in crate::api) by: Vec<(&'static str, UsageColumn)>,
    pub(in crate::api) rows: Vec<UsageSum>,
    pub(in crate::api) next: Option<String>,
    pub(in crate::api) total: UsageSum,
}

/// A page of what is asked for.
pub(in crate::api) async fn summed(api: &Api, caller: &Caller, query: &SumQuery) -> Result<Summed> {
    let question = SumQuestion::of(api, caller, query)?;
    let limit = match query.limit {
        None => LONGEST_PAGE,
        Some(limit) if (1..=LONGEST_PAGE).contains(&limit) => limit,
        Some(_) => return Err(Fault::bad_request(format!("`limit` is a whole number from 1 to {LONGEST_PAGE}"))),
    };
    let after = query.after.as_deref().map(|text| question.cursor(text)).transpose()?;
    let _turn = caller.turn(api).await?;
    let page = question.page(caller, after.as_deref(), limit).await?;
    let total = if after.is_none() && !page.more {
        page.items.iter().fold(UsageSum::default(), UsageSum::plus)
    } else {
        let of_all = UsageQuery { by: Vec::new(), ..question.asked.clone() };
        caller.store.usage.sums(&of_all).await?.pop().unwrap_or_default()
    };
    let next = page.items.last().filter(|_| page.more).map(|last| json!(last.by).to_string());
    let (from, to) = (question.asked.from, question.asked.to);
    Ok(Summed { from, to, by: question.by, rows: page.items, next, total })
}

/// What is asked for, understood; whoever asks may.
pub(in crate::api) struct SumQuestion {
    pub(in crate::api) by: Vec<(&'static str, UsageColumn)>,
    asked: UsageQuery,
}

impl SumQuestion {
    /// Reads a query.
    ///
    /// # Errors
    /// It makes no sense, or is about what is not for whoever asks.
    pub(in crate::api) fn of(api: &Api, caller: &Caller, query: &SumQuery) -> Result<Self> {
        let client = caller.confined_to(Permission::ReadUsage, query.client.map(ClientId))?;
        let (from, to) = period(query, api.clock.wall())?;
        let mut by = Vec::new();
        let words = query.by.as_deref().unwrap_or_default().split(',').map(str::trim);
        for word in words.filter(|word| !word.is_empty()) {
            let known = COLUMNS.into_iter().find(|(name, _)| *name == word);
            let column = known.ok_or_else(|| {
                let names = COLUMNS.map(|(name, _)| name).join(", ");
                Fault::bad_request(format!("`by`: there is no `{word}`; write some of {names}"))
            })?;
            if !by.contains(&column) {
                by.push(column);
            }
        }
        let asked = UsageQuery { from, to, client, by: by.iter().map(|(_, column)| *column).collect() };
        Ok(Self { by, asked })
    }

    /// A page of the answer.
    ///
    /// # Errors
    /// The store's.
    pub(in crate::api) async fn page(
        &self,
        caller: &Caller,
        after: Option<&[String]>,
        limit: u32,
    ) -> Result<Page<UsageSum>> {
        if self.by.is_empty() {
            let items = caller.store.usage.sums(&self.asked).await?;
            return Ok(Page { items, more: false });
        }
        Ok(caller.store.usage.sums_page(&self.asked, after, limit).await?)
    }

    /// The values after which a page begins.
    fn cursor(&self, text: &str) -> Result<Vec<String>> {
        let read: Option<Vec<String>> = serde_json::from_str(text).ok();
        // No text of a database holds a zero.
        let read = read.filter(|values| {
            !values.is_empty() && values.len() == self.by.len() && !values.iter().any(|value| value.contains('\0'))
        });
        read.ok_or_else(|| Fault::bad_request("`after`: give the `next` of an answer to the same question"))
    }
}

/// From when to when, in whole hours: this month, where nobody says.
fn period(query: &SumQuery, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
    let to = moment("to", query.to.as_deref(), now)?.map(time::hour_from);
    let from = moment("from", query.from.as_deref(), now)?.map(time::hour_of);
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => (from, time::month_after(now.max(from))),
        (None, Some(to)) => (time::month_of(to.checked_sub(SignedDuration::from_secs(1)).unwrap_or(to)), to),
        (None, None) => (time::month_of(now), time::month_after(now)),
    };
    if from >= to {
        return Err(Fault::bad_request(format!("`from` ({from}) does not lie before `to` ({to})")));
    }
    Ok((from, to))
}

fn item(by: &[(&'static str, UsageColumn)], sum: &UsageSum) -> Map<String, Value> {
    let values = by.iter().zip(&sum.by).map(|((name, column), text)| {
        let number = text.parse::<u16>().ok().filter(|_| *column == UsageColumn::Status);
        ((*name).to_owned(), number.map_or_else(|| Value::from(text.as_str()), Value::from))
    });
    let mut item: Map<_, _> = values.collect();
    if let Ok(Value::Object(amounts)) = serde_json::to_value(AmountsView::from(sum)) {
        item.extend(amounts);
    }
    item
}
