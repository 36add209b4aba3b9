//! `octroi usage events`: single events as they stand in the table, one a line.
//!
//! Read and written page by page, so that a month of them costs no memory, and a reader that has
//! seen enough ends it.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;

use super::open::open;
use super::output::{Format, Row, write_csv, write_csv_rows, write_json};
use super::server::{Server, items, path};
use super::{Context, Failure, client};
use crate::config::moment::Moment;
use crate::store::events::{EventQuery, EventRow};

/// How many are read at a time.
const PAGE: u32 = 2_000;

/// `octroi usage events`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this client's: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// Of requests that arrived from then on: RFC 3339, a day (UTC) or how long ago, like -24h
    #[arg(long, value_name = "T", allow_hyphen_values = true, default_value = "-1h")]
    from: Moment,
    /// And before then; now without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Moment>,
    /// Only of this route
    #[arg(long)]
    route: Option<String>,
    /// Only of this outcome
    #[arg(long)]
    outcome: Option<String>,
    /// Only of the request with this id, which its caller was told (`X-Request-Id`)
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// Prints them: JSON an object a line, else CSV with a first line of names.
///
/// # Errors
/// Times that make no sense, a client that is not there, a store that is away.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let now = context.clock.wall();
    // The clock of another node may be a little ahead.
    let soon = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap_or(now);
    let (from, to) = (arguments.from.at(now), arguments.to.map_or(soon, |to| to.at(now)));
    if from >= to {
        return Err(Failure::usage(format!("--from {from} does not lie before --to {to}")));
    }
    let client = match &arguments.client {
        Some(named) => Some(client::find(&store, named).await?.id),
        None => None,
    };
    let query = EventQuery {
        client,
        outcome: arguments.outcome.clone(),
        route: arguments.route.clone(),
        request_id: arguments.request_id.clone(),
        ..EventQuery::between(from, to)
    };
    let is_json = context.format == Format::Json;
    if !is_json {
        write_csv(COLUMNS, &[], out)?;
    }
    let mut after = None;
    loop {
        let events = store.events.events(&query, after, PAGE).await?;
        let rows: Vec<Row> = events.iter().map(row).collect();
        if is_json {
            rows.iter().try_for_each(|row| write_json(row, out))?;
        } else {
            write_csv_rows(COLUMNS, &rows, out)?;
        }
        after = events.last().map(|event| event.id);
        if events.len() < PAGE as usize {
            return Ok(());
        }
    }
}

const COLUMNS: &[&str] = &[
    "id",
    "request_id",
    "client_id",
    "api_key_id",
    "token_id",
    "occurred_at",
    "route",
    "method",
    "status",
    "outcome",
    "reason",
    "duration_us",
    "bytes_in",
    "bytes_out",
    "units",
    "node",
    "kind",
    "parent_id",
    "corrects",
];

/// Prints those of an admin API.
///
/// # Errors
/// What the server says.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let now = context.clock.wall();
    let client = match &arguments.client {
        Some(named) => Some(server.client(named).await?.to_string()),
        None => None,
    };
    let (from, to) = (arguments.from.at(now).to_string(), arguments.to.map(|to| to.at(now).to_string()));
    let mut after: Option<String> = None;
    if context.format != Format::Json {
        write_csv(COLUMNS, &[], out)?;
    }
    loop {
        let query = [
            ("client", client.as_deref()),
            ("from", Some(from.as_str())),
            ("to", to.as_deref()),
            ("route", arguments.route.as_deref()),
            ("outcome", arguments.outcome.as_deref()),
            ("request_id", arguments.request_id.as_deref()),
            ("limit", Some("1000")),
            ("after", after.as_deref()),
        ];
        let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let answer = server.get_list(&path("/v1/usage/events", &query)).await?;
        for item in items(&answer) {
            let row = Row::read(COLUMNS, item);
            match context.format {
                Format::Json => write_json(&row, out)?,
                Format::Csv | Format::Table => write_csv_rows(COLUMNS, &[row], out)?,
            }
        }
        after = answer["next"].as_str().map(ToOwned::to_owned);
        if after.is_none() {
            return Ok(());
        }
    }
}

fn row(event: &EventRow) -> Row {
    Row::new()
        .with("id", event.id.to_string())
        .with("request_id", event.request_id.as_str())
        .with("client_id", event.client_id.to_string())
        .with_text("api_key_id", event.api_key_id)
        .with_text("token_id", event.token_id)
        .with("occurred_at", text(event.occurred_at))
        .with("route", event.route.as_str())
        .with("method", event.method.as_str())
        .with("status", event.status)
        .with("outcome", event.outcome.as_str())
        .with("reason", event.reason.clone())
        .with("duration_us", event.duration_us)
        .with("bytes_in", event.bytes_in)
        .with("bytes_out", event.bytes_out)
        .with("units", event.units)
        .with("node", event.node.as_str())
        .with("kind", event.kind.as_str())
        .with_text("parent_id", event.parent_id)
        .with_text("corrects", event.corrects)
}

/// With all six digits, so that lines sort as times do.
fn text(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
