//! `octroi audit`: who changed what, the latest first.

use std::io::Write;

use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::open::open;
use super::output::{ListWriter, Row};
use super::pages::{Window, write_pages};
use super::server::Server;
use super::{Context, Failure, client};
use crate::config::moment::Moment;
use crate::model::audit::{AuditEntry, AuditFilter, Changes};

/// `octroi audit`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only what belongs to this client: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// Only what this one did: an operator's, a token's or a user's name, or an id
    #[arg(long, value_name = "A")]
    actor: Option<String>,
    /// Only this, like key.revoke; `key.` stands for all that begin so
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this: the id of a key, a plan, an operator, a token
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// From then on: RFC 3339, a day (UTC) or how long ago, like -24h
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// Before then
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Moment>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only those before this one, which the end of a list names
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

const COLUMNS: &[&str] = &[
    "id",
    "occurred_at",
    "actor_kind",
    "actor_id",
    "actor_name",
    "address",
    "action",
    "subject_kind",
    "subject_id",
    "client_id",
    "before",
    "after",
    "request_id",
];
const SHOWN: &[&str] = &["occurred_at", "actor_kind", "actor_name", "address", "action", "subject_id", "changed"];

fn row(entry: &AuditEntry) -> Row {
    Row::new()
        .with("id", entry.id.to_string())
        .with_text("occurred_at", Some(entry.occurred_at))
        .with("actor_kind", entry.actor_kind.as_str())
        .with("actor_id", entry.actor_id.to_string())
        .with("actor_name", entry.actor_name.as_str())
        .with_text("address", entry.address)
        .with("action", entry.action.as_str())
        .with("subject_kind", entry.subject_kind.as_str())
        .with("subject_id", entry.subject_id.as_str())
        .with_text("client_id", entry.client_id)
        .with("before", entry.before.clone())
        .with("after", entry.after.clone())
        .with("request_id", entry.request_id.clone())
}

/// Lists.
///
/// # Errors
/// The client is not there; the store is away.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let now = context.clock.wall();
    let client = match &arguments.client {
        Some(named) => Some(client::find(&store, named).await?.id),
        None => None,
    };
    let filter = AuditFilter {
        client,
        actor: arguments.actor.clone(),
        action: arguments.action.clone(),
        subject: arguments.subject.clone(),
        from: arguments.from.map(|from| from.at(now)),
        to: arguments.to.map(|to| to.at(now)),
    };
    let for_people = context.format == super::Format::Table;
    let writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    let window = Window { after: arguments.after, limit: Some(arguments.limit) };
    let fetch = async |after, limit| store.trail.list(&filter, after, limit).await;
    let describe = |entry: &AuditEntry| {
        let row = row(entry);
        (entry.id, if for_people { row.with("changed", entry.changes().to_string()) } else { row })
    };
    write_pages(writer, window, fetch, describe).await
}

/// Lists what an admin API has.
///
/// # Errors
/// What the server says.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let now = context.clock.wall();
    let client = match &arguments.client {
        Some(named) => Some(server.client(named).await?.to_string()),
        None => None,
    };
    let (from, to) =
        (arguments.from.map(|from| from.at(now).to_string()), arguments.to.map(|to| to.at(now).to_string()));
    let query = [
        ("client", client.as_deref()),
        ("actor", arguments.actor.as_deref()),
        ("action", arguments.action.as_deref()),
        ("subject", arguments.subject.as_deref()),
        ("from", from.as_deref()),
        ("to", to.as_deref()),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let window = (arguments.after.map(|after| after.to_string()), Some(arguments.limit));
    let for_people = context.format == super::Format::Table;
    let describe = |entry: &Value| {
        let row = Row::read(COLUMNS, entry);
        let changes = || Changes::between(Some(&entry["before"]), Some(&entry["after"])).to_string();
        if for_people { row.with("changed", changes()) } else { row }
    };
    server.write_rows("/v1/audit", &query, (COLUMNS, SHOWN), window, (context, out), describe).await
}
