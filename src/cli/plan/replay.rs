//! `octroi plan replay`: what a plan would have refused of what a client has done.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Failure, client};
use crate::config::Config;
use crate::config::moment::{self as time, Moment};
use crate::limit::{ExceededKind, Recorded, Replay, WouldRefuse};
use crate::model::id::ClientId;
use crate::model::usage::{REJECTED, STREAM};
use crate::store::events::{EventQuery, EventRow};
use crate::store::{Store, UsageColumn, UsageQuery};

/// How many events are read at a time.
const PAGE: u32 = 2_000;
/// So many refusals are listed one by one.
const LISTED: usize = 20;

/// `octroi plan replay`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The proposed plan: its id or name. Nobody has to be on it
    #[arg(value_name = "PLAN")]
    plan: String,
    /// Whose requests: the client's id or name
    #[arg(long, value_name = "C")]
    client: String,
    /// Those that arrived from then on: RFC 3339, a day (UTC) or how long ago, like -24h
    #[arg(long, value_name = "T", allow_hyphen_values = true, default_value = "-24h")]
    from: Moment,
    /// And before then; now without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Moment>,
}

/// Replays and prints.
///
/// # Errors
/// A plan or a client that is not there, events that are deleted, a store that is away.
pub(in crate::cli) async fn run(
    context: &Context,
    (config, store): (&Config, &Store),
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let now = context.clock.wall();
    let (from, to) = (arguments.from.at(now), arguments.to.map_or(now, |to| to.at(now)));
    if from >= to {
        return Err(Failure::usage(format!("--from {from} does not lie before --to {to}")));
    }
    if let Some(mark) = store.audit.retention_mark().await?
        && from < mark
    {
        return Err(Failure::usage(format!("events from before {mark} are deleted: there is nothing to replay")));
    }
    let plan = super::find(store, &arguments.plan).await?;
    let client = client::find(store, &arguments.client).await?;
    let mut report = Report::new(plan.name.clone(), client.name.clone(), from, to);
    report.refused_then = refused_then(store, client.id, from, to).await?;
    let mut replay = Replay::new(&client, plan, config.limits.by_cost, from);
    let mut before = Vec::new();
    for window in replay.windows_before() {
        before.push(store.quotas.units(client.id, window).await?);
    }
    replay.used_before(&before);
    let query = EventQuery { client: Some(client.id), ..EventQuery::between(from, to) };
    let mut after = None;
    loop {
        let events = store.events.events(&query, after, PAGE).await?;
        // What was asked for as a request; interim records are a part of one.
        for event in events.iter().filter(|event| !["adjustment", STREAM].contains(&event.kind.as_str())) {
            let request = Recorded {
                arrived: event.occurred_at,
                lasted: Duration::from_micros(event.duration_us.unsigned_abs()),
                units: u32::try_from(event.units).unwrap_or(u32::MAX),
            };
            report.note(event, replay.ask(request).err());
        }
        after = events.last().map(|event| event.id);
        if events.len() < PAGE as usize {
            break;
        }
    }
    Ok(report.write(context.format, out)?)
}

/// How many requests of these hours limits refused when they came: no event says when.
async fn refused_then(store: &Store, client: ClientId, from: Timestamp, to: Timestamp) -> Result<u64, Failure> {
    let query = UsageQuery {
        from: time::hour_of(from),
        to: time::hour_from(to),
        client: Some(client),
        by: vec![UsageColumn::Outcome, UsageColumn::Status],
    };
    let sums = store.usage.sums(&query).await?;
    Ok(sums.iter().filter(|sum| sum.by == [REJECTED, "429"]).map(|sum| sum.rejected).sum())
}

/// What one policy would have refused.
#[derive(Clone, Debug)]
struct ByPolicy {
    what: &'static str,
    refused: u64,
    first: Timestamp,
    last: Timestamp,
}

struct Report {
    plan: String,
    client: String,
    from: Timestamp,
    to: Timestamp,
    events: u64,
    units: u64,
    refused: u64,
    refused_units: u64,
    refused_then: u64,
    policies: BTreeMap<String, ByPolicy>,
    hours: BTreeMap<Timestamp, u64>,
    listed: Vec<Value>,
}

impl Report {
    fn new(plan: String, client: String, from: Timestamp, to: Timestamp) -> Self {
        Self {
            plan,
            client,
            from,
            to,
            events: 0,
            units: 0,
            refused: 0,
            refused_units: 0,
            refused_then: 0,
            policies: BTreeMap::new(),
            hours: BTreeMap::new(),
            listed: Vec::new(),
        }
    }

    fn note(&mut self, event: &EventRow, refused: Option<WouldRefuse>) {
        let (at, units) = (event.occurred_at, event.units.unsigned_abs());
        self.events += 1;
        self.units += units;
        let Some(WouldRefuse { policy, what }) = refused else { return };
        self.refused += 1;
        self.refused_units += units;
        *self.hours.entry(time::hour_of(at)).or_default() += 1;
        let what = word(what);
        let by = self.policies.entry(policy.clone().into_owned());
        let by = by.or_insert(ByPolicy { what, refused: 0, first: at, last: at });
        by.refused += 1;
        by.last = by.last.max(at);
        if self.listed.len() < LISTED {
            self.listed.push(json!({
                "at": at.to_string(),
                "request_id": event.request_id,
                "route": event.route,
                "units": units,
                "policy": policy,
            }));
        }
    }

    /// Why the figures are not the whole truth; none: they are.
    fn caveat(&self) -> Option<String> {
        (self.refused_then > 0).then(|| {
            format!(
                "{} requests were refused by limits when they came, and nobody knows at which moment: they are not in \
                 these figures. A stricter plan would have refused at least so many; what a looser one would have let \
                 through cannot be said",
                self.refused_then
            )
        })
    }

    fn write(&self, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
        let row = Row::new()
            .with("plan", self.plan.as_str())
            .with("client", self.client.as_str())
            .with("from", self.from.to_string())
            .with("to", self.to.to_string())
            .with("events", self.events)
            .with("units", self.units)
            .with("refused", self.refused)
            .with("refused_units", self.refused_units)
            .with("refused_then", self.refused_then)
            .with("exact", self.refused_then == 0);
        if format != Format::Json {
            output::write_object(&row, format, out)?;
            for (policy, by) in &self.policies {
                let ByPolicy { what, refused, first, last } = by;
                writeln!(out, "{policy} ({what}): {refused} refused, first at {first}, last at {last}")?;
            }
            return self.caveat().map_or(Ok(()), |caveat| writeln!(out, "{caveat}"));
        }
        let policy = |(policy, by): (&String, &ByPolicy)| {
            json!({
                "policy": policy,
                "kind": by.what,
                "refused": by.refused,
                "first": by.first.to_string(),
                "last": by.last.to_string(),
            })
        };
        let hour = |(hour, refused): (&Timestamp, &u64)| json!({ "hour": hour.to_string(), "refused": refused });
        let row = row
            .with("by_policy", self.policies.iter().map(policy).collect::<Vec<_>>())
            .with("by_hour", self.hours.iter().map(hour).collect::<Vec<_>>())
            .with("first", self.listed.clone())
            .with_text("caveat", self.caveat());
        output::write_json(&row, out)
    }
}

fn word(what: ExceededKind) -> &'static str {
    match what {
        ExceededKind::Rate => "rate",
        ExceededKind::Quota => "quota",
        ExceededKind::Concurrency => "concurrency",
    }
}
