//! `octroi key rotate`: a successor now, the old key until the grace ends.
//!
//! The successor is the old key with another text: the same client, name, scopes, limits, address
//! ranges and kind. It ends when the old one would have ended: changing a secret is no reason to
//! give it more time. Whoever wants that says `--expires`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{expiry, find, lifetime, row, warn_of_unaware};
use crate::auth::Mint;
use crate::cli::open::open_store;
use crate::cli::output::{self, Row};
use crate::cli::{Context, Exit, Failure};
use crate::config::units::{self, DURATION_FORM};
use crate::model::key::{ApiKey, KeyDefect, NotRotated, Rotation};

/// `octroi key rotate`
#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    /// Its row's id or its public key id
    #[arg(value_name = "K")]
    key: String,
    /// How much longer the old key works, at most; 0s revokes it at once
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grace)]
    grace: Duration,
    /// How long the new key works, like 90d; without it, as long as the old one would have
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
}

impl Rotate {
    /// Which key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// What is asked of an admin API.
    pub(super) fn body(&self, context: &Context) -> Result<Value, Failure> {
        let expires_at = self.expires.map(|lifetime| expiry(context.clock.wall(), lifetime)).transpose()?;
        let mut body = json!({ "grace": format!("{}s", self.grace.as_secs()) });
        if let Some(at) = expires_at {
            body["expires_at"] = at.to_string().into();
        }
        Ok(body)
    }
}

fn grace(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("write {DURATION_FORM}"))
}

/// Rotates and shows the successor, this once with its text.
pub(super) async fn run(context: &Context, arguments: &Rotate, out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    loaded.config.auth.require_pepper()?;
    let store = open_store(context, &loaded.config).await?;
    let old = find(&store, &arguments.key).await?;
    let at = context.clock.wall();
    // Told before anything is made; the store decides again, in its transaction.
    if let Some(refusal) = old.rotation_refusal(at) {
        return Err(refused(&old, refusal));
    }
    let mint = Mint::open(&loaded.config.auth, &store).await?;
    let made = mint.make(mint.kind_of(&old));
    warn_of_unaware(context, &store, &mint).await?;
    let rotation = Rotation {
        key_id: Some(made.key_id),
        hash: made.hash,
        pepper_version: Some(mint.pepper_version()),
        expires_at: arguments.expires.map(|lifetime| expiry(at, lifetime)).transpose()?,
        at,
        old_until: at.checked_add(arguments.grace).map_err(|_| Failure::usage("--grace lies beyond the calendar"))?,
    };
    let successor = store.keys.rotate(old.id, rotation).await?.map_err(|refusal| refused(&old, refusal))?;
    let shown = Row::new().with("key", made.text.expose()).followed_by(row(&successor));
    output::write_object(&shown, context.format, out)?;
    context.tell("keep the key: it is not shown again");
    context.tell(&farewell(&old, at, arguments.grace));
    Ok(())
}

/// What becomes of the old key, in words.
fn farewell(old: &ApiKey, at: Timestamp, grace: Duration) -> String {
    let named = old.key_id.clone().unwrap_or_else(|| old.id.to_string());
    if grace.is_zero() {
        return format!("{named} is revoked");
    }
    let until = at.saturating_add(grace).expect("it was added before");
    format!("{named} works until {}", old.expires_at.map_or(until, |already| already.min(until)))
}

fn refused(old: &ApiKey, why: NotRotated) -> Failure {
    let id = old.id;
    match why {
        NotRotated::Unknown => Failure::not_found(format!("the key {id} is gone")),
        NotRotated::Defect(KeyDefect::Revoked) => failed(format!("the key {id} is revoked: make a new one instead")),
        NotRotated::Defect(KeyDefect::Expired) => failed(format!("the key {id} has expired: make a new one instead")),
        NotRotated::Replaced(successor) => {
            failed(format!("the key {id} was replaced by {successor} already: rotate that one"))
        }
    }
}

fn failed(detail: String) -> Failure {
    Failure::new(Exit::Failed, "not_rotated", detail)
}
