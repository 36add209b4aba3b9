//! The same by an admin API.

use std::io::Write;

use http::Method;
use serde_json::{Value, json};

use super::{Arguments, Column, Command, SUMS, reconcile, redrain, statement};
use crate::cli::events;
use crate::cli::output::{self, Format, Row};
use crate::cli::server::{Server, items, path};
use crate::cli::{Context, Failure};

/// Sums, single events, or one of the commands for the books.
///
/// # Errors
/// What the server says; the books differ.
pub(in crate::cli) async fn run(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match &arguments.command {
        None => sums(context, server, arguments, out).await,
        Some(Command::Events(arguments)) => events::run_remote(context, server, arguments, out).await,
        Some(Command::Close(close)) => {
            let body = json!({ "without": close.without() });
            let answer =
                server.ask(Method::POST, &format!("/v1/usage/months/{}/close", close.month()), Some(&body)).await?;
            Ok(output::write_json(&answer, out)?)
        }
        Some(Command::Reconcile(arguments)) => reconcile::run_remote(context, server, arguments, out).await,
        Some(Command::Redrain) => redrain::run_remote(context, server, out).await,
        Some(Command::Statement(arguments)) => statement::run_remote(context, server, arguments, out).await,
    }
}

async fn sums(context: &Context, server: &Server, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let now = context.clock.wall();
    let client = match &arguments.client {
        Some(named) => Some(server.client(named).await?.to_string()),
        None => None,
    };
    let from = arguments.from.map(|from| from.at(now).to_string());
    let to = arguments.to.map(|to| to.at(now).to_string());
    let by: Vec<&'static str> = arguments.by.iter().copied().map(Column::name).collect();
    let joined = by.join(",");
    let query = [
        ("client", client.as_deref()),
        ("from", from.as_deref()),
        ("to", to.as_deref()),
        ("by", Some(joined.as_str())),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = whole(server, query).await?;
    if context.format == Format::Json {
        return Ok(output::write_json(&answer, out)?);
    }
    let columns: Vec<&'static str> = by.into_iter().chain(SUMS.iter().copied()).collect();
    let rows: Vec<Row> = items(&answer).iter().map(|item| Row::read(&columns, item)).collect();
    match context.format {
        Format::Csv => Ok(output::write_csv(&columns, &rows, out)?),
        Format::Table | Format::Json => Ok(output::write_table(&columns, &rows, out)?),
    }
}

/// All pages as one answer, which is what there is beside the store.
async fn whole(server: &Server, query: Vec<(&str, &str)>) -> Result<Value, Failure> {
    let mut whole = server.get_list(&path("/v1/usage", &query)).await?;
    // What is said of when is relative, or left out: the pages that follow are of the period of the first.
    let [from, to] = ["from", "to"].map(|name| whole[name].as_str().unwrap_or_default().to_owned());
    let named = |name: &str| !matches!(name, "from" | "to");
    let others: Vec<_> = query.into_iter().filter(|(name, _)| named(name)).collect();
    while let Some(next) = take_next(&mut whole) {
        let page = [("from", from.as_str()), ("to", &to), ("after", &next)];
        let query: Vec<_> = others.iter().copied().chain(page).collect();
        let mut page = server.get_list(&path("/v1/usage", &query)).await?;
        let more = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(items) = whole["items"].as_array_mut() {
            items.extend(more);
        }
        if let Some(next) = take_next(&mut page) {
            whole["next"] = next.into();
        }
    }
    Ok(whole)
}

/// Takes out where what follows begins.
fn take_next(answer: &mut Value) -> Option<String> {
    let next = answer.as_object_mut()?.remove("next")?;
    next.as_str().map(ToOwned::to_owned)
}
