//! The same commands by an admin API.

use std::io::Write;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Command, write_differences, write_finish, write_run, write_status};
use crate::auth::backfill::Difference;
use crate::cli::server::{Server, items, unreadable};
use crate::cli::{Context, Failure};

/// How long a gateway may go through all raw keys. What it does then goes on, and what is done is left out
/// by the next run.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs one of them.
///
/// # Errors
/// What the server says; keys that are not migrated.
pub(in crate::cli) async fn run(
    context: &Context,
    server: &Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let server = &server.with_patience(context, PATIENCE)?;
    match command {
        Command::Run(run) => {
            let body = json!({ "dry_run": run.dry_run, "batch": run.batch });
            let ran = server.ask(Method::POST, "/v1/backfill/run", Some(&body)).await?;
            write_run(context, &ran, out)?;
            let stays = ["belongs_to_another", "not_migratable"].iter().any(|kind| ran[*kind] != 0);
            if stays {
                context.tell("some raw keys cannot be migrated: `octroi backfill verify` names their clients");
            }
            Ok(())
        }
        Command::Status => write_status(context, &server.get("/v1/backfill").await?, out),
        Command::Verify => {
            let answer = server.get("/v1/backfill/differences").await?;
            let clients = answer["clients"].as_u64().unwrap_or_default();
            write_differences(context, clients, &differences(&answer)?, out)
        }
        Command::Finish => write_finish(context, &server.ask(Method::POST, "/v1/backfill/finish", None).await?, out),
    }
}

fn differences(answer: &Value) -> Result<Vec<Difference>, Failure> {
    items(answer).iter().map(|item| serde_json::from_value(item.clone()).map_err(|_| unreadable())).collect()
}
