//! `octroi admin token create|list|revoke`: for machines, and for clients that manage their own keys.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ReachArguments, reach, texts};
use crate::cli::key::{expiry, lifetime};
use crate::cli::output::{self, ListWriter, Row};
use crate::cli::pages::{Window, write_pages};
use crate::cli::{Context, Failure, client};
use crate::crypto::admin_text;
use crate::model::admin::AdminToken;
use crate::operators;
use crate::store::Store;

/// `octroi admin token …`
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make a token; it is shown once
    Create(Create),
    /// List tokens, oldest first
    List(List),
    /// Revoke a token
    Revoke {
        /// Its id, or its text, of which the public part is enough
        id: String,
    },
}

/// `octroi admin token create`
#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// What people call it
    #[arg(value_parser = client::parse_name)]
    name: String,
    #[command(flatten)]
    reach: ReachArguments,
    /// How long it works, like 90d; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
}

/// `octroi admin token list`
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// At most so many; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

pub(super) const COLUMNS: &[&str] =
    &["id", "name", "token_id", "role", "clients", "created_at", "expires_at", "revoked_at", "last_used_at"];

fn row(token: &AdminToken) -> Row {
    Row::new()
        .with("id", token.id.to_string())
        .with("name", token.name.as_str())
        .with("token_id", token.token_id.as_str())
        .with("role", token.role.as_str())
        .with("clients", texts(&token.clients))
        .with_text("created_at", Some(token.created_at))
        .with_text("expires_at", token.expires_at)
        .with_text("revoked_at", token.revoked_at)
        .with_text("last_used_at", token.last_used_at)
}

impl Create {
    /// What is asked of an admin API, without the clients, which are named in the reach.
    pub(super) fn asked(&self, context: &Context) -> Result<(&ReachArguments, Value), Failure> {
        let role = self.reach.role.ok_or_else(|| Failure::usage("say what it may do: --role ROLE"))?;
        let expires_at = self.expires.map(|lifetime| expiry(context.clock.wall(), lifetime)).transpose()?;
        let expires_at = expires_at.map(|at| at.to_string());
        Ok((&self.reach, json!({ "name": self.name, "role": role, "expires_at": expires_at })))
    }
}

impl List {
    /// Which part of the list is asked for.
    pub(super) fn window(&self) -> (Option<String>, Option<u32>) {
        (self.after.map(|after| after.to_string()), self.limit)
    }
}

/// Runs one of them.
pub(super) async fn run(
    context: &Context,
    store: &Store,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let role = create.reach.role.ok_or_else(|| Failure::usage("say what it may do: --role ROLE"))?;
            let expires_at = create.expires.map(|lifetime| expiry(context.clock.wall(), lifetime)).transpose()?;
            let reach = reach(store, role, &create.reach.clients).await?;
            let made = operators::create_token(store, &create.name, reach, expires_at).await?;
            let answer = Row::new().with("token", made.text.expose()).followed_by(row(&made.token));
            output::write_object(&answer, context.format, out)?;
            context.tell("the token is shown this once; only its hash is kept");
            Ok(())
        }
        Command::List(list) => write_list(context, store, list, out).await,
        Command::Revoke { id } => {
            let found = find(store, id).await?;
            let revoked = store.admin_tokens.revoke(found.id, context.clock.wall()).await?;
            let revoked = revoked.ok_or_else(|| Failure::not_found(format!("the token {} is gone", found.id)))?;
            Ok(output::write_object(&row(&revoked), context.format, out)?)
        }
    }
}

async fn write_list(context: &Context, store: &Store, list: &List, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(after) = list.after
        && store.admin_tokens.find(after).await?.is_none()
    {
        return Err(Failure::not_found(format!("there is no token {after} to go on after")));
    }
    let writer = ListWriter::begin(context.format, COLUMNS, COLUMNS, out)?;
    let window = Window { after: list.after, limit: list.limit };
    let fetch = async |after, limit| store.admin_tokens.list(after, limit).await;
    write_pages(writer, window, fetch, |token| (token.id, row(token))).await
}

async fn find(store: &Store, named: &str) -> Result<AdminToken, Failure> {
    let named = admin_text::public_part(named).ok_or_else(unknown)?;
    let found = match named.parse() {
        Ok(id) => store.admin_tokens.find(id).await?,
        Err(_) => store.admin_tokens.find_by_token_id(named).await?,
    };
    found.ok_or_else(unknown)
}

/// It is not repeated: somebody may have pasted a secret.
pub(super) fn unknown() -> Failure {
    Failure::not_found("no token has this id: give the one that `octroi admin token list` shows")
}
