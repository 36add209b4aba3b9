//! `octroi usage statement CLIENT MONTH`: what a client used in a closed month, signed so that the
//! client can prove it and nobody can change it (a JWS, RFC 7515).

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use crate::app;
use crate::cli::open::open;
use crate::cli::output::{self, Format};
use crate::cli::{Context, Exit, Failure, client};
use crate::issuer::SigningKeys;
use crate::model::month::Month;
use crate::store::UsageSum;
use crate::store::months::Adjustment;

/// The type in the header: a token is none, and no gateway takes it for one.
const TYPE: &str = "octroi-statement+jwt";

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
    let key = signing(keys.as_ref())?;
    let client = client::find(&store, &arguments.client).await?;
    let month = arguments.month;
    let closed = store.months.closed(month).await?.ok_or_else(|| {
        let detail = format!("{month} is not closed; run `octroi usage close {month}` first");
        Failure::new(Exit::Failed, "month_not_closed", detail)
    })?;
    let mut totals = store.months.totals(month, Some(client.id)).await?;
    let total = totals.pop().map(|(_, total)| total).unwrap_or_default();
    let adjustments = store.months.adjustments(month.starts(), month.ends(), Some(client.id)).await?;
    let claims = json!({
        "iss": loaded.config.issuer.name(),
        "sub": client.id.to_string(),
        "jti": format!("{}/{month}", client.id),
        "iat": closed.closed_at.as_second(),
        "client_name": client.name,
        "month": month.to_string(),
        "from": month.starts().to_string(),
        "to": month.ends().to_string(),
        "closed_at": closed.closed_at.to_string(),
        "total": sums(&total),
        "adjustments": adjustments.iter().map(adjustment).collect::<Vec<_>>(),
    });
    let failed = || Failure::new(Exit::Failed, "not_signed", "the signing key did not sign");
    let signed = key.sign(TYPE, &claims).ok_or_else(failed)?;
    match context.format {
        Format::Json => output::write_json(&json!({ "statement": claims, "jws": signed }), out)?,
        Format::Table | Format::Csv => writeln!(out, "{signed}")?,
    }
    Ok(())
}

/// A key that others can check with: under a shared secret whoever checks could also sign.
fn signing(keys: Option<&SigningKeys>) -> Result<&crate::crypto::signing::SigningKey, Failure> {
    let key = keys.map(SigningKeys::current).filter(|key| key.public().is_some());
    key.ok_or_else(|| {
        let detail = "a statement needs a key whose public half clients can have: make one with \
            `openssl genpkey -algorithm ed25519 -out FILE` and name it in `issuer.signing_key_file`";
        Failure::new(Exit::Configuration, "no_signing_key", detail)
    })
}

fn adjustment(adjustment: &Adjustment) -> Value {
    let mut value = sums(&adjustment.sum);
    value["corrects"] = Value::from(adjustment.corrects.as_str());
    value
}

fn sums(sum: &UsageSum) -> Value {
    json!({
        "requests": sum.requests,
        "units": sum.units,
        "bytes_in": sum.bytes_in,
        "bytes_out": sum.bytes_out,
        "duration_us": sum.duration_us,
        "rejected": sum.rejected,
    })
}
