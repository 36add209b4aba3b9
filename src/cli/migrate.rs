//! `octroi migrate`: the store's tables.

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::Failure;
use super::session::Session;
use crate::store::migrate::MigrationStatus;

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Apply what is pending, in order
    Up {
        /// Only say what would be applied
        #[arg(long)]
        dry_run: bool,
    },
    /// List all migrations
    Status,
    /// Compare what was applied with what this version has
    Verify,
}

pub(super) async fn run(command: MigrateCommand, session: Session) -> Result<(), Failure> {
    let migrations = &session.store.migrations;
    match command {
        MigrateCommand::Up { dry_run } => {
            let applied = migrations.up(dry_run).await?;
            list(&session, &applied);
            let what = if dry_run { "would be applied" } else { "applied" };
            eprintln!("{} {what}", applied.len());
        }
        MigrateCommand::Status => list(&session, &migrations.status().await?),
        MigrateCommand::Verify => {
            let differences = migrations.verify().await?;
            let items: Vec<Value> = differences
                .iter()
                .map(|found| json!({ "version": found.version, "name": found.name, "detail": found.detail }))
                .collect();
            session.output.list(&items, &["version", "name", "detail"], None);
            if !items.is_empty() {
                return Err(Failure::failed(
                    "migrations_differ",
                    format!("{} applied migrations differ from this version's", items.len()),
                ));
            }
        }
    }
    Ok(())
}

fn list(session: &Session, migrations: &[MigrationStatus]) {
    let items: Vec<Value> = migrations
        .iter()
        .map(|migration| {
            json!({ "version": migration.version, "name": migration.name, "applied_at": migration.applied_at.map(|at| at.to_string()) })
        })
        .collect();
    session.output.list(&items, &["version", "name", "applied_at"], None);
}
