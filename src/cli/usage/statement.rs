//! `octroi usage statement CLIENT MONTH`: what a client used in a closed month, signed so that the
//! client can prove it and nobody can change it.

use std::io::Write;

use clap::Args;

use crate::app;
use crate::cli::open::open;
use crate::cli::output::{self, Format};
use crate::cli::server::Server;
use crate::cli::{Context, Exit, Failure, client};
use crate::issuer::{Signatory, SignedStatement, StatementFault};
use crate::model::month::Month;

/// `octroi usage statement`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Its id or name
    client: String,
    /// Which, like 2026-10 (UTC); it must be closed
    month: Month,
}

/// Prints the statement: one line, compact; as JSON with what it says beside it.
///
/// # Errors
/// The month is not closed; there is no key whose public half is published.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let keys = app::signing_keys(&loaded.config)?;
    let signatory = Signatory::of(loaded.config.issuer.name(), keys.as_ref()).map_err(failed)?;
    let client = client::find(&store, &arguments.client).await?;
    let signed = signatory.sign(store.months.as_ref(), &client, arguments.month).await.map_err(failed)?;
    write(context, &signed, out)
}

/// The same by an admin API, signed by its gateway.
///
/// # Errors
/// What the server says.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let client = server.client(&arguments.client).await?;
    let path = format!("/v1/usage/months/{}/statements/{client}", arguments.month);
    let signed = server.read_patiently(&path).await?;
    write(context, &signed, out)
}

fn failed(fault: StatementFault) -> Failure {
    let (exit, code) = match fault {
        StatementFault::Store(error) => return error.into(),
        StatementFault::NoKey => (Exit::Configuration, "no_signing_key"),
        StatementFault::NotClosed(_) => (Exit::Failed, "month_not_closed"),
        StatementFault::Signing => (Exit::Failed, "not_signed"),
    };
    Failure::new(exit, code, fault.to_string())
}

fn write(context: &Context, signed: &SignedStatement, out: &mut dyn Write) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::write_json(&serde_json::to_value(signed).unwrap_or_default(), out)?,
        Format::Table | Format::Csv => writeln!(out, "{}", signed.jws)?,
    }
    Ok(())
}
