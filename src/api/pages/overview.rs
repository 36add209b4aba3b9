//! The overview: what goes on, and what is amiss.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::chart::{Bar, bars};
use super::frame::Page;
use super::parts::{Column, badge, bytes, dash, link, number, or_dash, seconds, stats, table, time};
use crate::api::caller::Caller;
use crate::api::fault::Result;
use crate::api::state::Api;
use crate::api::v1::gateway::{LiveView, living, nodes_listed};
use crate::config::moment::hour_of;
use crate::model::operator::Permission;
use crate::store::{UsageColumn, UsageQuery};

pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response> {
    if !caller.may(Permission::ReadGateway) {
        return Ok(Redirect::to("/clients").into_response());
    }
    let live = living(&api);
    let hours = hours(&api).await?;
    let nodes = nodes_listed(&caller).await?;
    let body = html! {
        (health(&live))
        (numbers(&live))
        div id="hours" data-live { (bars("Requests in the last 24 hours", &hours)) }
        h2 { "Routes" }
        div id="routes" data-live { (routes(&live)) }
        h2 { "Refusals by reason, since this process started" }
        div id="refusals" data-live { (refusals(&live)) }
        h2 { "Upstreams" }
        div id="upstreams" data-live { (upstreams(&live)) }
        h2 { "Nodes" }
        @let rows = nodes.iter().map(|node| vec![
            html! { (node.node) }, html! { code { (node.journal) } }, time(node.clear_until), time(node.reported_at),
        ]).collect::<Vec<_>>();
        @let columns =
            [Column::Text("Node"), Column::Text("Journal"), Column::Text("Handed over until"), Column::Text("Said at")];
        (table("Processes and up to when their usage is in the store", &columns, &rows))
    };
    Ok(Page { refresh: Some(5), ..Page::new("Overview", "/", body) }.for_caller(&caller))
}

fn health(live: &LiveView) -> Markup {
    let out = live.endpoints.iter().filter(|endpoint| !endpoint.available).count();
    let all_is_well = live.refusing.is_empty() && live.degraded.is_empty() && out == 0;
    html! {
        div id="health" data-live {
            div class=(if all_is_well { "card told" } else { "card fault" }) role=[(!all_is_well).then_some("alert")] {
                @if !live.refusing.is_empty() {
                    p { (badge("bad", "Requests are refused")) " because of " (live.refusing.join(", ")) "." }
                } @else if all_is_well {
                    p { (badge("good", "All is well")) }
                } @else {
                    p { (badge("warn", "Impaired")) "; requests go on." }
                }
                ul.parts {
                    @for part in &live.fine { li { (part) ": " (badge("good", "well")) } }
                    @for part in &live.degraded { li { (part) ": " (badge("warn", "away or impaired")) } }
                    @for part in &live.refusing { li { (part) ": " (badge("bad", "refuses")) } }
                    @if !live.endpoints.is_empty() {
                        li {
                            "upstreams: "
                            @if out == 0 { (badge("good", "well")) }
                            @else { (badge("warn", &format!("{out} of {} endpoints are out", live.endpoints.len()))) }
                        }
                    }
                }
            }
        }
    }
}

fn numbers(live: &LiveView) -> Markup {
    let counts = &live.counts;
    let up = (counts.at.as_second() - counts.since.as_second()).max(0);
    let slowest = counts
        .routes
        .iter()
        .filter_map(|route| route.p99_seconds)
        .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))));
    stats(
        "numbers",
        &[
            ("Requests", html! { (number(counts.requests)) }),
            ("Answered 5xx", html! { (number(counts.errors)) }),
            ("Refused", html! { (number(counts.refused)) }),
            ("Open now", html! { (number(counts.in_flight)) }),
            ("p99, slowest route", or_dash(slowest.map(|slowest| format!("≤ {}", seconds(slowest))))),
            ("Metering lag", html! { (seconds(counts.metering_lag_seconds)) }),
            ("Journal", html! { (bytes(counts.journal_bytes)) " of " (bytes(counts.journal_bytes_max)) }),
            ("Lost entries", html! { (number(counts.metering_lost)) }),
            ("Serving for", html! { (format!("{} h {} min", up / 3600, up % 3600 / 60)) }),
        ],
    )
}

async fn hours(api: &Api) -> Result<Vec<Bar>> {
    let sum = async || {
        let now = hour_of(api.clock.wall());
        let hours = |count| SignedDuration::from_hours(count);
        let from = now.checked_sub(hours(23)).unwrap_or(now);
        let to = now.checked_add(hours(1)).unwrap_or(now);
        let query = UsageQuery { from, to, client: None, by: vec![UsageColumn::Hour] };
        Ok(api.store.usage.sums(&query).await?)
    };
    let sums = api.hours.read(&api.clock, sum).await?;
    let mut found = Vec::new();
    for back in (0..24).rev() {
        let at = api.clock.wall().checked_sub(SignedDuration::from_hours(back)).unwrap_or_default();
        let hour = hour_of(at);
        let sum =
            sums.iter().find(|row| row.by.first().is_some_and(|by| by.parse().is_ok_and(|at: Timestamp| at == hour)));
        let (requests, rejected) = sum.map_or((0, 0), |sum| (sum.requests, sum.rejected));
        found.push(Bar { label: hour.strftime("%H:00").to_string(), requests, rejected });
    }
    Ok(found)
}

fn routes(live: &LiveView) -> Markup {
    let quantile = |value: Option<f64>| or_dash(value.map(|value| format!("≤ {}", seconds(value))));
    let rows: Vec<_> = live
        .counts
        .routes
        .iter()
        .filter(|route| !route.route.is_empty() || route.refused > 0)
        .map(|route| {
            vec![
                if route.route.is_empty() {
                    html! { span.soft { "no route" } }
                } else {
                    html! { (route.route) }
                },
                html! { (number(route.requests)) },
                html! { (number(route.errors)) },
                html! { (number(route.refused)) },
                quantile(route.median_seconds),
                quantile(route.p99_seconds),
            ]
        })
        .collect();
    let columns = [
        Column::Text("Route"),
        Column::Number("Requests"),
        Column::Number("5xx"),
        Column::Number("Refused"),
        Column::Number("Median"),
        Column::Number("p99"),
    ];
    table("Routes, since this process started", &columns, &rows)
}

fn refusals(live: &LiveView) -> Markup {
    let rows: Vec<_> = live
        .counts
        .refusals
        .iter()
        .filter(|code| code.count > 0)
        .map(|code| {
            let address = super::parts::address("/refusals", &[("code", &code.code)]);
            vec![link(address, &code.code), html! { (number(code.count)) }]
        })
        .collect();
    table("Refusals", &[Column::Text("Code"), Column::Number("Count")], &rows)
}

fn upstreams(live: &LiveView) -> Markup {
    let rows: Vec<_> = live
        .endpoints
        .iter()
        .map(|endpoint| {
            vec![
                html! { (endpoint.upstream) },
                html! { code { (endpoint.endpoint) } },
                if endpoint.available { badge("good", "gets requests") } else { badge("bad", "out") },
                if endpoint.open > 0 {
                    html! { (number(endpoint.open)) }
                } else {
                    dash()
                },
            ]
        })
        .collect();
    let columns = [Column::Text("Upstream"), Column::Text("Endpoint"), Column::Text("State"), Column::Number("Open")];
    table("Endpoints", &columns, &rows)
}
