//! `octroi migrate up|status|verify`

use std::io::Write;

use clap::Subcommand;

use super::output::{ListWriter, Row};
use super::server::Server;
use super::{Context, Exit, Failure};
use crate::store;
use crate::store::migrate::{Difference, MigrationStatus};

/// `octroi migrate …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Apply what is pending, in order, each in a transaction, under a lock
    Up {
        /// Only say what would be applied
        #[arg(long)]
        dry_run: bool,
    },
    /// List the migrations and when each was applied
    Status,
    /// Compare the applied migrations with those of this program
    Verify,
}

const COLUMNS: &[&str] = &["version", "name", "applied_at"];
const DIFFERENCE_COLUMNS: &[&str] = &["version", "name", "detail"];

/// Runs one of them.
///
/// # Errors
/// The store is away or refuses; `verify` found differences.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    let store = store::open(&loaded.config.store).await?;
    match command {
        Command::Up { dry_run } => {
            let applied = store.migrations.up(*dry_run).await?;
            write_migrations(context, &applied, out)?;
            if applied.is_empty() {
                context.tell("nothing is pending");
            }
            Ok(())
        }
        Command::Status => Ok(write_migrations(context, &store.migrations.status().await?, out)?),
        Command::Verify => {
            let differences = store.migrations.verify().await?;
            write_differences(context, &differences, out)?;
            refuse_differences(differences.len())
        }
    }
}

/// What a gateway says of its store.
///
/// # Errors
/// What the server says; `verify` found differences; nothing is applied by a gateway, which does not start
/// before all are.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (member, columns) = match command {
        Command::Up { .. } => {
            let detail = "migrations are applied beside the store, without --server: a gateway does not start before";
            return Err(Failure::usage(detail));
        }
        Command::Status => ("items", COLUMNS),
        Command::Verify => ("differences", DIFFERENCE_COLUMNS),
    };
    let answer = server.get("/v1/migrations").await?;
    let rows = answer[member].as_array().map_or(&[][..], Vec::as_slice);
    let mut list = ListWriter::begin(context.format, columns, columns, out)?;
    rows.iter().try_for_each(|row| list.push(Row::read(columns, row)))?;
    list.finish(None)?;
    if matches!(command, Command::Verify) { refuse_differences(rows.len()) } else { Ok(()) }
}

fn write_migrations(context: &Context, migrations: &[MigrationStatus], out: &mut dyn Write) -> std::io::Result<()> {
    let mut list = ListWriter::begin(context.format, COLUMNS, COLUMNS, out)?;
    for migration in migrations {
        let row = Row::new().with("version", migration.version).with("name", migration.name.as_str());
        list.push(row.with_text("applied_at", migration.applied_at))?;
    }
    list.finish(None)
}

fn write_differences(context: &Context, differences: &[Difference], out: &mut dyn Write) -> std::io::Result<()> {
    let mut list = ListWriter::begin(context.format, DIFFERENCE_COLUMNS, DIFFERENCE_COLUMNS, out)?;
    for difference in differences {
        let row = Row::new().with("version", difference.version).with("name", difference.name.as_str());
        list.push(row.with("detail", difference.detail.as_str()))?;
    }
    list.finish(None)
}

fn refuse_differences(count: usize) -> Result<(), Failure> {
    if count == 0 {
        return Ok(());
    }
    let detail = format!("{count} applied migrations are not those of this program");
    Err(Failure::new(Exit::Failed, "migrations_differ", detail))
}
