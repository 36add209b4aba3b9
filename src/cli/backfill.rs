//! `octroi backfill run|status|verify|finish`: raw keys of an adopted database become hashes.

use std::io::{IsTerminal as _, Write, stderr};

use clap::{Args, Subcommand};
use serde_json::json;

use super::open::open_store;
use super::output::{self, Format, ListWriter, Row};
use super::{Context, Exit, Failure};
use crate::auth::backfill::{Backfill, Difference, Finished, Standing, Totals};
use crate::auth::guard_pepper;
use crate::crypto::core_dumps;
use crate::crypto::pepper::Peppers;
use crate::model::audit::Note;
use crate::store::Store;

/// `octroi backfill …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key named `migrated-legacy` of each raw key in clients.api_key; may be repeated
    Run(Run),
    /// Count the raw keys, and those that are migrated
    Status,
    /// See that each raw key is a key of its client; exit 1 and the differences otherwise
    Verify,
    /// Forget the raw keys, once `verify` is clean
    Finish,
}

/// `octroi backfill run`
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Only count what would be done
    #[arg(long)]
    dry_run: bool,
    /// Clients at a time
    #[arg(long, value_name = "N", default_value_t = BATCH, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    batch: u32,
}

/// Large enough that 100,000 keys are 20 changes to a running gateway, small enough for memory.
const BATCH: u32 = 5_000;

const DIFFERENCE_COLUMNS: &[&str] = &["client_id", "reason"];

const NO_COLUMN: &str = "this store has no raw keys: its table \"clients\" has no column \"api_key\"";

/// Runs one of them.
///
/// # Errors
/// No pepper, or another than the store's; the store is away; keys that are not migrated.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    // Before the first raw key is read.
    core_dumps::forbid().map_err(|error| {
        let detail = format!("raw keys are not read, since core dumps could not be switched off: {error}");
        Failure::new(Exit::Failed, "core_dumps", detail)
    })?;
    let batch = if let Command::Run(run) = command { run.batch } else { BATCH };
    let Some((store, backfill)) = prepare(context, batch).await? else {
        return answer_without_column(context, command, out);
    };
    let total = backfill.legacy.count().await?;
    let mut progress = Progress::new(context, total);
    note(&store, command, total).await?;
    match command {
        Command::Run(run) => {
            let totals = backfill.run(run.dry_run, &mut |done| progress.tell(done)).await;
            progress.end();
            write_run(context, &totals?, run.dry_run, out)
        }
        Command::Status => {
            let totals = backfill.verify(&mut |done| progress.tell(done)).await;
            progress.end();
            Ok(output::write_object(&status(&totals?), context.format, out)?)
        }
        Command::Verify => {
            let totals = backfill.verify(&mut |done| progress.tell(done)).await;
            progress.end();
            let totals = totals?;
            write_differences(context, &totals.differences, out)?;
            refuse_differences(&totals)
        }
        Command::Finish => {
            let finished = backfill.finish(&mut |done| progress.tell(done)).await;
            progress.end();
            write_finish(context, &finished?, out)
        }
    }
}

/// One row in the audit for a run, before it begins: nothing is changed without it, wherever it is
/// broken off.
async fn note(store: &Store, command: &Command, raw_keys: u64) -> Result<(), Failure> {
    let action = match command {
        Command::Run(run) if !run.dry_run => "backfill.run",
        Command::Finish => "backfill.finish",
        Command::Run(_) | Command::Status | Command::Verify => return Ok(()),
    };
    Ok(store.trail.record(Note::of_run(action, "store", json!({ "raw_keys": raw_keys }))).await?)
}

/// None: there is no column to read raw keys from.
async fn prepare(context: &Context, batch: u32) -> Result<Option<(Store, Backfill)>, Failure> {
    let loaded = context.load()?;
    let auth = &loaded.config.auth;
    let store = open_store(context, &loaded.config).await?;
    let Some(legacy) = store.legacy.clone() else { return Ok(None) };
    if !legacy.is_present().await? {
        return Ok(None);
    }
    let peppers = Peppers::new(auth.require_pepper()?, auth.pepper_previous.as_ref());
    let pepper_version = guard_pepper(&peppers, store.peppers.as_ref()).await?.current;
    Ok(Some((store, Backfill { legacy, peppers, pepper_version, prefix: auth.prefix.clone(), batch })))
}

fn answer_without_column(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Run(_) | Command::Finish => Err(Failure::new(Exit::Failed, "no_raw_keys", NO_COLUMN)),
        Command::Status => {
            context.tell(NO_COLUMN);
            Ok(output::write_object(&status(&Totals::default()), context.format, out)?)
        }
        Command::Verify => {
            context.tell(NO_COLUMN);
            Ok(write_differences(context, &[], out)?)
        }
    }
}

fn status(totals: &Totals) -> Row {
    Row::new()
        .with("clients", totals.clients)
        .with("migrated", totals.migrated)
        .with("remaining", totals.missing)
        .with("belongs_to_another", totals.count(Standing::BelongsToAnother))
        .with("not_migratable", totals.count(Standing::NotMigratable))
}

fn write_run(context: &Context, totals: &Totals, dry_run: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let row = Row::new()
        .with("dry_run", dry_run)
        .with("new", totals.new)
        .with("already", totals.migrated.saturating_sub(totals.new))
        .followed_by(status(totals));
    output::write_object(&row, context.format, out)?;
    for one in &totals.differences {
        context.tell(&format!("client {}: {}", one.client, explain(one.standing)));
    }
    if totals.missing > 0 {
        context.tell("some rows were written meanwhile: run this again");
    }
    Ok(())
}

fn explain(standing: Standing) -> &'static str {
    match standing {
        Standing::Migrated => "its raw key is migrated",
        Standing::Missing => "its raw key is not migrated yet",
        Standing::BelongsToAnother => {
            "another client has the same raw key, and its key works for that one: give both new keys and revoke the \
             `migrated-legacy` key (octroi key list)"
        }
        Standing::NotMigratable => "the gateway would refuse its raw key unseen; give it a new one",
    }
}

fn write_differences(context: &Context, differences: &[Difference], out: &mut dyn Write) -> std::io::Result<()> {
    let mut list = ListWriter::begin(context.format, DIFFERENCE_COLUMNS, DIFFERENCE_COLUMNS, out)?;
    for one in differences {
        list.push(Row::new().with("client_id", one.client.to_string()).with("reason", one.standing.as_str()))?;
    }
    list.finish(None)
}

fn refuse_differences(totals: &Totals) -> Result<(), Failure> {
    if totals.differences.is_empty() {
        return Ok(());
    }
    let counted = |standing, words| {
        let count = totals.count(standing);
        (count > 0).then(|| format!("{count} {words}"))
    };
    let parts: Vec<String> = [
        counted(Standing::Missing, "not migrated yet (run `octroi backfill run`)"),
        counted(Standing::BelongsToAnother, "with the raw key of another client"),
        counted(Standing::NotMigratable, "with a raw key that the gateway refuses unseen"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let detail = format!(
        "{} of {} clients have a raw key that is not a key of theirs: {}. `octroi backfill verify` names them; where \
         a client needs its raw key no longer, set its clients.api_key to null",
        totals.differences.len(),
        totals.clients,
        parts.join(", ")
    );
    Err(Failure::new(Exit::Failed, "not_verified", detail))
}

fn write_finish(context: &Context, finished: &Finished, out: &mut dyn Write) -> Result<(), Failure> {
    match finished {
        Finished::Refused(totals) => refuse_differences(totals),
        Finished::Forgotten { forgotten, left } => {
            let row = Row::new().with("forgotten", *forgotten).with("remaining", *left);
            output::write_object(&row, context.format, out)?;
            if *left > 0 {
                let detail =
                    format!("{left} raw keys were written meanwhile: run `octroi backfill run`, then this again");
                return Err(Failure::new(Exit::Failed, "not_verified", detail));
            }
            context.tell(
                "the raw keys are gone from the table; backups and the server's log of changes keep them until they \
                 are rotated, and its files until `VACUUM FULL clients`",
            );
            Ok(())
        }
    }
}

/// A line on a terminal that says how far it is.
struct Progress {
    total: u64,
    shown: bool,
    told: bool,
}

impl Progress {
    fn new(context: &Context, total: u64) -> Self {
        Self { total, shown: context.format != Format::Json && stderr().is_terminal(), told: false }
    }

    fn tell(&mut self, done: u64) {
        if self.shown {
            self.told = true;
            // Nothing is lost if nobody watches.
            let _ = write!(stderr(), "\r{done} of {} clients", self.total);
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.told) {
            let _ = writeln!(stderr());
        }
    }
}
