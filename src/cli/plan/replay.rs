//! `octroi plan replay`: what a plan would have refused of what a client has done.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;

use crate::cli::output::{self, Format, Row};
use crate::cli::server::{Server, path};
use crate::cli::{Context, Failure, client};
use crate::config::Config;
use crate::config::moment::Moment;
use crate::limit::{self, PolicyRefusals, ReplayFault, ReplayReport, Trial};
use crate::store::Store;

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

impl Arguments {
    /// From when to when.
    fn span(&self, now: Timestamp) -> Result<(Timestamp, Timestamp), Failure> {
        let (from, to) = (self.from.at(now), self.to.map_or(now, |to| to.at(now)));
        if from >= to {
            return Err(Failure::usage(format!("--from {from} does not lie before --to {to}")));
        }
        Ok((from, to))
    }
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
    let (from, to) = arguments.span(context.clock.wall())?;
    let plan = super::find(store, &arguments.plan).await?;
    let client = client::find(store, &arguments.client).await?;
    let trial = Trial { client, plan, by_cost: config.limits.by_cost, from, to };
    let report = limit::replay(store, trial).await.map_err(|fault| match fault {
        ReplayFault::Deleted { .. } => Failure::usage(fault.to_string()),
        ReplayFault::Store(error) => error.into(),
    })?;
    Ok(write(&report, context.format, out)?)
}

/// The same by an admin API.
///
/// # Errors
/// What the server says.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (from, to) = arguments.span(context.clock.wall())?;
    let plan = super::remote::place(server, &arguments.plan).await?;
    let client = server.client(&arguments.client).await?.to_string();
    let query = [("client", client.as_str()), ("from", &from.to_string()), ("to", &to.to_string())];
    let report = server.read_patiently(&path(&format!("{plan}/replay"), &query)).await?;
    Ok(write(&report, context.format, out)?)
}

fn write(report: &ReplayReport, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
    if format == Format::Json {
        return output::write_json(report, out);
    }
    let row = Row::new()
        .with("plan", report.plan.as_str())
        .with("client", report.client.as_str())
        .with("from", report.from.to_string())
        .with("to", report.to.to_string())
        .with("events", report.events)
        .with("units", report.units)
        .with("refused", report.refused)
        .with("refused_units", report.refused_units)
        .with("refused_then", report.refused_then)
        .with("exact", report.exact);
    output::write_object(&row, format, out)?;
    for PolicyRefusals { policy, kind, refused, first, last } in &report.by_policy {
        writeln!(out, "{policy} ({kind}): {refused} refused, first at {first}, last at {last}")?;
    }
    report.caveat.as_ref().map_or(Ok(()), |caveat| writeln!(out, "{caveat}"))
}
