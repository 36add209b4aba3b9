//! `octroi pepper status|rehash`

use std::io::Write;

use clap::Subcommand;
use serde_json::Value;

use super::open::open;
use super::output::{self, Format, Row};
use super::server::{Server, unreadable};
use super::{Context, Exit, Failure};
use crate::auth::{KnownPepper, PepperCounts};
use crate::config::Loaded;
use crate::crypto::pepper::Pepper;
use crate::store::Store;

/// `octroi pepper …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How many keys were hashed with which pepper; revoked and expired ones are not counted
    Status,
    /// Move keys to the current pepper, as far as that can be done without their being used
    Rehash,
}

const COLUMNS: &[&str] = &["version", "fingerprint", "keys", "current", "previous"];

/// What `rehash` tells a person (`docs/security.md` has the whole of it).
const NOT_NESTED: &str = "a hash cannot be moved without its key: each key is moved when it is next used. Nesting \
     hashes would need the old pepper for ever, which is what a change of pepper is to end (docs/security.md). Keys \
     that nobody uses any more: revoke them, and then the old pepper can go";

/// Runs one of them.
///
/// # Errors
/// The store is away; `rehash` left keys under another pepper than the current one.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    match command {
        Command::Status => {
            let counts = counts(context, &loaded, &store).await?;
            write_status(context, &counts, out)?;
            tell_of_settings(context, &loaded, &store, &counts.items).await
        }
        Command::Rehash => {
            loaded.config.auth.require_pepper()?;
            write_remaining(context, &counts(context, &loaded, &store).await?, out)
        }
    }
}

/// The same as a gateway knows it.
///
/// # Errors
/// What the server says; `rehash` left keys under another pepper than the current one.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let answer = server.get("/v1/peppers").await?;
    let counts: PepperCounts = serde_json::from_value(answer).map_err(|_| unreadable())?;
    match command {
        Command::Status => write_status(context, &counts, out),
        Command::Rehash => write_remaining(context, &counts, out),
    }
}

async fn counts(context: &Context, loaded: &Loaded, store: &Store) -> Result<PepperCounts, Failure> {
    let auth = &loaded.config.auth;
    let (current, previous) = (auth.pepper.as_ref().map(Pepper::new), auth.pepper_previous.as_ref().map(Pepper::new));
    Ok(PepperCounts::of(store, current.as_ref(), previous.as_ref(), context.clock.wall()).await?)
}

fn write_remaining(context: &Context, counts: &PepperCounts, out: &mut dyn Write) -> Result<(), Failure> {
    let remaining = counts.remaining();
    let row = Row::new().with("moved", 0).with("remaining", remaining).with("unknown", counts.unknown);
    output::write_object(&row, context.format, out)?;
    if remaining == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "keys_remain", format!("{remaining} keys remain: {NOT_NESTED}")))
}

/// What the table cannot say: a pepper of the settings that the store has never seen, and running
/// processes that lack one.
async fn tell_of_settings(
    context: &Context,
    loaded: &Loaded,
    store: &Store,
    seen: &[KnownPepper],
) -> Result<(), Failure> {
    let auth = &loaded.config.auth;
    for (name, secret) in [("API_KEY_PEPPER", &auth.pepper), ("API_KEY_PEPPER_PREVIOUS", &auth.pepper_previous)] {
        let Some(secret) = secret else { continue };
        let fingerprint = Pepper::new(secret).fingerprint();
        if !seen.iter().any(|one| one.fingerprint.as_ref() == Some(&fingerprint)) {
            context.tell(&format!("{name} is not known to this store: no key was hashed with it so far"));
        }
        let unaware = store.rotation.unaware(&fingerprint).await?;
        if !unaware.is_empty() {
            context.tell(&format!("{name} is not known to running gateways: {}", unaware.join(", ")));
        }
    }
    Ok(())
}

fn write_status(context: &Context, counts: &PepperCounts, out: &mut dyn Write) -> Result<(), Failure> {
    let unknown = counts.unknown;
    let rows: Vec<Row> = counts
        .items
        .iter()
        .map(|one| {
            Row::new()
                .with("version", one.version)
                .with("fingerprint", one.fingerprint.clone())
                .with("keys", one.keys)
                .with("current", one.current)
                .with("previous", one.previous)
        })
        .collect();
    match context.format {
        Format::Json => {
            let items = serde_json::to_value(rows).unwrap_or(Value::Null);
            output::write_json(&serde_json::json!({ "items": items, "unknown": unknown }), out)?;
        }
        Format::Csv => output::write_csv(COLUMNS, &rows, out)?,
        Format::Table => output::write_table(COLUMNS, &rows, out)?,
    }
    if unknown > 0 {
        context.tell(&format!("{unknown} keys came in by SQL and say which pepper they need when they are first used"));
    }
    Ok(())
}
