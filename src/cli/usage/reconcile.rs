//! `octroi usage reconcile`: three books, told apart: the journals of this machine, the events, the
//! sums. Beside the store, or by an admin API on the machine of its gateway.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::open::open;
use crate::cli::output::{self, Format, Row};
use crate::cli::server::{Server, path};
use crate::cli::{Context, Exit, Failure, client};
use crate::config::moment::Moment;
use crate::metering::{Comparison, Difference, ReconcileError, Reconciliation, Scope};
use crate::model::id::ClientId;

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

impl Arguments {
    /// What is to be compared; whose is not known yet.
    fn scope(&self, now: Timestamp) -> Result<Scope, Failure> {
        let scope = Scope::of(self.from.map(|from| from.at(now)), self.to.map(|to| to.at(now)), None, now);
        if scope.is_empty() {
            return Err(Failure::usage(format!("--from {} does not lie before --to {}", scope.from, scope.to)));
        }
        Ok(scope)
    }
}

/// Compares and prints.
///
/// # Errors
/// The books differ (exit 1); the store is away.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let mut scope = arguments.scope(context.clock.wall())?;
    if let Some(named) = &arguments.client {
        scope.client = Some(client::find(&store, named).await?.id);
    }
    let mut comparison = Comparison::of(&store, &loaded.config.metering.dir, scope).await.map_err(failed)?;
    let differing = comparison.hours_differing();
    if arguments.rebuild && differing > 0 {
        comparison.rebuild().await.map_err(failed)?;
        context.tell(&format!("the sums of {differing} hours were made anew, and compared again"));
    }
    conclude(&comparison.report(), context.format, out)
}

/// The same by an admin API: it has the journals of its gateway.
///
/// # Errors
/// The books differ (exit 1); what the server says.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut scope = arguments.scope(context.clock.wall())?;
    if let Some(named) = &arguments.client {
        scope.client = Some(ClientId(server.client(named).await?));
    }
    let (from, to) = (scope.from.to_string(), scope.to.to_string());
    let report = if arguments.rebuild {
        let body = json!({ "from": from, "to": to });
        server.ask_patiently(Method::POST, "/v1/usage/reconcile", Some(&body)).await?
    } else {
        let client = scope.client.map(|client| client.to_string());
        let mut query = vec![("from", from.as_str()), ("to", &to)];
        query.extend(client.as_deref().map(|client| ("client", client)));
        server.read_patiently(&path("/v1/usage/reconcile", &query)).await?
    };
    conclude(&report, context.format, out)
}

fn failed(error: ReconcileError) -> Failure {
    match error {
        ReconcileError::Store(error) => error.into(),
        ReconcileError::Disk(_) => Failure::new(Exit::Failed, "journal_unreadable", error.to_string()),
        ReconcileError::TooManyHours(hours) => {
            let detail = format!("{hours} hours differ; name fewer of them by --from and --to");
            Failure::new(Exit::Failed, "too_many_hours", detail)
        }
        ReconcileError::NotRebuilt(why) => Failure::new(Exit::Failed, "not_rebuilt", why.to_string()),
    }
}

/// Prints it, and fails where the books differ.
fn conclude(report: &Reconciliation, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    write(report, format, out)?;
    if report.equal {
        return Ok(());
    }
    let mut said = vec![format!("the books differ in {} places", report.found)];
    said.extend(remedies(report));
    Err(Failure::new(Exit::Failed, "books_differ", said.join("; ")))
}

/// What to do about each kind.
fn remedies(report: &Reconciliation) -> impl Iterator<Item = String> {
    let kinds = report.differences.iter().map(|difference| (difference.kind(), remedy(difference)));
    kinds.collect::<BTreeMap<_, _>>().into_values().map(ToOwned::to_owned)
}

fn remedy(difference: &Difference) -> &'static str {
    match difference {
        Difference::Rollup(_) => "`octroi usage reconcile --rebuild` makes sums anew from events",
        Difference::Lost(_) => "`octroi usage redrain` sends again what the store lost",
        Difference::Owed(_) => "entries that wait for the store: is a gateway running on this `metering.dir`?",
        Difference::Content(_) => "events differ from what was journaled: somebody wrote to the table",
    }
}

fn write(report: &Reconciliation, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
    if format == Format::Json {
        return output::write_json(&sorted(report), out);
    }
    let row = Row::new()
        .with("from", report.from.to_string())
        .with("to", report.to.to_string())
        .with("equal", report.equal)
        .with("hours", report.hours)
        .with("events", report.events.requests)
        .with("sums", report.rollups.requests)
        .with("journal_entries", report.journal.entries)
        .with("journal_open", report.journal.open)
        .with("unseen_nodes", report.journal.unseen_nodes.iter().cloned().collect::<Vec<_>>())
        .with_text("events_kept_from", report.events_kept_from)
        .with("differences", report.found);
    output::write_object(&row, format, out)?;
    for difference in &report.differences {
        output::write_json(&sorted(difference), out)?;
    }
    Ok(())
}

/// With members in the order of their names, as this command has always written them.
fn sorted(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
