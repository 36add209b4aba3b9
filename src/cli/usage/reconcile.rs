//! `octroi usage reconcile`: three books, told apart: the journals of this machine, the events, the
//! sums. Hour by hour and batch by batch, so that a year of them costs no memory.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::open::open;
use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Exit, Failure, client};
use crate::config::moment::{self as time, Moment};
use crate::metering::{LocalEntry, LocalJournals, Where};
use crate::model::id::ClientId;
use crate::model::usage::UsageEvent;
use crate::store::Store;
use crate::store::audit::{Amounts, LISTED};
use crate::store::events::EventRow;
use crate::tasks::blocking;

/// What ended so long ago is in the store, unless something is wrong.
const DRAINED_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// The most hours that are made anew at once.
const REBUILT_AT_ONCE: usize = 31 * 24;

/// `octroi usage reconcile`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this client's: its id or name
    #[arg(long, value_name = "C", conflicts_with = "rebuild")]
    client: Option<String>,
    /// From this hour on: RFC 3339, a day (UTC) or how long ago, like -24h; the month's start without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// Up to this time, not including it; its hour is taken whole; the current one without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Moment>,
    /// Make the sums of hours that differ anew from their events, in one transaction
    #[arg(long)]
    rebuild: bool,
}

/// Compares and prints.
///
/// # Errors
/// The books differ (exit 1); the store is away.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let now = context.clock.wall();
    let to = time::hour_from(arguments.to.map_or(now, |to| to.at(now)));
    let from = time::hour_of(arguments.from.map_or_else(|| time::month_of(now), |from| from.at(now)));
    if from >= to {
        return Err(Failure::usage(format!("--from {from} does not lie before --to {to}")));
    }
    let client = match &arguments.client {
        Some(named) => Some(client::find(&store, named).await?.id),
        None => None,
    };
    let scope = Scope { from, to, client, ended_before: now.saturating_sub(DRAINED_WITHIN).unwrap_or(now) };
    let mut report = Report::new(scope);
    report.compare_hours(&store).await?;
    report.compare_journals(&store, LocalJournals::of(&loaded.config.metering.dir)).await?;
    if arguments.rebuild && !report.hours_differing.is_empty() {
        rebuild(&store, &report).await?;
        context.tell(&format!("the sums of {} hours were made anew; comparing again", report.hours_differing.len()));
        report.forget_hours();
        report.compare_hours(&store).await?;
    }
    report.write(context.format, out)?;
    if report.found == 0 {
        return Ok(());
    }
    let detail = format!("the books differ in {} places{}", report.found, report.remedies());
    Err(Failure::new(Exit::Failed, "books_differ", detail))
}

async fn rebuild(store: &Store, report: &Report) -> Result<(), Failure> {
    let hours: Vec<Timestamp> = report.hours_differing.iter().copied().collect();
    if hours.len() > REBUILT_AT_ONCE {
        let detail = format!("{} hours differ; name fewer of them by --from and --to", hours.len());
        return Err(Failure::new(Exit::Failed, "too_many_hours", detail));
    }
    let refuse = |why: crate::store::audit::NotRebuilt| Failure::new(Exit::Failed, "not_rebuilt", why.to_string());
    store.audit.rebuild(&hours).await?.map_err(refuse)
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
struct Scope {
    from: Timestamp,
    to: Timestamp,
    client: Option<ClientId>,
    ended_before: Timestamp,
}

impl Scope {
    fn holds(&self, entry: &LocalEntry) -> bool {
        let event = &entry.event;
        event.occurred_at >= self.from
            && event.occurred_at < self.to
            && entry.ended < self.ended_before
            && self.client.is_none_or(|client| event.client_id == client)
    }
}

struct Report {
    scope: Scope,
    mark: Option<Timestamp>,
    hours: u64,
    events: Amounts,
    rollups: Amounts,
    journal_entries: u64,
    journal_open: u64,
    journal_folders: usize,
    unreadable: u64,
    /// Nodes whose journals are elsewhere.
    unseen: BTreeSet<String>,
    differences: Vec<Value>,
    hours_differing: BTreeSet<Timestamp>,
    kinds: BTreeSet<&'static str>,
    /// How many there are, listed or not.
    found: u64,
}

impl Report {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            mark: None,
            hours: 0,
            events: Amounts::default(),
            rollups: Amounts::default(),
            journal_entries: 0,
            journal_open: 0,
            journal_folders: 0,
            unreadable: 0,
            unseen: BTreeSet::new(),
            differences: Vec::new(),
            hours_differing: BTreeSet::new(),
            kinds: BTreeSet::new(),
            found: 0,
        }
    }

    /// Forgets what was found of hours, to compare them again.
    fn forget_hours(&mut self) {
        let before = self.differences.len();
        self.differences.retain(|difference| difference["kind"] != "rollup");
        self.found -= (before - self.differences.len()) as u64;
        self.kinds.remove("rollup");
        self.hours_differing.clear();
        (self.hours, self.events, self.rollups) = (0, Amounts::default(), Amounts::default());
    }

    fn note(&mut self, kind: &'static str, difference: Value) {
        self.found += 1;
        self.kinds.insert(kind);
        if self.differences.len() < LISTED as usize {
            self.differences.push(difference);
        }
    }

    async fn compare_hours(&mut self, store: &Store) -> Result<(), Failure> {
        self.mark = store.audit.retention_mark().await?;
        let mut hour = self.mark.map_or(self.scope.from, |mark| self.scope.from.max(mark));
        while hour < self.scope.to {
            let books = store.audit.compare_hour(hour, self.scope.client).await?;
            self.hours += 1;
            add(&mut self.events, &books.events);
            add(&mut self.rollups, &books.rollups);
            for differing in books.differing {
                self.hours_differing.insert(hour);
                self.note(
                    "rollup",
                    json!({
                        "kind": "rollup",
                        "hour": hour.to_string(),
                        "client": differing.client_id.to_string(),
                        "events": amounts(&differing.events),
                        "rollups": amounts(&differing.rollups),
                    }),
                );
            }
            hour = time::hour_from(hour.saturating_add(SignedDuration::from_secs(1)).unwrap_or(self.scope.to));
        }
        Ok(())
    }

    async fn compare_journals(&mut self, store: &Store, journals: LocalJournals) -> Result<(), Failure> {
        let unreadable = |error: std::io::Error| {
            Failure::new(Exit::Failed, "journal_unreadable", format!("the journals could not be read: {error}"))
        };
        let mut journals = journals;
        loop {
            let batch;
            (journals, batch) = blocking(move || {
                let batch = journals.next_batch();
                (journals, batch)
            })
            .await;
            let batch = batch.map_err(unreadable)?;
            if batch.is_empty() {
                break;
            }
            let entries: Vec<LocalEntry> = batch.into_iter().filter(|entry| self.scope.holds(entry)).collect();
            self.compare_entries(store, &entries).await?;
        }
        let counts = journals.counts();
        (self.journal_folders, self.journal_open) = (counts.folders.len(), counts.open);
        self.unreadable = counts.unreadable;
        let known = store.journals.journals().await?;
        let elsewhere = known.into_iter().filter(|journal| !counts.folders.contains(&journal.id));
        self.unseen = elsewhere.map(|journal| journal.node).collect();
        Ok(())
    }

    async fn compare_entries(&mut self, store: &Store, entries: &[LocalEntry]) -> Result<(), Failure> {
        let is_past = |event: &UsageEvent| self.mark.is_some_and(|mark| event.id.is_before(mark));
        let entries: Vec<&LocalEntry> = entries.iter().filter(|entry| !is_past(&entry.event)).collect();
        let ids: Vec<Uuid> = entries.iter().map(|entry| entry.event.id.0).collect();
        let mut rows = store.audit.events_of(&ids).await?;
        rows.sort_by_key(|row| row.id);
        self.journal_entries += entries.len() as u64;
        for entry in entries {
            let event = &entry.event;
            let row = rows.binary_search_by_key(&event.id.0, |row| row.id).ok().map(|place| &rows[place]);
            let kind = match (row, entry.place) {
                (Some(row), _) if says_the_same(event, row) => continue,
                (Some(_), _) => "content",
                (None, Where::Kept) => "lost",
                (None, Where::Journal) => "owed",
            };
            self.note(
                kind,
                json!({
                    "kind": kind,
                    "id": event.id.to_string(),
                    "hour": time::hour_of(event.occurred_at).to_string(),
                    "client": event.client_id.to_string(),
                    "node": event.node,
                    "units": event.units,
                }),
            );
        }
        Ok(())
    }

    /// What to do about each kind.
    fn remedies(&self) -> String {
        let remedy = |kind: &&'static str| match *kind {
            "rollup" => "; `octroi usage reconcile --rebuild` makes sums anew from events",
            "lost" => "; `octroi usage redrain` sends again what the store lost",
            "owed" => "; entries that wait for the store: is a gateway running on this `metering.dir`?",
            _ => "; events differ from what was journaled: somebody wrote to the table",
        };
        self.kinds.iter().map(remedy).collect()
    }

    fn write(&self, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
        if format == Format::Json {
            return output::write_json(&self.document(), out);
        }
        let row = Row::new()
            .with("from", self.scope.from.to_string())
            .with("to", self.scope.to.to_string())
            .with("equal", self.found == 0)
            .with("hours", self.hours)
            .with("events", self.events.requests)
            .with("sums", self.rollups.requests)
            .with("journal_entries", self.journal_entries)
            .with("journal_open", self.journal_open)
            .with("unseen_nodes", self.unseen.iter().cloned().collect::<Vec<_>>())
            .with_text("events_kept_from", self.mark)
            .with("differences", self.found);
        output::write_object(&row, format, out)?;
        self.differences.iter().try_for_each(|difference| writeln!(out, "{difference}"))
    }

    fn document(&self) -> Value {
        json!({
            "from": self.scope.from.to_string(),
            "to": self.scope.to.to_string(),
            "equal": self.found == 0,
            "hours": self.hours,
            "events": amounts(&self.events),
            "rollups": amounts(&self.rollups),
            "events_kept_from": self.mark.map(|mark| mark.to_string()),
            "journal": {
                "folders": self.journal_folders,
                "entries": self.journal_entries,
                "open": self.journal_open,
                "unreadable_segments": self.unreadable,
                "unseen_nodes": self.unseen,
            },
            "differences": self.differences,
            "found": self.found,
        })
    }
}

fn says_the_same(event: &UsageEvent, row: &EventRow) -> bool {
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    event.client_id.0 == row.client_id
        && event.occurred_at == row.occurred_at
        && event.outcome.as_str() == row.outcome
        && event.status.map(i32::from) == row.status
        && i64::from(event.units) == row.units
        && count(event.bytes_in) == row.bytes_in
        && count(event.bytes_out) == row.bytes_out
        && count(event.duration_us) == row.duration_us
        && event.kind.as_str() == row.kind
        && event.kind.parent().map(|id| id.0) == row.parent_id
}

fn amounts(amounts: &Amounts) -> Value {
    json!({
        "requests": amounts.requests,
        "units": amounts.units,
        "bytes_in": amounts.bytes_in,
        "bytes_out": amounts.bytes_out,
        "duration_us": amounts.duration_us,
    })
}

fn add(total: &mut Amounts, more: &Amounts) {
    total.requests += more.requests;
    total.units += more.units;
    total.bytes_in += more.bytes_in;
    total.bytes_out += more.bytes_out;
    total.duration_us += more.duration_us;
}
