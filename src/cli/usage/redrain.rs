//! `octroi usage redrain`: what this machine still has is sent again; by an admin API, what the machine
//! of its gateway has.

use std::io::Write;

use http::Method;

use crate::cli::open::open;
use crate::cli::output::{self, Row};
use crate::cli::server::Server;
use crate::cli::{Context, Exit, Failure};
use crate::metering::{self, RedrainError, Redrained};

/// Sends it and says what was missing.
///
/// # Errors
/// The journals cannot be read; the store is away or refuses.
pub(super) async fn run(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let redrained = metering::redrain(&loaded.config.metering.dir, &store).await;
    let redrained = redrained.map_err(|error| match error {
        RedrainError::Store(error) => error.into(),
        RedrainError::Disk(_) => Failure::new(Exit::Failed, "journal_unreadable", error.to_string()),
    })?;
    write(context, &redrained, out)
}

/// The same by an admin API.
///
/// # Errors
/// What the server says.
pub(super) async fn run_remote(context: &Context, server: &Server, out: &mut dyn Write) -> Result<(), Failure> {
    let redrained = server.ask_patiently(Method::POST, "/v1/usage/redrain", None).await?;
    write(context, &redrained, out)
}

fn write(context: &Context, redrained: &Redrained, out: &mut dyn Write) -> Result<(), Failure> {
    let row = Row::new()
        .with("segments", redrained.segments)
        .with("events", redrained.events)
        .with("restored", redrained.restored)
        .with("past_retention", redrained.past_retention)
        .with("unreadable_segments", redrained.unreadable);
    Ok(output::write_object(&row, context.format, out)?)
}
