//! `octroi pepper status|rehash`

use std::collections::BTreeMap;
use std::io::Write;

use clap::Subcommand;
use serde_json::Value;

use super::open::open;
use super::output::{self, Format, Row};
use super::{Context, Exit, Failure};
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

/// A pepper as the store and the settings know it.
struct Known {
    version: i32,
    fingerprint: Option<String>,
    keys: u64,
    current: bool,
    previous: bool,
}

/// Runs one of them.
///
/// # Errors
/// The store is away; `rehash` left keys under another pepper than the current one.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    match command {
        Command::Status => {
            let (peppers, unknown) = known(context, &loaded, &store).await?;
            write_status(context, &peppers, unknown, out)?;
            tell_of_settings(context, &loaded, &store, &peppers).await
        }
        Command::Rehash => {
            loaded.config.auth.require_pepper()?;
            let (peppers, unknown) = known(context, &loaded, &store).await?;
            let remaining: u64 = peppers.iter().filter(|one| !one.current).map(|one| one.keys).sum();
            let row = Row::new().with("moved", 0).with("remaining", remaining).with("unknown", unknown);
            output::write_object(&row, context.format, out)?;
            if remaining == 0 {
                return Ok(());
            }
            Err(Failure::new(Exit::Failed, "keys_remain", format!("{remaining} keys remain: {NOT_NESTED}")))
        }
    }
}

/// Every pepper that the store has seen or a key names, and how many keys name none.
async fn known(context: &Context, loaded: &Loaded, store: &Store) -> Result<(Vec<Known>, u64), Failure> {
    let counts = store.rotation.count_hashes(context.clock.wall()).await?;
    let mut fingerprints: BTreeMap<i32, Option<String>> =
        store.peppers.list().await?.into_iter().map(|record| (record.version, Some(record.fingerprint))).collect();
    for (version, _) in &counts.by_version {
        fingerprints.entry(*version).or_default();
    }
    let auth = &loaded.config.auth;
    let print = |secret: &Option<_>| secret.as_ref().map(|secret| Pepper::new(secret).fingerprint());
    let (current, previous) = (print(&auth.pepper), print(&auth.pepper_previous));
    let peppers = fingerprints.into_iter().map(|(version, fingerprint)| Known {
        version,
        keys: counts.by_version.iter().find(|(other, _)| *other == version).map_or(0, |(_, keys)| *keys),
        current: fingerprint.is_some() && fingerprint == current,
        previous: fingerprint.is_some() && fingerprint == previous,
        fingerprint,
    });
    Ok((peppers.collect(), counts.unknown))
}

/// What the table cannot say: a pepper of the settings that the store has never seen, and running
/// processes that lack one.
async fn tell_of_settings(context: &Context, loaded: &Loaded, store: &Store, seen: &[Known]) -> Result<(), Failure> {
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

fn write_status(context: &Context, peppers: &[Known], unknown: u64, out: &mut dyn Write) -> Result<(), Failure> {
    let rows: Vec<Row> = peppers
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
