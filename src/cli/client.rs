//! `octroi client`: the tenants.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::Failure;
use super::session::{PAGE, Session};
use crate::model::client::{Client, ClientChange, ClientStatus, NewClient};
use crate::model::id::ClientId;
use crate::model::rate::Rate;

/// The longest name.
const NAME_LENGTH: usize = 200;

#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Make a client
    Create {
        /// What people call it
        name: String,
        /// Its own rate, like 100/s [default: limits.default]
        #[arg(long)]
        rate: Option<Rate>,
        /// How much it may spend at once [default: one second's worth]
        #[arg(long)]
        burst: Option<NonZeroU32>,
    },
    /// List clients
    List(Paging),
    /// Show a client
    Show {
        /// Its id or name
        client: String,
    },
    /// Change a client
    Update {
        /// Its id or name
        client: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        /// A new rate, or `default` for the default's
        #[arg(long)]
        rate: Option<String>,
        /// A new burst, or `default` for the rate's own
        #[arg(long)]
        burst: Option<String>,
    },
    /// Refuse a client's requests until it is resumed
    Suspend {
        /// Its id or name
        client: String,
    },
    /// Take a suspended client's requests again
    Resume {
        /// Its id or name
        client: String,
    },
}

/// Which part of a list.
#[derive(Debug, Args)]
pub(super) struct Paging {
    /// At most this many [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) limit: Option<u32>,
    /// Only what follows the row with this id
    #[arg(long, value_name = "ID")]
    pub(super) after: Option<uuid::Uuid>,
}

pub(super) async fn run(command: ClientCommand, session: Session) -> Result<(), Failure> {
    match command {
        ClientCommand::Create { name, rate, burst } => {
            session.tables_are_ready().await?;
            check_name(&name)?;
            let client = session.store.clients.create(NewClient { name, rate, burst, metadata: json!({}) }).await?;
            session.output.object(&shown(&client));
        }
        ClientCommand::List(paging) => list(&session, &paging).await?,
        ClientCommand::Show { client } => session.output.object(&shown(&session.client(&client).await?)),
        ClientCommand::Update { client, name, rate, burst } => {
            if let Some(name) = &name {
                check_name(name)?;
            }
            let change = ClientChange {
                name,
                rate: read(rate.as_deref())?,
                burst: read(burst.as_deref())?,
                ..ClientChange::default()
            };
            update(&session, &client, change).await?;
        }
        ClientCommand::Suspend { client } => set_status(&session, &client, ClientStatus::Suspended).await?,
        ClientCommand::Resume { client } => set_status(&session, &client, ClientStatus::Active).await?,
    }
    Ok(())
}

async fn set_status(session: &Session, client: &str, status: ClientStatus) -> Result<(), Failure> {
    update(session, client, ClientChange { status: Some(status), ..ClientChange::default() }).await
}

async fn update(session: &Session, wanted: &str, change: ClientChange) -> Result<(), Failure> {
    let client = session.client(wanted).await?;
    let updated = session.store.clients.update(client.id, change).await?;
    let client = updated.ok_or_else(|| Failure::failed("not_found", "the client was removed meanwhile"))?;
    session.output.object(&shown(&client));
    Ok(())
}

async fn list(session: &Session, paging: &Paging) -> Result<(), Failure> {
    session.tables_are_ready().await?;
    let mut items: Vec<Value> = Vec::new();
    let mut after = paging.after.map(ClientId);
    let mut next = None;
    loop {
        let left = paging
            .limit
            .map_or(PAGE, |limit| limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX)).min(PAGE));
        let page = session.store.clients.list(after, left).await?;
        after = page.items.last().map(|client| client.id).or(after);
        items.extend(page.items.iter().map(shown));
        let full = paging.limit.is_some_and(|limit| items.len() >= limit as usize);
        if full && page.more {
            next = after.map(|id| id.to_string());
        }
        if full || !page.more {
            break;
        }
    }
    session.output.list(&items, &["id", "name", "status", "rate", "burst", "created_at"], next);
    Ok(())
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.trim().is_empty() || name.chars().count() > NAME_LENGTH || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!("a name has 1-{NAME_LENGTH} characters and no control characters")));
    }
    Ok(())
}

/// `default` clears; anything else is a new value.
#[expect(clippy::option_option, reason = "not given, cleared and set are three things: ClientChange has them so")]
fn read<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<Option<T>>, Failure>
where
    T::Err: std::fmt::Display,
{
    match text {
        None => Ok(None),
        Some("default") => Ok(Some(None)),
        Some(text) => {
            text.parse().map(|value| Some(Some(value))).map_err(|error: T::Err| Failure::usage(error.to_string()))
        }
    }
}

/// A client under its table's column names.
fn shown(client: &Client) -> Value {
    json!({
        "id": client.id,
        "name": client.name,
        "status": client.status.as_str(),
        "rate": client.rate.map(|rate| rate.to_string()),
        "burst": client.burst,
        "plan_id": client.plan_id,
        "metadata": client.metadata,
        "created_at": client.created_at.to_string(),
        "updated_at": client.updated_at.to_string(),
    })
}
