//! `octroi key`: the credentials. A raw key is printed once, when it is made.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::Paging;
use super::failure::Failure;
use super::session::{PAGE, Session};
use crate::auth::guard_pepper;
use crate::config::units::parse_duration;
use crate::crypto::key_text::{self, KeyEnvironment};
use crate::crypto::pepper::{Pepper, Peppers};
use crate::model::access::Scopes;
use crate::model::client::Client;
use crate::model::id::ApiKeyId;
use crate::model::key::{ApiKey, NewApiKey};
use crate::model::secret::SecretText;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key; it is shown once
    Create {
        /// Whose: an id or a name
        client: String,
        /// What people call it
        #[arg(long, default_value = "default")]
        name: String,
        /// For how long it works, like 90d [default: for ever]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// live or test
        #[arg(long, default_value = "live")]
        env: KeyEnvironment,
        /// What it may do; several times for several
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// List keys, of one client or of all
    List {
        /// Whose: an id or a name
        client: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a key, without the key
    Show {
        /// Its row's id or its public id
        key: String,
    },
    /// Refuse a key from now on, everywhere within a second
    Revoke {
        /// Its row's id or its public id
        key: String,
    },
}

pub(super) async fn run(command: KeyCommand, session: Session) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { client, name, expires, env, scopes } => {
            let client = session.client(&client).await?;
            let scopes = Scopes::new(scopes)
                .map_err(|scope| Failure::usage(format!("{scope:?} is not a scope: visible ASCII without quotes")))?;
            let wish =
                KeyWish { name, environment: env, scopes, expires_at: expiry(expires.as_deref(), session.now())? };
            let (key, text) = create(&session, &client, wish).await?;
            let mut object = shown(&key);
            object["key"] = text.expose().into();
            session.output.object(&object);
        }
        KeyCommand::List { client, paging } => list(&session, client.as_deref(), &paging).await?,
        KeyCommand::Show { key } => session.output.object(&shown(&session.key(&key).await?)),
        KeyCommand::Revoke { key } => {
            let key = session.key(&key).await?;
            let revoked = session.store.keys.revoke(key.id, session.now()).await?;
            let key = revoked.ok_or_else(|| Failure::failed("not_found", "the key was removed meanwhile"))?;
            session.output.object(&shown(&key));
        }
    }
    Ok(())
}

/// What a new key shall be.
struct KeyWish {
    name: String,
    environment: KeyEnvironment,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}

async fn create(session: &Session, client: &Client, wish: KeyWish) -> Result<(ApiKey, SecretText), Failure> {
    let auth = &session.config.auth;
    let peppers = Peppers::new(Pepper::new(auth.require_pepper()?), auth.pepper_previous.as_ref().map(Pepper::new));
    // Before a key is made: one that is hashed under the wrong pepper would never work.
    let versions = guard_pepper(&peppers, session.store.peppers.as_ref()).await??;
    let made = key_text::generate(&auth.prefix, wish.environment);
    let key = session
        .store
        .keys
        .create(NewApiKey {
            client_id: client.id,
            name: wish.name,
            key_id: Some(made.key_id),
            hash: peppers.hash(made.text.expose().as_bytes()),
            pepper_version: Some(versions.current),
            scopes: wish.scopes,
            expires_at: wish.expires_at,
        })
        .await?;
    Ok((key, made.text))
}

fn expiry(text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let duration = parse_duration(text)
        .map_err(|message| Failure::usage(format!("--expires: {message}; write like 90d or 12h")))?;
    if duration.is_zero() {
        return Err(Failure::usage("--expires: a key that never works is no key"));
    }
    now.checked_add(duration)
        .map(Some)
        .map_err(|_| Failure::usage("--expires: too far away; leave it out for a key that stays"))
}

async fn list(session: &Session, client: Option<&str>, paging: &Paging) -> Result<(), Failure> {
    let client = if let Some(client) = client {
        Some(session.client(client).await?.id)
    } else {
        session.tables_are_ready().await?;
        None
    };
    let mut items: Vec<Value> = Vec::new();
    let mut after = paging.after.map(ApiKeyId);
    let mut next = None;
    loop {
        let left = paging
            .limit
            .map_or(PAGE, |limit| limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX)).min(PAGE));
        let page = session.store.keys.list(client, after, left).await?;
        after = page.items.last().map(|key| key.id).or(after);
        items.extend(page.items.iter().map(shown));
        let full = paging.limit.is_some_and(|limit| items.len() >= limit as usize);
        if full && page.more {
            next = after.map(|id| id.to_string());
        }
        if full || !page.more {
            break;
        }
    }
    let columns =
        ["id", "key_id", "client_id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at"];
    session.output.list(&items, &columns, next);
    Ok(())
}

/// A key under its table's column names; never a hash.
fn shown(key: &ApiKey) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "id": key.id,
        "client_id": key.client_id,
        "name": key.name,
        "key_id": key.key_id,
        "pepper_version": key.pepper_version,
        "scopes": key.scopes,
        "rate": key.rate.map(|rate| rate.to_string()),
        "burst": key.burst,
        "created_at": key.created_at.to_string(),
        "expires_at": time(key.expires_at),
        "revoked_at": time(key.revoked_at),
        "last_used_at": time(key.last_used_at),
        "replaced_by": key.replaced_by,
    })
}
