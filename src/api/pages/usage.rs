//! The usage explorer, its CSV, and single events.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::clients::{named_link, names_of};
use super::frame::Page;
use super::parts::{
    Column, Field, address, badge, bytes, choice, dash, link, next, number, or_dash, seconds, table, time,
};
use crate::api::caller::Caller;
use crate::api::extract::Parameters;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::v1::sums::{self, SumQuery, SumQuestion, Summed, summed};
use crate::api::v1::usage::{EventsQuery, events_listed};
use crate::model::operator::Permission;
use crate::store::{self, UsageColumn, UsageSum};
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
            ..SumQuery::default()
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
const SHOWN: u32 = 1_000;

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
    let summed = summed(&api, &caller, &SumQuery { limit: Some(SHOWN), ..asked.query()? }).await?;
    let names = names(&caller, &summed).await?;
    let mut columns: Vec<Column> = summed.by.iter().map(|(name, _)| Column::Text(heading(name))).collect();
    columns.extend(["Requests", "Units", "In", "Out", "Mean time", "Refused"].map(Column::Number));
    let mut rows: Vec<Vec<Markup>> = summed.rows.iter().map(|sum| row(&summed, &names, sum)).collect();
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
        @if summed.next.is_some() { p.soft { "The first " (SHOWN) " rows; the CSV has all." } }
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

fn row(summed: &Summed, names: &HashMap<Uuid, String>, sum: &UsageSum) -> Vec<Markup> {
    let mut cells = Vec::new();
    for ((_, column), text) in summed.by.iter().zip(&sum.by) {
        cells.push(match column {
            UsageColumn::Client => named_link(names, text.parse().ok()),
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
async fn names(caller: &Caller, summed: &Summed) -> Result<HashMap<Uuid, String>> {
    let Some(place) = summed.by.iter().position(|(_, column)| *column == UsageColumn::Client) else {
        return Ok(HashMap::new());
    };
    names_of(caller, summed.rows.iter().filter_map(|row| row.by.get(place)?.parse().ok())).await
}

/// The same as a file for spreadsheets (RFC 4180), all rows, with the names that the API has. It is
/// written as its pages are read: however long it is, one page of it is held.
pub(super) async fn csv(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response> {
    let question = SumQuestion::of(&api, &caller, &asked.query()?)?;
    // Before the head of the answer is sent: what is wrong by then is told by a status.
    let turn = caller.turn(&api).await?;
    let first = question.page(&caller, None, sums::LONGEST_PAGE).await?;
    drop(turn);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"usage.csv\"")),
    ];
    let file = CsvFile { api, question, caller, state: CsvState::Begins(first) };
    let pieces = futures_util::stream::try_unfold(file, |mut file| async move {
        let piece = file.next().await.map_err(|fault| std::io::Error::other(fault.detail))?;
        Ok::<_, std::io::Error>(piece.map(|piece| (piece, file)))
    });
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// A file on its way.
struct CsvFile {
    api: Arc<Api>,
    question: SumQuestion,
    caller: Caller,
    state: CsvState,
}

enum CsvState {
    /// With its head and this page.
    Begins(store::Page<UsageSum>),
    GoesOnAfter(Vec<String>),
    Ended,
}

impl CsvFile {
    /// The next piece; none: it is whole.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let page = match std::mem::replace(&mut self.state, CsvState::Ended) {
            CsvState::Ended => return Ok(None),
            CsvState::GoesOnAfter(last) => {
                // For this page only: who does not read the file holds up nobody.
                let _turn = self.caller.turn(&self.api).await?;
                self.question.page(&self.caller, Some(&last), sums::LONGEST_PAGE).await?
            }
            CsvState::Begins(page) => {
                let amounts = ["requests", "units", "bytes_in", "bytes_out", "duration_us", "rejected", "would_reject"];
                let head = self.question.by.iter().map(|(name, _)| *name).chain(amounts);
                writer.write_record(head).map_err(|_| Fault::internal())?;
                page
            }
        };
        for sum in &page.items {
            let amounts =
                [sum.requests, sum.units, sum.bytes_in, sum.bytes_out, sum.duration_us, sum.rejected, sum.would_reject];
            let amounts = amounts.map(|amount| amount.to_string());
            let record = sum.by.iter().map(|text| harmless(text)).chain(amounts);
            writer.write_record(record).map_err(|_| Fault::internal())?;
        }
        if let Some(last) = page.items.last().filter(|_| page.more) {
            self.state = CsvState::GoesOnAfter(last.by.clone());
        }
        writer.into_inner().map(Some).map_err(|_| Fault::internal())
    }
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
    let names = names_of(&caller, found.iter().map(|event| event.client_id)).await?;
    let rows: Vec<_> = found
        .iter()
        .map(|event| {
            vec![
                time(event.occurred_at),
                named_link(&names, Some(event.client_id)),
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
