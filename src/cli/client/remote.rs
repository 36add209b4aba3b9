//! The same commands by an admin API.

use std::io::Write;

use http::Method;
use serde_json::{Map, Value, json};

use super::{AtOnce, COLUMNS, Command, Create, SHOWN, Update};
use crate::cli::server::{Server, write_object};
use crate::cli::{Context, Failure};

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
    let one = |id: uuid::Uuid| format!("/v1/clients/{id}");
    let answer = match command {
        Command::Create(create) => server.ask(Method::POST, "/v1/clients", Some(&made(server, create).await?)).await?,
        Command::List(list) => {
            let window = (list.after.map(|after| after.to_string()), list.limit);
            return server.write_list("/v1/clients", &[], (COLUMNS, SHOWN), window, (context, out)).await;
        }
        Command::Show { client } => server.get(&one(server.client(client).await?)).await?,
        Command::Update(update) => {
            let path = one(server.client(&update.client).await?);
            server.ask(Method::PATCH, &path, Some(&changed(server, update).await?)).await?
        }
        Command::Suspend { client } | Command::Resume { client } => {
            let status = if matches!(command, Command::Suspend { .. }) { "suspended" } else { "active" };
            let path = one(server.client(client).await?);
            server.ask(Method::PATCH, &path, Some(&json!({ "status": status }))).await?
        }
        Command::Erase { client, yes: _ } => {
            let path = format!("{}/erase", one(server.client(client).await?));
            server.ask(Method::POST, &path, None).await?
        }
    };
    write_object(COLUMNS, &answer, context, out)
}

async fn made(server: &Server, create: &Create) -> Result<Value, Failure> {
    let mut body = Map::new();
    body.insert("name".to_owned(), create.name.as_str().into());
    body.extend(create.rate.map(|rate| ("rate".to_owned(), rate.to_string().into())));
    body.extend(create.burst.map(|burst| ("burst".to_owned(), burst.get().into())));
    body.extend(create.quota.as_ref().map(|quota| ("quota".to_owned(), quota.to_string().into())));
    body.extend(
        create.concurrency.and_then(|AtOnce(most)| most).map(|most| ("concurrency".to_owned(), most.get().into())),
    );
    if let Some(plan) = &create.plan {
        body.insert("plan_id".to_owned(), server.one("/v1/plans", "name", plan, "plan").await?.to_string().into());
    }
    Ok(body.into())
}

async fn changed(server: &Server, update: &Update) -> Result<Value, Failure> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    if let Some(name) = &update.name {
        set("name", name.as_str().into());
    }
    if let Some(rate) = update.rate {
        set("rate", rate.own().map(|rate| rate.to_string()).into());
    }
    if let Some(burst) = update.burst {
        set("burst", burst.own().map(|burst| burst.0.get()).into());
    }
    if let Some(quota) = &update.quota {
        set("quota", quota.0.as_ref().map(ToString::to_string).into());
    }
    if let Some(AtOnce(most)) = update.concurrency {
        set("concurrency", most.map(std::num::NonZeroU32::get).into());
    }
    match update.plan.as_deref() {
        None => {}
        Some("none") => set("plan_id", Value::Null),
        Some(plan) => set("plan_id", server.one("/v1/plans", "name", plan, "plan").await?.to_string().into()),
    }
    Ok(body.into())
}
