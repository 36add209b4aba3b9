//! The same by an admin API.

use std::io::Write;

use http::Method;
use serde_json::json;

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
    let answer = server.get(&path("/v1/usage", &query)).await?;
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
