//! `octroi usage`: sums from the hourly rollups.

use std::collections::HashMap;

use clap::{Args, ValueEnum};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Unit};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::output::OutputFormat;
use super::session::Session;
use crate::config::units::parse_duration;
use crate::model::id::ClientId;
use crate::store::{UsageColumn, UsageQuery, UsageSum};

#[derive(Debug, Args)]
pub(super) struct UsageArguments {
    /// Only this client's: an id or a name
    #[arg(long)]
    client: Option<String>,
    /// From this time on: RFC 3339, YYYY-MM-DD (UTC) or like -24h [default: this month's beginning]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Up to this time, not including it [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// One row for each combination of these
    #[arg(long, value_delimiter = ',', value_enum, default_value = "client")]
    by: Vec<By>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
enum By {
    Client,
    Key,
    Route,
    Status,
    Outcome,
    Hour,
    Day,
    Month,
}

impl By {
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

    fn column(self) -> UsageColumn {
        match self {
            Self::Client => UsageColumn::Client,
            Self::Key => UsageColumn::Key,
            Self::Route => UsageColumn::Route,
            Self::Status => UsageColumn::Status,
            Self::Outcome => UsageColumn::Outcome,
            Self::Hour => UsageColumn::Hour,
            Self::Day => UsageColumn::Day,
            Self::Month => UsageColumn::Month,
        }
    }
}

/// What each row counts, after its columns.
const COUNTS: [&str; 6] = ["requests", "units", "bytes_in", "bytes_out", "duration_us", "rejected"];

pub(super) async fn run(arguments: UsageArguments, session: Session) -> Result<(), Failure> {
    let now = session.now();
    let from = match &arguments.from {
        Some(text) => round(read_time(text, now)?, false)?,
        None => month_of(now)?,
    };
    let to = match &arguments.to {
        Some(text) => round(read_time(text, now)?, true)?,
        None => next_month(now)?,
    };
    if from >= to {
        return Err(Failure::usage(format!("nothing lies between {from} and {to}")));
    }
    session.tables_are_ready().await?;
    let client = match &arguments.client {
        Some(client) => Some(session.client(client).await?.id),
        None => None,
    };
    let query = UsageQuery { from, to, client, by: arguments.by.iter().map(|by| by.column()).collect() };
    let sums = session.store.usage.sums(&query).await?;
    show(&session, &arguments.by, &query, &sums).await
}

async fn show(session: &Session, by: &[By], query: &UsageQuery, sums: &[UsageSum]) -> Result<(), Failure> {
    let rows: Vec<Map<String, Value>> = sums.iter().map(|sum| row(by, sum)).collect();
    let total = sums.iter().fold(UsageSum::default(), add);
    match session.output {
        OutputFormat::Json => {
            let by: Vec<_> = by.iter().map(|by| by.name()).collect();
            let (from, to) = (query.from.to_string(), query.to.to_string());
            println!("{}", json!({ "from": from, "to": to, "by": by, "items": rows, "total": counts(&total) }));
        }
        OutputFormat::Csv => session.output.rows(&columns(by), &rows),
        OutputFormat::Table => {
            let mut rows = rows;
            name_clients(session, &mut rows).await?;
            let mut last = counts(&total);
            if let Some(first) = by.first() {
                last.insert(first.name().to_owned(), "total".into());
            }
            rows.push(last);
            eprintln!("from {} to {} (UTC)", query.from, query.to);
            session.output.rows(&columns(by), &rows);
        }
    }
    Ok(())
}

fn columns(by: &[By]) -> Vec<String> {
    by.iter().map(|by| by.name()).chain(COUNTS).map(str::to_owned).collect()
}

fn row(by: &[By], sum: &UsageSum) -> Map<String, Value> {
    let mut row = Map::new();
    for (by, value) in by.iter().zip(&sum.by) {
        // A status is a number; none is null.
        let value = match by {
            By::Status => value.parse::<u16>().ok().filter(|status| *status > 0).map_or(Value::Null, Value::from),
            _ => Value::from(value.clone()),
        };
        row.insert(by.name().to_owned(), value);
    }
    row.extend(counts(sum));
    row
}

fn counts(sum: &UsageSum) -> Map<String, Value> {
    let values = [sum.requests, sum.units, sum.bytes_in, sum.bytes_out, sum.duration_us, sum.rejected];
    COUNTS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.into())).collect()
}

fn add(mut total: UsageSum, sum: &UsageSum) -> UsageSum {
    total.requests += sum.requests;
    total.units += sum.units;
    total.bytes_in += sum.bytes_in;
    total.bytes_out += sum.bytes_out;
    total.duration_us += sum.duration_us;
    total.rejected += sum.rejected;
    total
}

/// People read names; ids stay in JSON and CSV, where programs join on them.
async fn name_clients(session: &Session, rows: &mut [Map<String, Value>]) -> Result<(), Failure> {
    let mut names: HashMap<String, String> = HashMap::new();
    for row in rows {
        let Some(Value::String(id)) = row.get("client").cloned() else { continue };
        if !names.contains_key(&id) {
            let found = match id.parse::<ClientId>() {
                Ok(client) if !client.is_nil() => session.store.clients.find(client).await?.map(|client| client.name),
                _ => Some("(nobody)".to_owned()),
            };
            names.insert(id.clone(), found.unwrap_or_else(|| id.clone()));
        }
        row.insert("client".to_owned(), names[&id].clone().into());
    }
    Ok(())
}

fn read_time(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let wrong = || Failure::usage(format!("{text:?} is not a time; write RFC 3339, YYYY-MM-DD (UTC) or like -24h"));
    if let Some(back) = text.strip_prefix('-') {
        let back = parse_duration(back).map_err(|_| wrong())?;
        return now.checked_sub(back).map_err(|_| wrong());
    }
    if let Ok(date) = text.parse::<Date>()
        && !text.contains('T')
    {
        return date.to_zoned(TimeZone::UTC).map(|day| day.timestamp()).map_err(|_| wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// To whole hours: the beginning down, the end up.
fn round(time: Timestamp, up: bool) -> Result<Timestamp, Failure> {
    let mode = if up { jiff::RoundMode::Ceil } else { jiff::RoundMode::Floor };
    time.round(jiff::TimestampRound::new().smallest(Unit::Hour).mode(mode))
        .map_err(|error| Failure::usage(error.to_string()))
}

fn month_of(now: Timestamp) -> Result<Timestamp, Failure> {
    let first = now.to_zoned(TimeZone::UTC).date().first_of_month();
    first.to_zoned(TimeZone::UTC).map(|day| day.timestamp()).map_err(|error| Failure::usage(error.to_string()))
}

fn next_month(now: Timestamp) -> Result<Timestamp, Failure> {
    let first = now.to_zoned(TimeZone::UTC).date().first_of_month().checked_add(1.month());
    let next = first.and_then(|day| day.to_zoned(TimeZone::UTC)).map(|day| day.timestamp());
    next.map_err(|error| Failure::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written_and_rounded_to_hours() {
        let now: Timestamp = "2026-11-22T20:15:30Z".parse().unwrap();
        for (text, read) in [
            ("2026-11-01", Some("2026-11-01T00:00:00Z")),
            ("2026-11-01T10:30:00Z", Some("2026-11-01T10:30:00Z")),
            ("2026-11-01T10:30:00+02:00", Some("2026-11-01T08:30:00Z")),
            ("-24h", Some("2026-11-21T20:15:30Z")),
            ("-90d", Some("2026-08-24T20:15:30Z")),
            ("yesterday", None),
            ("24h", None),
            ("2026-13-01", None),
        ] {
            let found = read_time(text, now).ok();
            assert_eq!(found, read.map(|time| time.parse().unwrap()), "{text}");
        }
        assert_eq!(round(now, false).unwrap().to_string(), "2026-11-22T20:00:00Z");
        assert_eq!(round(now, true).unwrap().to_string(), "2026-11-22T21:00:00Z");
        assert_eq!(month_of(now).unwrap().to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(next_month(now).unwrap().to_string(), "2026-12-01T00:00:00Z");
    }
}
