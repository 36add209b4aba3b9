//! `octroi backfill run|status|verify|finish`: raw keys of an adopted database become hashes.
//!
//! What is done beside the store and what a gateway does from afar (`remote`) come to the same answers,
//! which are written here.

pub(super) mod remote;

use std::io::{IsTerminal as _, Write, stderr};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::open::open_store;
use super::output::{self, Format, ListWriter, Row};
use super::{Context, Exit, Failure};
use crate::auth::backfill::{
    self, BATCH, BATCH_MAX, Backfill, Difference, Finished, NO_COLUMN, Ran, Rules, Standing, Status, Totals,
};
use crate::auth::guard_pepper;
use crate::crypto::pepper::Peppers;
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
    #[arg(long, value_name = "N", default_value_t = BATCH,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX)))]
    batch: u32,
}

const STATUS_COLUMNS: &[&str] = &["clients", "migrated", "remaining", "belongs_to_another", "not_migratable"];
const RUN_COLUMNS: &[&str] =
    &["dry_run", "new", "already", "clients", "migrated", "remaining", "belongs_to_another", "not_migratable"];
const DIFFERENCE_COLUMNS: &[&str] = &["client_id", "reason"];
const FINISH_COLUMNS: &[&str] = &["forgotten", "remaining"];

/// Runs one of them.
///
/// # Errors
/// No pepper, or another than the store's; the store is away; keys that are not migrated.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let batch = if let Command::Run(run) = command { run.batch } else { BATCH };
    let Some((store, backfill)) = prepare(context, batch).await? else {
        return answer_without_column(context, command, out);
    };
    let mut progress = Progress::new(context, backfill.count().await?);
    match command {
        Command::Run(run) => {
            if !run.dry_run {
                backfill.note("backfill.run", &store).await?;
            }
            let totals = backfill.run(run.dry_run, &mut |done| progress.tell(done)).await;
            progress.end();
            let totals = totals?;
            write_run(context, &shown(&Ran::of(&totals, run.dry_run)), out)?;
            tell_of(context, &totals.differences);
            Ok(())
        }
        Command::Status => {
            let totals = backfill.verify(&mut |done| progress.tell(done)).await;
            progress.end();
            write_status(context, &shown(&Status::from(&totals?)), out)
        }
        Command::Verify => {
            let totals = backfill.verify(&mut |done| progress.tell(done)).await;
            progress.end();
            let Totals { clients, differences, .. } = totals?;
            write_differences(context, clients, &differences, out)
        }
        Command::Finish => {
            backfill.note("backfill.finish", &store).await?;
            let finished = backfill.finish(&mut |done| progress.tell(done)).await;
            progress.end();
            match finished? {
                Finished::Refused(totals) => refuse_differences(totals.clients, &totals.differences),
                Finished::Forgotten { forgotten, left } => {
                    write_finish(context, &json!({ "forgotten": forgotten, "remaining": left }), out)
                }
            }
        }
    }
}

/// None: there is no column to read raw keys from.
async fn prepare(context: &Context, batch: u32) -> Result<Option<(Store, Backfill)>, Failure> {
    let loaded = context.load()?;
    let auth = &loaded.config.auth;
    let store = open_store(context, &loaded.config).await?;
    let Some(legacy) = backfill::raw_keys(&store).await? else { return Ok(None) };
    let peppers = Peppers::new(auth.require_pepper()?, auth.pepper_previous.as_ref());
    let pepper_version = guard_pepper(&peppers, store.peppers.as_ref()).await?.current;
    let rules = Rules { peppers, pepper_version, prefix: auth.prefix.clone() };
    let backfill = Backfill::new(legacy, rules, batch).map_err(|error| {
        let detail = format!("raw keys are not read, since core dumps could not be switched off: {error}");
        Failure::new(Exit::Failed, "core_dumps", detail)
    })?;
    Ok(Some((store, backfill)))
}

fn answer_without_column(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Run(_) | Command::Finish => Err(Failure::new(Exit::Failed, "no_raw_keys", NO_COLUMN)),
        Command::Status => {
            context.tell(NO_COLUMN);
            write_status(context, &shown(&Status::from(&Totals::default())), out)
        }
        Command::Verify => {
            context.tell(NO_COLUMN);
            write_differences(context, 0, &[], out)
        }
    }
}

fn shown(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

fn write_status(context: &Context, status: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    Ok(output::write_object(&Row::read(STATUS_COLUMNS, status), context.format, out)?)
}

fn write_run(context: &Context, ran: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    output::write_object(&Row::read(RUN_COLUMNS, ran), context.format, out)?;
    if ran["remaining"].as_u64().is_some_and(|remaining| remaining > 0) {
        context.tell("some rows were written meanwhile: run this again");
    }
    Ok(())
}

fn tell_of(context: &Context, differences: &[Difference]) {
    for one in differences {
        context.tell(&format!("client {}: {}", one.client, explain(one.standing)));
    }
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

/// Writes them all, and fails if there are any.
fn write_differences(
    context: &Context,
    clients: u64,
    differences: &[Difference],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut list = ListWriter::begin(context.format, DIFFERENCE_COLUMNS, DIFFERENCE_COLUMNS, out)?;
    for one in differences {
        list.push(Row::read(DIFFERENCE_COLUMNS, &shown(one)))?;
    }
    list.finish(None)?;
    refuse_differences(clients, differences)
}

fn refuse_differences(clients: u64, differences: &[Difference]) -> Result<(), Failure> {
    let refusal = backfill::refusal(clients, differences);
    refusal.map_or(Ok(()), |detail| Err(Failure::new(Exit::Failed, "not_verified", detail)))
}

fn write_finish(context: &Context, finished: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    output::write_object(&Row::read(FINISH_COLUMNS, finished), context.format, out)?;
    let left = finished["remaining"].as_u64().unwrap_or_default();
    if left > 0 {
        let detail = format!("{left} raw keys were written meanwhile: run `octroi backfill run`, then this again");
        return Err(Failure::new(Exit::Failed, "not_verified", detail));
    }
    context.tell(
        "the raw keys are gone from the table; backups and the server's log of changes keep them until they are \
         rotated, and its files until `VACUUM FULL clients`",
    );
    Ok(())
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
