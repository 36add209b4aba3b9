//! The same commands by an admin API.

use std::io::Write;

use http::Method;
use serde_json::{Map, Value};

use super::{COLUMNS, Command, Create, Kind, SHOWN, expiry, import, refuse_whole_key, verify};
use crate::cli::output::{self, Row};
use crate::cli::server::{Server, write_object};
use crate::cli::{Context, Failure};

/// Runs one of them.
///
/// # Errors
/// What the server says; a key that is not valid, rows that are bad.
pub(in crate::cli) async fn run(
    context: &Context,
    server: &Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let client = server.client(&create.client).await?;
            let body = made(context, create)?;
            let path = format!("/v1/clients/{client}/keys");
            write_made(context, &server.ask(Method::POST, &path, Some(&body)).await?, out)
        }
        Command::List(list) => {
            let path = match &list.client {
                Some(client) => format!("/v1/clients/{}/keys", server.client(client).await?),
                None => "/v1/keys".to_owned(),
            };
            let window = (list.after.map(|after| after.to_string()), list.limit);
            server.write_list(&path, &[], (COLUMNS, SHOWN), window, (context, out)).await
        }
        Command::Show { key } => {
            let answer = server.get(&place(server, key).await?).await?;
            write_object(COLUMNS, &answer, context, out)
        }
        Command::Revoke { key } => {
            let answer = server.ask(Method::DELETE, &place(server, key).await?, None).await?;
            write_object(COLUMNS, &answer, context, out)
        }
        Command::Update(update) => {
            let (path, body) = (place(server, update.key()).await?, update.body(context)?);
            write_object(COLUMNS, &server.ask(Method::PATCH, &path, Some(&body)).await?, context, out)
        }
        Command::Rotate(rotate) => {
            let path = format!("{}/rotate", place(server, rotate.key()).await?);
            let answer = server.ask(Method::POST, &path, Some(&rotate.body(context)?)).await?;
            write_made(context, &answer, out)
        }
        Command::Verify => verify::run_remote(context, server, out).await,
        Command::Import(arguments) => import::run_remote(context, server, arguments, out).await,
    }
}

async fn place(server: &Server, named: &str) -> Result<String, Failure> {
    refuse_whole_key(named)?;
    Ok(format!("/v1/keys/{}", server.one("/v1/keys", "key_id", named, "key").await?))
}

fn write_made(context: &Context, answer: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    let row = Row::read(&["key"], answer).followed_by(Row::read(COLUMNS, answer));
    output::write_object(&row, context.format, out)?;
    context.tell("keep the key: it is not shown again");
    Ok(())
}

fn made(context: &Context, create: &Create) -> Result<Value, Failure> {
    if create.certificate.is_some() {
        return Err(Failure::usage("a certificate is read beside the store, without --server"));
    }
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    set("env", if create.kind == Kind::Test { "test" } else { "live" }.into());
    set("scopes", create.scopes.clone().into());
    set("allowed_addresses", create.allowed_addresses.clone().into());
    if let Some(name) = &create.name {
        set("name", name.as_str().into());
    }
    if let Some(rate) = create.rate {
        set("rate", rate.to_string().into());
    }
    if let Some(burst) = create.burst {
        set("burst", burst.get().into());
    }
    if let Some(lifetime) = create.expires {
        set("expires_at", expiry(context.clock.wall(), lifetime)?.to_string().into());
    }
    Ok(body.into())
}
