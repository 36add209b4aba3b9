//! `octroi usage`: sums from the rollups.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::open::open;
use super::output::{self, Format, Row};
use super::{Context, Failure, client, events};
use crate::config::moment::{self as time, Moment};
use crate::model::id::ClientId;
use crate::store::months::Adjustment;
use crate::store::{Store, UsageColumn, UsageQuery, UsageSum};

mod close;
mod reconcile;
mod redrain;
pub(super) mod remote;
mod statement;

/// `octroi usage …`
#[derive(Debug, Subcommand)]
enum Command {
    /// Single events, one a line: JSON or CSV
    Events(events::Arguments),
    /// Compare journal, events and sums; exit 1 and the differences where they are not the same
    Reconcile(reconcile::Arguments),
    /// Send everything again that this machine still has: heals a store that lost commits
    Redrain,
    /// Freeze a month that is over; what comes later is an adjustment in the open one
    Close(close::Arguments),
    /// What a client used in a closed month, signed
    Statement(statement::Arguments),
}

/// `octroi usage`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only this client's: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// From this hour on: RFC 3339, a day (UTC) or how long ago, like -24h; the month's start without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// Up to this time, not including it; its hour is taken whole
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Moment>,
    /// One row for each combination of these
    #[arg(long, value_name = "COLUMNS", value_enum, value_delimiter = ',')]
    by: Vec<Column>,
}

/// What usage can be summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Column {
    Client,
    Key,
    Route,
    Status,
    Outcome,
    Hour,
    Day,
    Month,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Key => "key",
            Self::Route => "route",
            Self::Status => "status",
            Self::Outcome => "outcome",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn value(self, text: &str) -> Value {
        match (self, text.parse::<u16>()) {
            (Self::Status, Ok(status)) => Value::from(status),
            _ => Value::from(text),
        }
    }
}

impl From<Column> for UsageColumn {
    fn from(column: Column) -> Self {
        match column {
            Column::Client => Self::Client,
            Column::Key => Self::Key,
            Column::Route => Self::Route,
            Column::Status => Self::Status,
            Column::Outcome => Self::Outcome,
            Column::Hour => Self::Hour,
            Column::Day => Self::Day,
            Column::Month => Self::Month,
        }
    }
}

const SUMS: &[&str] = &["requests", "units", "bytes_in", "bytes_out", "duration_us", "rejected", "would_reject"];

/// Prints the sums.
///
/// # Errors
/// Times that make no sense, a client that is not there, a store that is away.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    match &arguments.command {
        Some(Command::Events(arguments)) => events::run(context, arguments, out).await,
        Some(Command::Reconcile(arguments)) => reconcile::run(context, arguments, out).await,
        Some(Command::Redrain) => redrain::run(context, out).await,
        Some(Command::Close(arguments)) => close::run(context, arguments, out).await,
        Some(Command::Statement(arguments)) => statement::run(context, arguments, out).await,
        None => sums(context, arguments, out).await,
    }
}

async fn sums(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (from, to) = period(arguments, context.clock.wall())?;
    let mut by: Vec<Column> = Vec::new();
    arguments.by.iter().for_each(|column| {
        if !by.contains(column) {
            by.push(*column);
        }
    });
    let (_, store) = open(context).await?;
    let client = match &arguments.client {
        Some(named) => Some(client::find(&store, named).await?.id),
        None => None,
    };
    let query = UsageQuery { from, to, client, by: by.iter().copied().map(UsageColumn::from).collect() };
    let sums = store.usage.sums(&query).await?;
    let adjustments = store.months.adjustments(from, to, client).await?;
    let names = if context.format == Format::Table { client_names(&store, &by, &sums).await? } else { HashMap::new() };
    Ok(write(&Report { from, to, by, sums, names, adjustments }, context.format, out)?)
}

/// From when to when, in whole hours: the first hour asked about to the end of the last.
fn period(arguments: &Arguments, now: Timestamp) -> Result<(Timestamp, Timestamp), Failure> {
    let to = arguments.to.map(|to| time::hour_from(to.at(now)));
    let from = arguments.from.map(|from| time::hour_of(from.at(now)));
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => (from, time::month_after(now.max(from))),
        // The month that holds the last hour asked about.
        (None, Some(to)) => (time::month_of(to.checked_sub(std::time::Duration::from_secs(1)).unwrap_or(to)), to),
        (None, None) => (time::month_of(now), time::month_after(now)),
    };
    if from >= to {
        return Err(Failure::usage(format!("--from {from} does not lie before --to {to}")));
    }
    Ok((from, to))
}

/// Names of the clients that occur, for people; one that is gone has none.
async fn client_names(store: &Store, by: &[Column], sums: &[UsageSum]) -> Result<HashMap<String, String>, Failure> {
    let Some(place) = by.iter().position(|column| *column == Column::Client) else { return Ok(HashMap::new()) };
    let ids = sums.iter().filter_map(|sum| sum.by.get(place)?.parse().ok());
    let ids: BTreeSet<ClientId> = ids.filter(|id: &ClientId| !id.is_nil()).collect();
    let found = store.clients.find_many(&ids.into_iter().collect::<Vec<_>>()).await?;
    Ok(found.into_iter().map(|client| (client.id.to_string(), client.name)).collect())
}

struct Report {
    from: Timestamp,
    to: Timestamp,
    by: Vec<Column>,
    sums: Vec<UsageSum>,
    names: HashMap<String, String>,
    /// What of the sums is for months that were closed.
    adjustments: Vec<Adjustment>,
}

#[derive(Serialize)]
struct Document {
    from: String,
    to: String,
    by: Vec<&'static str>,
    items: Vec<Row>,
    total: Row,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adjustments: Vec<Row>,
}

/// What of the sums came for a month that was closed.
fn adjustment(adjustment: &Adjustment) -> Row {
    let row =
        Row::new().with("client", adjustment.client_id.to_string()).with("corrects", adjustment.corrects.as_str());
    with_sums(row, &adjustment.sum)
}

fn write(report: &Report, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
    let total = report.sums.iter().fold(UsageSum::default(), UsageSum::plus);
    let by = report.by.iter().map(|column| column.name());
    match format {
        Format::Json => {
            let items = report.sums.iter().map(|sum| item(&report.by, sum)).collect();
            let total = with_sums(Row::new(), &total);
            let adjustments = report.adjustments.iter().map(adjustment).collect();
            let (from, to) = (report.from.to_string(), report.to.to_string());
            let document = Document { from, to, by: by.collect(), items, total, adjustments };
            output::write_json(&document, out)
        }
        Format::Csv => {
            let columns: Vec<&str> = by.chain(SUMS.iter().copied()).collect();
            let rows: Vec<Row> = report.sums.iter().map(|sum| item(&report.by, sum)).collect();
            output::write_csv(&columns, &rows, out)
        }
        Format::Table => write_for_people(report, &total, out),
    }
}

/// The rows, then the total; names beside the ids of clients.
fn write_for_people(report: &Report, total: &UsageSum, out: &mut dyn Write) -> std::io::Result<()> {
    let mut columns: Vec<&'static str> = Vec::new();
    for column in &report.by {
        columns.push(column.name());
        if *column == Column::Client {
            columns.push("name");
        }
    }
    let mut rows: Vec<Row> = report.sums.iter().map(|sum| item_for_people(report, sum)).collect();
    match columns.first() {
        Some(first) => rows.push(with_sums(Row::new().with(first, "total"), total)),
        None => rows = vec![with_sums(Row::new(), total)],
    }
    columns.extend(SUMS);
    writeln!(out, "{} to {}", report.from, report.to)?;
    output::write_table(&columns, &rows, out)?;
    if report.adjustments.is_empty() {
        return Ok(());
    }
    writeln!(out, "of these, for months that were closed:")?;
    let rows: Vec<Row> = report.adjustments.iter().map(adjustment).collect();
    let columns: Vec<&str> = ["client", "corrects"].iter().chain(SUMS).copied().collect();
    output::write_table(&columns, &rows, out)
}

fn item_for_people(report: &Report, sum: &UsageSum) -> Row {
    let mut row = Row::new();
    for (column, text) in report.by.iter().zip(&sum.by) {
        // As text also where JSON has a number: the last row says "total" there.
        row = row.with(column.name(), text.as_str());
        if *column == Column::Client {
            row = row.with_text("name", report.names.get(text));
        }
    }
    with_sums(row, sum)
}

fn item(by: &[Column], sum: &UsageSum) -> Row {
    let values = by.iter().zip(&sum.by);
    let row = values.fold(Row::new(), |row, (column, text)| row.with(column.name(), column.value(text)));
    with_sums(row, sum)
}

fn with_sums(row: Row, sum: &UsageSum) -> Row {
    row.with("requests", sum.requests)
        .with("units", sum.units)
        .with("bytes_in", sum.bytes_in)
        .with("bytes_out", sum.bytes_out)
        .with("duration_us", sum.duration_us)
        .with("rejected", sum.rejected)
        .with("would_reject", sum.would_reject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period_of(from: Option<&str>, to: Option<&str>) -> Result<(String, String), Failure> {
        let now = "2026-11-22T20:15:30Z".parse().unwrap();
        let moment = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let arguments = Arguments { command: None, client: None, from: moment(from), to: moment(to), by: Vec::new() };
        period(&arguments, now).map(|(from, to)| (from.to_string(), to.to_string()))
    }

    #[test]
    fn periods_are_whole_hours_and_a_month_by_default() {
        for (from, to, start, end) in [
            (None, None, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            (Some("2026-10-05"), None, "2026-10-05T00:00:00Z", "2026-12-01T00:00:00Z"),
            (Some("-24h"), None, "2026-11-21T20:00:00Z", "2026-12-01T00:00:00Z"),
            (Some("2027-02-03"), None, "2027-02-03T00:00:00Z", "2027-03-01T00:00:00Z"),
            (None, Some("2026-11-01"), "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            (None, Some("-1h"), "2026-11-01T00:00:00Z", "2026-11-22T20:00:00Z"),
            (
                Some("2026-11-22T20:10:00Z"),
                Some("2026-11-22T20:20:00Z"),
                "2026-11-22T20:00:00Z",
                "2026-11-22T21:00:00Z",
            ),
        ] {
            assert_eq!(period_of(from, to).unwrap(), (start.to_owned(), end.to_owned()), "{from:?} {to:?}");
        }
        for (from, to) in [("2026-11-02", "2026-11-01"), ("2026-11-01", "2026-11-01")] {
            let failure = period_of(Some(from), Some(to)).unwrap_err();
            assert_eq!(failure.exit(), super::super::Exit::Usage);
        }
    }

    fn report(by: &[Column], rows: &[(&[&str], u64)]) -> Report {
        let sum = |(by, requests): &(&[&str], u64)| UsageSum {
            by: by.iter().map(ToString::to_string).collect(),
            requests: *requests,
            units: *requests,
            rejected: 1,
            ..UsageSum::default()
        };
        Report {
            from: "2026-11-01T00:00:00Z".parse().unwrap(),
            to: "2026-12-01T00:00:00Z".parse().unwrap(),
            by: by.to_vec(),
            sums: rows.iter().map(sum).collect(),
            names: HashMap::from([("c1".to_owned(), "acme".to_owned())]),
            adjustments: Vec::new(),
        }
    }

    fn written(report: &Report, format: Format) -> String {
        let mut out = Vec::new();
        write(report, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sums_have_their_three_shapes() {
        let report = report(&[Column::Client, Column::Status], &[(&["c1", "200"], 3), (&["c2", "502"], 4)]);
        assert_eq!(
            written(&report, Format::Json),
            "{\"from\":\"2026-11-01T00:00:00Z\",\"to\":\"2026-12-01T00:00:00Z\",\"by\":[\"client\",\"status\"],\"items\":[\
             {\"client\":\"c1\",\"status\":200,\"requests\":3,\"units\":3,\"bytes_in\":0,\"bytes_out\":0,\"duration_us\":0,\"rejected\":1,\"would_reject\":0},\
             {\"client\":\"c2\",\"status\":502,\"requests\":4,\"units\":4,\"bytes_in\":0,\"bytes_out\":0,\"duration_us\":0,\"rejected\":1,\"would_reject\":0}],\
             \"total\":{\"requests\":7,\"units\":7,\"bytes_in\":0,\"bytes_out\":0,\"duration_us\":0,\"rejected\":2,\"would_reject\":0}}\n"
        );
        assert_eq!(
            written(&report, Format::Csv),
            "client,status,requests,units,bytes_in,bytes_out,duration_us,rejected,would_reject\nc1,200,3,3,0,0,0,1,0\nc2,502,4,4,0,0,0,1,0\n"
        );
        let table = written(&report, Format::Table);
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["2026-11-01T00:00:00Z", "to", "2026-12-01T00:00:00Z"]);
        assert_eq!(words[2], ["c1", "acme", "200", "3", "3", "0", "0", "0", "1", "0"]);
        assert_eq!(words[3], ["c2", "-", "502", "4", "4", "0", "0", "0", "1", "0"]);
        assert_eq!(words[4], ["total", "-", "-", "7", "7", "0", "0", "0", "2", "0"]);
    }

    #[test]
    fn nothing_used_is_zero_and_no_row() {
        let empty = report(&[Column::Hour], &[]);
        assert!(written(&empty, Format::Json).contains("\"items\":[],\"total\":{\"requests\":0,"));
        let whole = report(&[], &[(&[], 9)]);
        assert!(written(&whole, Format::Json).contains("\"by\":[],\"items\":[{\"requests\":9,"));
        assert_eq!(written(&whole, Format::Table).lines().count(), 3);
    }
}
