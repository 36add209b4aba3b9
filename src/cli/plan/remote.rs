//! The same commands by an admin API.

use std::io::Write;
use std::num::NonZeroU32;

use http::Method;
use serde_json::{Map, Value, json};

use super::{AtOnce, COLUMNS, Command, MARK_COLUMNS, SHOWN, replay};
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
    let answer = match command {
        Command::Create(create) => {
            let most = create.terms.concurrency.and_then(|AtOnce(most)| most).map(NonZeroU32::get);
            let policies = create.terms.policies(&create.name)?;
            let body = json!({ "name": create.name, "policies": policies, "concurrency": most });
            server.ask(Method::POST, "/v1/plans", Some(&body)).await?
        }
        Command::List(list) => {
            let window = (list.after.map(|after| after.to_string()), list.limit);
            return server.write_list("/v1/plans", &[], (COLUMNS, SHOWN), window, (context, out)).await;
        }
        Command::Show { plan } => server.get(&place(server, plan).await?).await?,
        Command::Update(update) => {
            let path = place(server, &update.plan).await?;
            let name = match &update.new_name {
                Some(name) => name.clone(),
                None => server.get(&path).await?["name"].as_str().unwrap_or_default().to_owned(),
            };
            let mut body = Map::new();
            let mut set = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
            if let Some(name) = &update.new_name {
                set("name", name.as_str().into());
            }
            if update.clear || update.terms.names_policies() {
                set("policies", serde_json::to_value(update.terms.policies(&name)?).unwrap_or_default());
            }
            if let Some(AtOnce(most)) = update.terms.concurrency {
                set("concurrency", most.map(NonZeroU32::get).into());
            }
            server.ask(Method::PATCH, &path, Some(&body.into())).await?
        }
        Command::Marks(marks) => {
            let now = context.clock.wall();
            let from = marks.from.map(|from| from.at(now).to_string());
            let client = match &marks.client {
                Some(client) => Some(server.client(client).await?.to_string()),
                None => None,
            };
            let query = [("from", from.as_deref()), ("client", client.as_deref())];
            let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let columns = (MARK_COLUMNS, MARK_COLUMNS);
            return server
                .write_list("/v1/quota-marks", &query, columns, (None, Some(marks.limit)), (context, out))
                .await;
        }
        Command::Replay(arguments) => return replay::run_remote(context, server, arguments, out).await,
    };
    write_object(COLUMNS, &answer, context, out)
}

/// The path of the plan that a person means.
pub(super) async fn place(server: &Server, named: &str) -> Result<String, Failure> {
    Ok(format!("/v1/plans/{}", server.one("/v1/plans", "name", named, "plan").await?))
}
