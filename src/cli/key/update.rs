//! `octroi key update`: what stands beside a key's text.

use std::io::Write;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{ArgGroup, Args};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{expiry, find, lifetime, ranges, row, scopes};
use crate::cli::open::open;
use crate::cli::output;
use crate::cli::{Context, Failure, client};
use crate::model::key::KeyChange;
use crate::model::own_limit::LimitChange;
use crate::model::rate::Rate;

/// `octroi key update`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(
    ["name", "scopes", "no_scopes", "rate", "burst", "allowed_addresses", "allow_all", "expires"])))]
pub(in crate::cli) struct Update {
    /// Its row's id or its public key id
    #[arg(value_name = "K")]
    key: String,
    /// Another name
    #[arg(long, value_parser = client::parse_name)]
    name: Option<String>,
    /// All that it may do, in place of what it might; may be given several times
    #[arg(long = "scope", value_name = "S", conflicts_with = "no_scopes")]
    scopes: Vec<String>,
    /// It may do nothing that a route asks a scope for
    #[arg(long)]
    no_scopes: bool,
    /// Another rate of its own; `none`: only the client's
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    rate: Option<Own<Rate>>,
    /// Another burst of its rate
    #[arg(long, value_name = "N", value_parser = client::burst)]
    burst: Option<NonZeroU32>,
    /// From where it may be used, in place of what was; may be given several times
    #[arg(long = "allow", value_name = "CIDR", conflicts_with = "allow_all")]
    allowed_addresses: Vec<String>,
    /// It may be used from everywhere
    #[arg(long)]
    allow_all: bool,
    /// How long it works from now on, like 90d; `never`: until it is revoked
    #[arg(long, value_name = "DURATION|never", value_parser = end)]
    expires: Option<Own<Duration>>,
}

/// Something of its own, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own<T>(Option<T>);

fn rate(text: &str) -> Result<Own<Rate>, String> {
    if text == "none" {
        return Ok(Own(None));
    }
    text.parse().map(|rate| Own(Some(rate))).map_err(|error: crate::model::rate::InvalidRate| error.to_string())
}

fn end(text: &str) -> Result<Own<Duration>, String> {
    if text == "never" { Ok(Own(None)) } else { lifetime(text).map(|lifetime| Own(Some(lifetime))) }
}

impl Update {
    /// Which key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// A list in place of another; none: it stays.
    fn list(items: &[String], is_emptied: bool) -> Option<&[String]> {
        if is_emptied {
            return Some(&[]);
        }
        (!items.is_empty()).then_some(items)
    }

    fn end(&self, context: &Context) -> Result<Option<Option<Timestamp>>, Failure> {
        let end = |Own(lifetime): Own<Duration>| lifetime.map(|lifetime| expiry(context.clock.wall(), lifetime));
        self.expires.map(|own| end(own).transpose()).transpose()
    }

    /// What is asked of an admin API.
    pub(super) fn body(&self, context: &Context) -> Result<Value, Failure> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("name", self.name.as_deref().map(Value::from));
        set("scopes", Self::list(&self.scopes, self.no_scopes).map(Value::from));
        set("rate", self.rate.map(|rate| rate.0.map(|rate| rate.to_string()).into()));
        set("burst", self.burst.map(|burst| burst.get().into()));
        set("allowed_addresses", Self::list(&self.allowed_addresses, self.allow_all).map(Value::from));
        set("expires_at", self.end(context)?.map(|at| at.map(|at| at.to_string()).into()));
        Ok(body.into())
    }
}

/// Changes a key and shows it.
pub(super) async fn run(context: &Context, arguments: &Update, out: &mut dyn Write) -> Result<(), Failure> {
    let scopes = Update::list(&arguments.scopes, arguments.no_scopes).map(scopes).transpose()?;
    let allowed_addresses = Update::list(&arguments.allowed_addresses, arguments.allow_all).map(ranges).transpose()?;
    let expires_at = arguments.end(context)?;
    let (_, store) = open(context).await?;
    let key = find(&store, &arguments.key).await?;
    let limit = LimitChange { rate: arguments.rate.map(|rate| rate.0), burst: arguments.burst.map(Some) };
    let limit = limit.of(key.rate, key.burst)?;
    let id = key.id;
    let change = KeyChange {
        name: arguments.name.clone(),
        scopes,
        rate: limit.rate,
        burst: limit.burst,
        allowed_addresses,
        expires_at,
        // What becomes of its burst was judged by this row.
        only_if: Some(Box::new(key)),
    };
    let changed = store.keys.update(id, change).await?;
    let changed = changed.ok_or_else(|| Failure::not_found(format!("the key {id} is gone")))?;
    Ok(output::write_object(&row(&changed), context.format, out)?)
}
