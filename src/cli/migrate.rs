//! `octroi migrate up|status|verify`

use std::io::Write;

use clap::Subcommand;

use super::output::{ListWriter, Row};
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
            refuse_differences(&differences)
        }
    }
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

fn refuse_differences(differences: &[Difference]) -> Result<(), Failure> {
    if differences.is_empty() {
        return Ok(());
    }
    let detail = format!("{} applied migrations are not those of this program", differences.len());
    Err(Failure::new(Exit::Failed, "migrations_differ", detail))
}
