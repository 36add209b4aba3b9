//! The same commands by an admin API.

use std::io::Write;

use http::Method;
use serde_json::json;

use super::{COLUMNS, Command, ReachArguments, SHOWN, token};
use crate::cli::output::{self, Row};
use crate::cli::person::read_password;
use crate::cli::server::{Server, write_object};
use crate::cli::{Context, Failure};
use crate::crypto::admin_text;

/// Runs one of them.
///
/// # Errors
/// What the server says.
pub(in crate::cli) async fn run(
    context: &Context,
    server: &Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let answer = match command {
        Command::Create(create) => {
            let role = create.reach.role.ok_or_else(|| Failure::usage("say what it may do: --role ROLE"))?;
            let clients = clients(server, &create.reach).await?;
            let password = read_password(context)?;
            let body = json!({
                "name": create.name, "role": role, "clients": clients, "password": password.expose(),
            });
            server.ask(Method::POST, "/v1/operators", Some(&body)).await?
        }
        Command::List(list) => {
            let window = (list.after.map(|after| after.to_string()), list.limit);
            return server.write_list("/v1/operators", &[], (COLUMNS, SHOWN), window, (context, out)).await;
        }
        Command::Show { operator } => server.get(&place(server, operator).await?).await?,
        Command::Update(update) => {
            let mut body = json!({ "clients": clients(server, &update.reach).await? });
            if let Some(role) = update.reach.role {
                body["role"] = role.as_str().into();
            }
            server.ask(Method::PATCH, &place(server, &update.operator).await?, Some(&body)).await?
        }
        Command::Passwd { operator } => {
            let path = format!("{}/password", place(server, operator).await?);
            let password = read_password(context)?;
            server.ask(Method::PUT, &path, Some(&json!({ "password": password.expose() }))).await?
        }
        Command::Disable { operator } | Command::Enable { operator } => {
            let disabled = matches!(command, Command::Disable { .. });
            let path = place(server, operator).await?;
            server.ask(Method::PATCH, &path, Some(&json!({ "disabled": disabled }))).await?
        }
        Command::Logout { operator } => {
            let path = format!("{}/sessions", place(server, operator).await?);
            let answer = server.ask(Method::DELETE, &path, None).await?;
            return write_object(&["id", "sessions"], &answer, context, out);
        }
        Command::Token(command) => return run_token(context, server, command, out).await,
    };
    write_object(COLUMNS, &answer, context, out)
}

async fn run_token(
    context: &Context,
    server: &Server,
    command: &token::Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        token::Command::Create(create) => {
            let (reach, mut body) = create.asked(context)?;
            body["clients"] = clients(server, reach).await?.into();
            let answer = server.ask(Method::POST, "/v1/tokens", Some(&body)).await?;
            let row = Row::read(&["token"], &answer).followed_by(Row::read(token::COLUMNS, &answer));
            output::write_object(&row, context.format, out)?;
            context.tell("the token is shown this once; only its hash is kept");
            Ok(())
        }
        token::Command::List(list) => {
            let columns = (token::COLUMNS, token::COLUMNS);
            server.write_list("/v1/tokens", &[], columns, list.window(), (context, out)).await
        }
        token::Command::Revoke { id } => {
            // Of a whole token the public part travels, and no more.
            let named = admin_text::public_part(id).ok_or_else(token::unknown)?;
            let id = server.one("/v1/tokens", "token_id", named, "token").await?;
            let answer = server.ask(Method::DELETE, &format!("/v1/tokens/{id}"), None).await?;
            write_object(token::COLUMNS, &answer, context, out)
        }
    }
}

async fn clients(server: &Server, reach: &ReachArguments) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::with_capacity(reach.clients.len());
    for named in &reach.clients {
        ids.push(server.client(named).await?.to_string());
    }
    Ok(ids)
}

/// An operator by its id, else by its name.
async fn place(server: &Server, named: &str) -> Result<String, Failure> {
    if named.parse::<uuid::Uuid>().is_ok() {
        return Ok(format!("/v1/operators/{named}"));
    }
    let all = server.all("/v1/operators").await?;
    let found = all.iter().find(|operator| operator["name"] == named);
    let id = found.and_then(|operator| operator["id"].as_str());
    id.map(|id| format!("/v1/operators/{id}"))
        .ok_or_else(|| Failure::not_found(format!("there is no operator `{named}`")))
}
