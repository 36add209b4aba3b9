//! `octroi key …`: a file for each command that is more than a few lines.

mod import;
pub(super) mod remote;
mod rotate;
mod update;
mod verify;

use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::open::{open, open_store};
use super::output::{self, ListWriter, Row};
use super::pages::{Window, write_pages};
use super::{Context, Failure, client};
use crate::auth::Mint;
use crate::config::auth::AuthConfig;
use crate::config::units::{self, DURATION_FORM};
use crate::crypto::key_text;
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, NewApiKey};
use crate::model::own_limit;
use crate::model::rate::Rate;
use crate::model::secret::SecretText;
use crate::server::certificates::{self, Subject};
use crate::store::Store;

/// `octroi key …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key; it is shown this once
    Create(Create),
    /// List keys, oldest first
    List(List),
    /// Show what is known of a key
    Show {
        /// Its row's id or its public key id
        #[arg(value_name = "K")]
        key: String,
    },
    /// Change what stands beside a key's text: name, scopes, rate, addresses, end
    Update(update::Update),
    /// Make a key that takes another's place; it is shown this once
    Rotate(rotate::Rotate),
    /// Refuse a key from now on
    Revoke {
        /// Its row's id or its public key id
        #[arg(value_name = "K")]
        key: String,
    },
    /// Say whose the key on stdin is, and what a gateway would answer
    Verify,
    /// Take over keys that were made elsewhere, from CSV or NDJSON: all of them or none
    Import(import::Import),
}

/// `octroi key create`
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The client's id or name
    #[arg(value_name = "C")]
    client: String,
    /// What people call the key; without it "default", or the certificate's subject
    #[arg(long, value_parser = client::parse_name)]
    name: Option<String>,
    /// In place of a text: whoever shows a certificate with the same subject as this one's (PEM) is the
    /// client, on routes whose `credentials` name "certificate"
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    certificate: Option<PathBuf>,
    /// How long it works, like 90d; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
    /// Which of the two kinds its text says it is
    #[arg(long = "env", value_enum, default_value_t = Kind::Live)]
    kind: Kind,
    /// What it may do; may be given several times
    #[arg(long = "scope", value_name = "S")]
    scopes: Vec<String>,
    /// A rate of its own, like 10/s; the client's goes on to hold for all its keys together
    #[arg(long)]
    rate: Option<Rate>,
    /// How much it may spend at once; without it, one second's worth of its rate
    #[arg(long, value_name = "N", requires = "rate", value_parser = client::burst)]
    burst: Option<NonZeroU32>,
    /// From where it may be used, like 192.0.2.0/24; may be given several times; without it, from everywhere
    #[arg(long = "allow", value_name = "CIDR")]
    allowed_addresses: Vec<String>,
}

/// `octroi key list`
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this client's: its id or name
    #[arg(value_name = "C")]
    client: Option<String>,
    /// At most so many; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<ApiKeyId>,
}

/// What a key's text says it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Live,
    Test,
}

impl From<Kind> for key_text::Environment {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Live => Self::Live,
            Kind::Test => Self::Test,
        }
    }
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = units::parse_duration(text).filter(|lifetime| !lifetime.is_zero());
    lifetime.ok_or_else(|| format!("write {DURATION_FORM}, above zero"))
}

const COLUMNS: &[&str] = &[
    "id",
    "client_id",
    "name",
    "key_id",
    "hash_kind",
    "pepper_version",
    "scopes",
    "rate",
    "burst",
    "allowed_addresses",
    "created_at",
    "expires_at",
    "revoked_at",
    "last_used_at",
    "replaced_by",
];
const SHOWN: &[&str] =
    &["id", "key_id", "client_id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at"];

/// A key as its table's columns name it, without its hash.
fn row(key: &ApiKey) -> Row {
    Row::new()
        .with("id", key.id.to_string())
        .with("client_id", key.client_id.to_string())
        .with("name", key.name.as_str())
        .with("key_id", key.key_id.clone())
        .with("hash_kind", key.hash_kind.as_str())
        .with("pepper_version", key.pepper_version)
        .with("scopes", key.scopes.iter().collect::<Vec<_>>())
        .with_text("rate", key.rate)
        .with("burst", key.burst.map(NonZeroU32::get))
        .with("allowed_addresses", key.allowed_addresses.iter().collect::<Vec<_>>())
        .with_text("created_at", Some(key.created_at))
        .with_text("expires_at", key.expires_at)
        .with_text("revoked_at", key.revoked_at)
        .with_text("last_used_at", key.last_used_at)
        .with_text("replaced_by", key.replaced_by)
}

/// Runs one of them.
///
/// # Errors
/// The client or key is not there; no pepper, or another than the store's; the store is away.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(context, arguments, out).await,
        Command::List(list) => write_list(context, list, out).await,
        Command::Show { key } => {
            let (_, store) = open(context).await?;
            let key = find(&store, key).await?;
            Ok(output::write_object(&row(&key), context.format, out)?)
        }
        Command::Verify => verify::run(context, out).await,
        Command::Import(arguments) => import::run(context, arguments, out).await,
        Command::Update(arguments) => update::run(context, arguments, out).await,
        Command::Rotate(arguments) => rotate::run(context, arguments, out).await,
        Command::Revoke { key } => {
            let (_, store) = open(context).await?;
            let key = find(&store, key).await?;
            let revoked = store.keys.revoke(key.id, context.clock.wall()).await?;
            let revoked = revoked.ok_or_else(|| Failure::not_found(format!("the key {} is gone", key.id)))?;
            Ok(output::write_object(&row(&revoked), context.format, out)?)
        }
    }
}

fn scopes(names: &[String]) -> Result<Scopes, Failure> {
    Scopes::new(names.iter().cloned()).map_err(|name| {
        Failure::usage(format!("`{name}` is not a scope: visible ASCII without blank, quote, backslash"))
    })
}

fn ranges(texts: &[String]) -> Result<AddressRanges, Failure> {
    AddressRanges::new(texts).map_err(|error| Failure::usage(error.to_string()))
}

async fn create(context: &Context, arguments: &Create, out: &mut dyn Write) -> Result<(), Failure> {
    let scopes = scopes(&arguments.scopes)?;
    let subject = arguments.certificate.as_deref().map(read_subject).transpose()?;
    own_limit::check(arguments.rate, arguments.burst)?;
    let allowed_addresses = ranges(&arguments.allowed_addresses)?;
    let expires_at = arguments.expires.map(|lifetime| expiry(context.clock.wall(), lifetime)).transpose()?;
    // The pepper before the store: what is missing is told without waiting for anything.
    let loaded = context.load()?;
    loaded.config.auth.require_pepper()?;
    let store = open_store(context, &loaded.config).await?;
    let client = client::find(&store, &arguments.client).await?;
    let mint = Mint::open(&loaded.config.auth, &store).await?;
    let (text, key_id, hash) = match &subject {
        None => {
            let made = mint.make(arguments.kind.into());
            (Some(made.text), Some(made.key_id), made.hash)
        }
        Some(subject) => (None, None, mint.hash(&subject.credential)),
    };
    warn_of_unaware(context, &store, &mint).await?;
    let key = NewApiKey {
        client_id: client.id,
        name: name_of(arguments, subject.as_ref()),
        key_id,
        hash,
        pepper_version: Some(mint.pepper_version()),
        scopes,
        rate: arguments.rate,
        burst: arguments.burst,
        allowed_addresses,
        expires_at,
    };
    let key = store.keys.create(key).await?;
    let Some(text) = text else { return Ok(output::write_object(&row(&key), context.format, out)?) };
    let shown = Row::new().with("key", text.expose()).followed_by(row(&key));
    output::write_object(&shown, context.format, out)?;
    context.tell("keep the key: it is not shown again");
    Ok(())
}

fn name_of(arguments: &Create, subject: Option<&Subject>) -> String {
    let given = arguments.name.clone();
    given.or_else(|| subject.map(|subject| subject.text.clone())).unwrap_or_else(|| "default".to_owned())
}

fn read_subject(file: &Path) -> Result<Subject, Failure> {
    let chain = certificates::read_chain(file).map_err(|fault| Failure::usage(fault.to_string()))?;
    chain
        .first()
        .and_then(certificates::subject)
        .ok_or_else(|| Failure::usage(format!("{}: what stands first is no X.509 certificate", file.display())))
}

pub(super) fn expiry(now: Timestamp, lifetime: Duration) -> Result<Timestamp, Failure> {
    now.checked_add(lifetime).map_err(|_| Failure::usage("--expires lies beyond the calendar"))
}

/// Makes a key with nothing special about it, for a client of ours.
pub(super) async fn make_plain(
    store: &Store,
    auth: &AuthConfig,
    kind: Kind,
    client_id: ClientId,
    name: &str,
) -> Result<SecretText, Failure> {
    let mint = Mint::open(auth, store).await?;
    let made = mint.make(kind.into());
    let key = NewApiKey {
        client_id,
        name: name.to_owned(),
        key_id: Some(made.key_id),
        hash: made.hash,
        pepper_version: Some(mint.pepper_version()),
        scopes: Scopes::default(),
        rate: None,
        burst: None,
        allowed_addresses: AddressRanges::default(),
        expires_at: None,
    };
    store.keys.create(key).await?;
    Ok(made.text)
}

/// A process that has not been given the pepper yet refuses what is made with it.
pub(super) async fn warn_of_unaware(context: &Context, store: &Store, mint: &Mint) -> Result<(), Failure> {
    let unaware = mint.unaware(store).await?;
    if !unaware.is_empty() {
        context.tell(&format!(
            "warning: a running gateway ({}) does not know this pepper and refuses keys made with it; start it anew \
             with both peppers (docs/security.md)",
            unaware.join(", ")
        ));
    }
    Ok(())
}

async fn write_list(context: &Context, list: &List, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let client: Option<ClientId> = match &list.client {
        Some(named) => Some(client::find(&store, named).await?.id),
        None => None,
    };
    if let Some(after) = list.after
        && store.keys.find(after).await?.is_none()
    {
        return Err(Failure::not_found(format!("there is no key {after} to go on after")));
    }
    let writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    let window = Window { after: list.after, limit: list.limit };
    let fetch = async |after, limit| store.keys.list(client, after, limit).await;
    write_pages(writer, window, fetch, |key| (key.id, row(key))).await
}

/// The key that a person means: by its row's id, else by its public id.
async fn find(store: &Store, named: &str) -> Result<ApiKey, Failure> {
    let found = match named.parse::<ApiKeyId>() {
        Ok(id) => store.keys.find(id).await?,
        Err(_) => store.keys.find_by_key_id(named).await?,
    };
    found.ok_or_else(|| {
        let detail = format!("there is no key with the id `{named}`");
        refuse_whole_key(named).err().unwrap_or_else(|| Failure::not_found(detail))
    })
}

/// Somebody may have pasted the whole key: it is neither repeated nor sent anywhere.
fn refuse_whole_key(named: &str) -> Result<(), Failure> {
    if named.len() <= LONGEST_KEY_ID {
        return Ok(());
    }
    let detail = "this is no key's id: give the id of its row or its key_id, not the whole key (octroi key list)";
    Err(Failure::not_found(detail))
}

/// The length of a row's id; the public part of a key's text is shorter, a whole key longer.
const LONGEST_KEY_ID: usize = 36;
