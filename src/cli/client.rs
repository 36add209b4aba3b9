//! `octroi client create|list|show|update|suspend|resume|erase`, and how a client is named.

use std::io::Write;
use std::num::NonZeroU32;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value};

use super::open::open;
use super::output::{self, ListWriter, Row};
use super::pages::{Window, write_pages};
use super::plan::{AtOnce, at_once};
use super::{Context, Exit, Failure, plan};
use crate::model::client::{Client, ClientChange, ClientStatus, NAME_RULE, NewClient, is_legal_name};
use crate::model::id::ClientId;
use crate::model::own_limit::{self, LimitChange};
use crate::model::quota::Quota;
use crate::model::rate::Rate;
use crate::store::Store;

pub(super) mod remote;

/// `octroi client …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a client
    Create(Create),
    /// List clients, oldest first
    List(List),
    /// Show a client
    Show {
        /// Its id or name
        #[arg(value_name = "C")]
        client: String,
    },
    /// Change a client
    Update(Update),
    /// Refuse a client's calls until it is resumed
    Suspend {
        /// Its id or name
        #[arg(value_name = "C")]
        client: String,
    },
    /// Remove a client's personal data for good: its name, metadata and keys; what it used stays billed
    Erase {
        /// Its id or name
        #[arg(value_name = "C")]
        client: String,
        /// Nothing brings it back
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Let a suspended client call again
    Resume {
        /// Its id or name
        #[arg(value_name = "C")]
        client: String,
    },
}

/// `octroi client create`
#[derive(Debug, Args)]
pub(super) struct Create {
    /// What people call it
    #[arg(value_parser = parse_name)]
    name: String,
    /// A rate of its own, like 100/s; without it, that of [limits.default]
    #[arg(long)]
    rate: Option<Rate>,
    /// How much may be spent at once; without it, one second's worth of the rate
    #[arg(long, value_name = "N", requires = "rate", value_parser = burst)]
    burst: Option<NonZeroU32>,
    /// The plan it is on: its id or name
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// A quota of its own, like 1000000/month, 5000/day@Europe/Berlin or 1000000/month@15
    #[arg(long)]
    quota: Option<Quota>,
    /// How many requests it may have open at once
    #[arg(long, value_name = "N|none", value_parser = at_once)]
    concurrency: Option<AtOnce>,
}

/// `octroi client list`
#[derive(Debug, Args)]
pub(super) struct List {
    /// At most so many; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<ClientId>,
}

/// `octroi client update`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["name", "rate", "burst", "plan", "quota", "concurrency"])))]
pub(super) struct Update {
    /// Its id or name
    #[arg(value_name = "C")]
    client: String,
    /// A new name
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// A new rate; `default` goes back to [limits.default]
    #[arg(long, value_name = "RATE|default")]
    rate: Option<OrDefault<Rate>>,
    /// A new burst; `default` goes back to one second's worth of the rate
    #[arg(long, value_name = "N|default")]
    burst: Option<OrDefault<Burst>>,
    /// Another plan: its id or name; `none` takes it off its plan
    #[arg(long, value_name = "PLAN|none")]
    plan: Option<String>,
    /// Another quota of its own; `none` takes it away
    #[arg(long, value_name = "QUOTA|none", value_parser = quota_or_none)]
    quota: Option<QuotaOrNone>,
    /// How many requests it may have open at once; `none`: any number
    #[arg(long, value_name = "N|none", value_parser = at_once)]
    concurrency: Option<AtOnce>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct QuotaOrNone(Option<Quota>);

fn quota_or_none(text: &str) -> Result<QuotaOrNone, String> {
    if text == "none" {
        return Ok(QuotaOrNone(None));
    }
    text.parse()
        .map(|quota| QuotaOrNone(Some(quota)))
        .map_err(|error: crate::model::quota::InvalidQuota| error.to_string())
}

/// A value, or the word `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OrDefault<T> {
    Own(T),
    Default,
}

impl<T> OrDefault<T> {
    fn own(self) -> Option<T> {
        match self {
            Self::Own(value) => Some(value),
            Self::Default => None,
        }
    }
}

impl<T: FromStr> FromStr for OrDefault<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "default" { Ok(Self::Default) } else { text.parse().map(Self::Own) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst(NonZeroU32);

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        burst(text).map(Self)
    }
}

/// A burst, as an argument.
pub(super) fn burst(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse::<NonZeroU32>().ok().filter(|count| count.get() <= Rate::MAX_COUNT);
    count.ok_or_else(|| format!("write a whole number from 1 to {}", Rate::MAX_COUNT))
}

/// A name of a client or a key.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    is_legal_name(text).then(|| text.to_owned()).ok_or_else(|| NAME_RULE.to_owned())
}

pub(super) const COLUMNS: &[&str] = &[
    "id",
    "name",
    "status",
    "rate",
    "burst",
    "plan_id",
    "metadata",
    "created_at",
    "updated_at",
    "quota",
    "concurrency",
];
const SHOWN: &[&str] = &["id", "name", "status", "rate", "burst", "created_at"];

/// A client as its table's columns name it.
pub(super) fn row(client: &Client) -> Row {
    Row::new()
        .with("id", client.id.to_string())
        .with("name", client.name.as_str())
        .with("status", client.status.as_str())
        .with_text("rate", client.rate)
        .with("burst", client.burst.map(NonZeroU32::get))
        .with_text("plan_id", client.plan_id)
        .with("metadata", client.metadata.clone())
        .with_text("created_at", Some(client.created_at))
        .with_text("updated_at", Some(client.updated_at))
        .with_text("quota", client.allowance.quota.as_ref())
        .with("concurrency", client.allowance.concurrency.map(NonZeroU32::get))
}

/// Runs one of them.
///
/// # Errors
/// The client is not there or not named alone; the store is away or refuses.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let client = match command {
        Command::Create(create) => {
            let made = store.clients.create(new_client(&store, create).await?).await?;
            let same = store.clients.find_by_name(&made.name).await?.len();
            if same > 1 {
                context.tell(&format!(
                    "{same} clients are named `{}` now: commands want the id of the one that is meant",
                    made.name
                ));
            }
            made
        }
        Command::List(list) => return write_list(context, &store, list, out).await,
        Command::Show { client } => find(&store, client).await?,
        Command::Update(update) => {
            let client = find(&store, &update.client).await?;
            let mut change_of = change_of(&client, update)?;
            change_of.plan_id = match update.plan.as_deref() {
                None => None,
                Some("none") => Some(None),
                Some(named) => Some(Some(plan::find(&store, named).await?.id)),
            };
            change(&store, &client, change_of).await?
        }
        Command::Erase { client, yes: _ } => {
            let client = find(&store, client).await?;
            let erased = store.erasure.erase(client.id, context.clock.wall()).await?;
            erased.ok_or_else(|| Failure::not_found(format!("the client {} is gone", client.id)))?
        }
        Command::Suspend { client } => set_status(&store, client, ClientStatus::Suspended).await?,
        Command::Resume { client } => set_status(&store, client, ClientStatus::Active).await?,
    };
    Ok(output::write_object(&row(&client), context.format, out)?)
}

async fn new_client(store: &Store, create: &Create) -> Result<NewClient, Failure> {
    own_limit::check(create.rate, create.burst)?;
    let plan_id = match &create.plan {
        Some(named) => Some(plan::find(store, named).await?.id),
        None => None,
    };
    let metadata = Value::Object(Map::new());
    Ok(NewClient {
        name: create.name.clone(),
        rate: create.rate,
        burst: create.burst,
        plan_id,
        quota: create.quota.clone(),
        concurrency: create.concurrency.and_then(|AtOnce(most)| most),
        metadata,
    })
}

fn change_of(client: &Client, update: &Update) -> Result<ClientChange, Failure> {
    let rate = update.rate.map(OrDefault::own);
    let burst = update.burst.map(|burst| burst.own().map(|Burst(count)| count));
    let limit = LimitChange { rate, burst }.of(client.rate, client.burst)?;
    Ok(ClientChange {
        name: update.name.clone(),
        rate: limit.rate,
        burst: limit.burst,
        quota: update.quota.clone().map(|QuotaOrNone(quota)| quota),
        concurrency: update.concurrency.map(|AtOnce(most)| most),
        // What becomes of its burst was judged by this row.
        only_if: Some(Box::new(client.clone())),
        ..ClientChange::default()
    })
}

async fn set_status(store: &Store, named: &str, status: ClientStatus) -> Result<Client, Failure> {
    let client = find(store, named).await?;
    change(store, &client, ClientChange { status: Some(status), ..ClientChange::default() }).await
}

async fn change(store: &Store, client: &Client, change: ClientChange) -> Result<Client, Failure> {
    let changed = store.clients.update(client.id, change).await?;
    changed.ok_or_else(|| Failure::not_found(format!("the client {} is gone", client.id)))
}

async fn write_list(context: &Context, store: &Store, list: &List, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(after) = list.after
        && store.clients.find(after).await?.is_none()
    {
        return Err(Failure::not_found(format!("there is no client {after} to go on after")));
    }
    let writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    let window = Window { after: list.after, limit: list.limit };
    let fetch = async |after, limit| store.clients.list(after, limit).await;
    write_pages(writer, window, fetch, |client| (client.id, row(client))).await
}

/// The client that a person means: by id, else by name.
///
/// # Errors
/// There is none, or several bear the name.
pub(super) async fn find(store: &Store, named: &str) -> Result<Client, Failure> {
    if let Ok(id) = named.parse::<ClientId>()
        && let Some(client) = store.clients.find(id).await?
    {
        return Ok(client);
    }
    let mut clients = store.clients.find_by_name(named).await?;
    match (clients.pop(), clients.as_slice()) {
        (None, _) => Err(Failure::not_found(format!("there is no client `{named}`"))),
        (Some(client), []) => Ok(client),
        (Some(client), others) => {
            let ids: Vec<String> = others.iter().chain([&client]).map(|client| client.id.to_string()).collect();
            let detail = format!("{} clients are named `{named}`; name one by its id: {}", ids.len(), ids.join(", "));
            Err(Failure::new(Exit::Failed, "ambiguous", detail))
        }
    }
}
