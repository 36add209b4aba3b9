//! `octroi apply FILE` and `octroi diff FILE`: plans, clients and what stands beside their keys, as a
//! file says they should be.
//!
//! What the file names is made or changed; what it does not name stays, and nothing is ever deleted or
//! revoked. Keys are never made this way: their text could not be shown. Two clients of one name are
//! told apart by `id`. What TOML cannot say, nothing, is the word `none`.
//!
//! The file is read whole (`read`), and every value in it, and compared with what is there
//! (`compare`), before anything is changed.

mod compare;
mod read;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Server;
use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Exit, Failure};
use compare::{Deed, deeds, deeds_of_client, plan_deeds};
use read::{Wanted, read};

/// `octroi apply`, `octroi diff`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// TOML: `[[plans]]`, `[[clients]]`, `[[clients.keys]]`, with the names of the API
    file: PathBuf,
}

/// Says what would be done; exit 1 where something would.
///
/// # Errors
/// The file is wrong, no gateway answers, or something would be done.
pub(in crate::cli) async fn diff(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let wanted = read(&arguments.file)?;
    let deeds = deeds(&server, &wanted, context.clock.wall()).await?;
    write_deeds(context, &deeds, out)?;
    let detail = format!("{} things are not as {} says", deeds.len(), arguments.file.display());
    if deeds.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "differences", detail)) }
}

/// Does it. What was begun and refused midway stays as far as it came, and is shown; applying again
/// goes on.
///
/// # Errors
/// The file is wrong, no gateway answers, or refuses.
pub(in crate::cli) async fn apply(
    context: &Context,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let wanted = read(&arguments.file)?;
    // All of it once without doing anything: what cannot be done is told before anything is.
    let now = context.clock.wall();
    deeds(&server, &wanted, now).await?;
    let mut done = Vec::new();
    let result = do_all(&server, &wanted, now, &mut done).await;
    write_deeds(context, &done, out)?;
    result
}

async fn do_all(server: &Server, wanted: &Wanted, now: Timestamp, done: &mut Vec<Deed>) -> Result<(), Failure> {
    // Plans first: clients name them.
    for deed in plan_deeds(server, wanted).await? {
        server.ask(deed.method.clone(), &deed.path, Some(&deed.body)).await?;
        done.push(deed);
    }
    let mut owed = Vec::new();
    for client in &wanted.clients {
        let (deeds, is_new) = deeds_of_client(server, wanted, client, now).await?;
        for deed in deeds {
            let made = server.ask(deed.method.clone(), &deed.path, Some(&deed.body)).await?;
            // A status is changed, and not made.
            let status = client.rest.get("status").filter(|_| deed.method == Method::POST);
            if let (Some(status), Some(id)) = (status, made["id"].as_str()) {
                let path = format!("/v1/clients/{id}");
                server.ask(Method::PATCH, &path, Some(&json!({ "status": status }))).await?;
            }
            done.push(deed);
        }
        if is_new && !client.keys.is_empty() {
            owed.push(client.name.as_str());
        }
    }
    if owed.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "made, and still without keys: {}; make them with `octroi key create CLIENT`, then apply again",
        owed.join(", ")
    );
    Err(Failure::new(Exit::Failed, "keys_missing", detail))
}

fn write_deeds(context: &Context, deeds: &[Deed], out: &mut dyn Write) -> Result<(), Failure> {
    match context.format {
        Format::Json => {
            let rows: Vec<Value> = deeds
                .iter()
                .map(|deed| json!({ "what": deed.what, "name": deed.name, "changes": deed.changes }))
                .collect();
            output::write_json(&json!({ "items": rows, "next": null }), out)?;
        }
        Format::Csv | Format::Table => {
            let rows: Vec<Row> = deeds
                .iter()
                .map(|deed| {
                    let row = Row::new().with("what", deed.what).with("name", deed.name.as_str());
                    row.with("changes", deed.changes.join("; "))
                })
                .collect();
            let columns = &["what", "name", "changes"];
            match context.format {
                Format::Csv => output::write_csv(columns, &rows, out)?,
                _ if rows.is_empty() => writeln!(out, "everything is as the file says")?,
                _ => output::write_table(columns, &rows, out)?,
            }
        }
    }
    Ok(())
}
