//! The usage explorer, its CSV, and single events.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::{client_link, name_of};
use super::frame::Page;
use super::parts::{
    Column, Field, address, badge, bytes, choice, dash, link, next, number, or_dash, seconds, table, time,
};
use crate::api::caller::Caller;
use crate::api::extract::Parameters;
use crate::api::fault::Result;
use crate::api::state::Api;
use crate::api::v1::usage::{EventsQuery, SumQuery, Summed, events_listed, summed};
use crate::model::operator::Permission;
use crate::store::{UsageColumn, UsageSum};
use crate::wire::csv::harmless;

/// What the explorer is asked, as its form says it: what is empty is not there.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Asked {
    client: Option<String>,
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    by2: Option<String>,
}

impl Asked {
    fn query(&self) -> Result<SumQuery> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let by: Vec<String> = [filled(&self.by), filled(&self.by2)].into_iter().flatten().collect();
        Ok(SumQuery {
            client: super::clients::read("Client", filled(&self.client).as_deref())?,
            from: filled(&self.from),
            to: filled(&self.to),
            by: Some(by.join(",")),
        })
    }

    fn address(&self, path: &str) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        address(
            path,
            &[
                ("client", &text(&self.client)),
                ("from", &text(&self.from)),
                ("to", &text(&self.to)),
                ("by", &text(&self.by)),
                ("by2", &text(&self.by2)),
            ],
        )
    }
}

const CHOICES: [(&str, &str); 9] = [
    ("", "nothing"),
    ("client", "client"),
    ("key", "key"),
    ("route", "route"),
    ("status", "status"),
    ("outcome", "outcome"),
    ("hour", "hour"),
    ("day", "day"),
    ("month", "month"),
];

/// The most rows that are shown; the CSV has all.
const SHOWN: usize = 1_000;

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response> {
    let asked = if asked.by.is_none() && caller.may(Permission::ReadGateway) {
        Asked { by: Some("client".to_owned()), ..asked }
    } else {
        asked
    };
    let summed = summed(&api, &caller, &asked.query()?).await?;
    let names = names(&caller, &summed).await?;
    let mut columns: Vec<Column> = summed.by.iter().map(|(name, _)| Column::Text(heading(name))).collect();
    columns.extend(["Requests", "Units", "In", "Out", "Mean time", "Refused"].map(Column::Number));
    let mut rows: Vec<Vec<Markup>> = summed.rows.iter().take(SHOWN).map(|sum| row(&summed, &names, sum)).collect();
    if !summed.by.is_empty() {
        let mut total: Vec<Markup> = summed.by.iter().map(|_| html! {}).collect();
        total[0] = html! { strong { "Total" } };
        total.extend(amounts(&summed.total));
        rows.push(total);
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let body = html! {
        form.line method="get" action="/usage" {
            (Field::text("client", "Client").value(&text(&asked.client)).hint("its id; empty: all"))
            (Field::text("from", "From").value(&text(&asked.from)).hint("2026-11-01 or -24h; empty: this month"))
            (Field::text("to", "To").value(&text(&asked.to)).hint("not included"))
            (choice("by", "By", &CHOICES, &text(&asked.by)))
            (choice("by2", "and by", &CHOICES, &text(&asked.by2)))
            button type="submit" { "Show" }
        }
        p { "From " (time(summed.from)) " to " (time(summed.to)) " UTC · " (link(asked.address("/usage.csv"), "As CSV")) }
        (table("Usage", &columns, &rows))
        @if summed.rows.len() > SHOWN { p.soft { "The first " (SHOWN) " rows; the CSV has all." } }
        p.soft { "An event shows within 2 s of its end. Refusals are no events, and stand apart." }
    };
    Ok(Page::new("Usage", "/usage", body).for_caller(&caller))
}

fn heading(name: &str) -> &'static str {
    match name {
        "client" => "Client",
        "key" => "Key",
        "route" => "Route",
        "status" => "Status",
        "outcome" => "Outcome",
        "hour" => "Hour",
        "day" => "Day",
        _ => "Month",
    }
}

fn row(summed: &Summed, names: &HashMap<String, String>, sum: &UsageSum) -> Vec<Markup> {
    let mut cells = Vec::new();
    for ((_, column), text) in summed.by.iter().zip(&sum.by) {
        cells.push(match column {
            UsageColumn::Client => {
                let name = names.get(text).map_or(text.as_str(), String::as_str);
                client_link(text.parse().ok(), name)
            }
            UsageColumn::Key if text.parse() == Ok(Uuid::nil()) => dash(),
            UsageColumn::Key => link(format!("/keys/{text}"), text),
            _ if text.is_empty() || text == "0" => dash(),
            _ => html! { (text) },
        });
    }
    cells.extend(amounts(sum));
    cells
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn amounts(sum: &UsageSum) -> [Markup; 6] {
    let mean = (sum.requests > 0).then(|| sum.duration_us as f64 / sum.requests as f64 / 1_000_000.0);
    [
        html! { (number(sum.requests)) },
        html! { (number(sum.units)) },
        html! { (bytes(sum.bytes_in)) },
        html! { (bytes(sum.bytes_out)) },
        or_dash(mean.map(seconds)),
        html! { (number(sum.rejected)) },
    ]
}

/// Names of the clients that are shown.
async fn names(caller: &Caller, summed: &Summed) -> Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    let Some(place) = summed.by.iter().position(|(_, column)| *column == UsageColumn::Client) else { return Ok(names) };
    for id in summed.rows.iter().take(SHOWN).filter_map(|row| row.by.get(place)) {
        let Ok(client) = id.parse::<Uuid>() else { continue };
        if !names.contains_key(id) && !client.is_nil() {
            names.insert(id.clone(), name_of(caller, client).await?);
        }
    }
    Ok(names)
}

/// The same as a file for spreadsheets (RFC 4180), all rows, with the names that the API has.
pub(super) async fn csv(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response> {
    let summed = summed(&api, &caller, &asked.query()?).await?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    let sums = ["requests", "units", "bytes_in", "bytes_out", "duration_us", "rejected", "would_reject"];
    let head: Vec<&str> = summed.by.iter().map(|(name, _)| *name).chain(sums).collect();
    let failed = |_| crate::api::fault::Fault::internal();
    writer.write_record(&head).map_err(failed)?;
    for sum in &summed.rows {
        let amounts =
            [sum.requests, sum.units, sum.bytes_in, sum.bytes_out, sum.duration_us, sum.rejected, sum.would_reject];
        let amounts = amounts.map(|amount| amount.to_string());
        let record = sum.by.iter().map(|text| harmless(text)).chain(amounts);
        writer.write_record(record).map_err(failed)?;
    }
    let text = writer.into_inner().map_err(|_| crate::api::fault::Fault::internal())?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"usage.csv\"")),
    ];
    Ok((headers, text).into_response())
}

/// Which events, as the form says it.
#[derive(Clone, Default, Deserialize)]
pub(super) struct AskedEvents {
    client: Option<String>,
    from: Option<String>,
    to: Option<String>,
    outcome: Option<String>,
    route: Option<String>,
    after: Option<Uuid>,
}

pub(super) async fn events(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<AskedEvents>,
) -> Result<Response> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let query = EventsQuery {
        client: super::clients::read("Client", filled(&asked.client).as_deref())?,
        from: filled(&asked.from),
        to: filled(&asked.to),
        outcome: filled(&asked.outcome),
        route: filled(&asked.route),
        request_id: None,
        limit: Some(100),
        after: asked.after,
    };
    let (found, after) = events_listed(&api, &caller, &query).await?;
    let mut names: HashMap<Uuid, String> = HashMap::new();
    for event in &found {
        if !names.contains_key(&event.client_id) && !event.client_id.is_nil() {
            names.insert(event.client_id, name_of(&caller, event.client_id).await?);
        }
    }
    let rows: Vec<_> = found
        .iter()
        .map(|event| {
            let name = names.get(&event.client_id).map_or("", String::as_str);
            vec![
                time(event.occurred_at),
                client_link(Some(event.client_id), name),
                html! { (event.method) },
                html! { (event.route) },
                or_dash(event.status.map(|status| status.to_string())),
                outcome(&event.outcome),
                html! { (number(u64::try_from(event.units).unwrap_or(0))) },
                html! { (number(u64::try_from(event.duration_us).unwrap_or(0))) },
                link(format!("/requests/{}", event.id), event.id.to_string()),
            ]
        })
        .collect();
    let columns = [
        Column::Text("When"),
        Column::Text("Client"),
        Column::Text("Method"),
        Column::Text("Route"),
        Column::Text("Status"),
        Column::Text("Outcome"),
        Column::Number("Units"),
        Column::Number("µs"),
        Column::Text("Event"),
    ];
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let onwards = after.map(|after| {
        address(
            "/events",
            &[
                ("client", &text(&asked.client)),
                ("from", &text(&asked.from)),
                ("to", &text(&asked.to)),
                ("outcome", &text(&asked.outcome)),
                ("route", &text(&asked.route)),
                ("after", &after.to_string()),
            ],
        )
    });
    let body = html! {
        form.line method="get" action="/events" {
            (Field::text("client", "Client").value(&text(&asked.client)).hint("its id; empty: all"))
            (Field::text("from", "From").value(&text(&asked.from)).hint("like -1h; empty: a day"))
            (Field::text("to", "To").value(&text(&asked.to)).hint("not included"))
            (Field::text("outcome", "Outcome").value(&text(&asked.outcome)).hint("like client_gone"))
            (Field::text("route", "Route").value(&text(&asked.route)).hint("its name"))
            button type="submit" { "Show" }
        }
        (table("Events, oldest first", &columns, &rows))
        (next(onwards))
    };
    Ok(Page::new("Events", "/events", body).for_caller(&caller))
}

/// How a request ended.
pub(super) fn outcome(word: &str) -> Markup {
    let kind = match word {
        "complete" => "good",
        "upstream_error" | "interrupted" | "cut" => "bad",
        _ => "warn",
    };
    badge(kind, word)
}
