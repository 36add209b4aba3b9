//! `octroi key verify`: whose a raw key is, and what a gateway would say to it now.
//!
//! The key comes on stdin and never as an argument, which other users of the machine can read.
//! It is not repeated, wherever it turns out to be from. Nothing is written, not even what a
//! gateway would note.

use std::io::{IsTerminal as _, Read as _, Write, stdin};

use serde::Serialize;
use zeroize::Zeroizing;

use super::row;
use crate::auth::PepperError;
use crate::cli::open::open_store;
use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Exit, Failure, client};
use crate::crypto::key_text::{KeyText, MalformedKey};
use crate::crypto::pepper::{KeyHashes, PepperOrigin, Peppers};
use crate::model::client::{Client, ClientStatus};
use crate::model::key::{ApiKey, CredentialRecord, HashKind, KeyDefect};
use crate::store::Store;

/// Why a key would be refused. A closed set, which scripts may branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Malformed,
    BadCheckDigits,
    Unknown,
    Revoked,
    Expired,
    ClientSuspended,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Verdict {
    valid: bool,
    reason: Option<Reason>,
    /// The same in a sentence.
    detail: String,
    /// Under which pepper its hash stands: `current`, `previous`, or `none` for an imported one.
    pepper: Option<&'static str>,
    key: Option<Row>,
    client: Option<Row>,
}

/// What a look-up came to, before it is written.
enum Found {
    Nobody(Reason),
    Somebody { record: Box<CredentialRecord>, origin: PepperOrigin },
}

/// Reads the key, answers, and fails when the key is not valid.
pub(super) async fn run(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let raw = read_key(context)?;
    answer(context, &raw, out).await
}

fn read_key(context: &Context) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Room for everything at once: what grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(INPUT_MAX));
    let input = stdin();
    let unreadable =
        |error: std::io::Error| Failure::new(Exit::Failed, "input_failed", format!("stdin was not read: {error}"));
    if input.is_terminal() {
        context.tell("paste the key and press Enter; it is shown on this terminal and nowhere else");
        read_line(&mut input.lock(), &mut text).map_err(unreadable)?;
    } else {
        input.lock().take(INPUT_MAX as u64).read_to_end(&mut text).map_err(unreadable)?;
    }
    let key = Zeroizing::new(text.trim_ascii().to_vec());
    if key.is_empty() {
        return Err(Failure::usage(
            "there is no key on stdin: octroi key verify < FILE, with the key alone in the file",
        ));
    }
    Ok(key)
}

fn read_line(input: &mut impl std::io::BufRead, text: &mut Vec<u8>) -> std::io::Result<()> {
    std::io::BufRead::read_until(&mut input.take(INPUT_MAX as u64), b'\n', text).map(drop)
}

/// The whole of the command but reading.
pub(in crate::cli) async fn answer(context: &Context, raw: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    let auth = &loaded.config.auth;
    let peppers = Peppers::new(auth.require_pepper()?, auth.pepper_previous.as_ref());
    let found = match KeyText::parse(&auth.prefix, raw) {
        Err(MalformedKey::Check) => Found::Nobody(Reason::BadCheckDigits),
        Err(MalformedKey::Shape | MalformedKey::Legacy) => Found::Nobody(Reason::Malformed),
        Ok(_) => {
            let store = open_store(context, &loaded.config).await?;
            look_up(&store, &peppers, &peppers.hashes(peppers.current.hash(raw), raw)).await?
        }
    };
    let verdict = judge(context, found);
    write(context.format, &verdict, out)?;
    if verdict.valid { Ok(()) } else { Err(Failure::new(Exit::Failed, "key_not_valid", verdict.detail)) }
}

async fn look_up(store: &Store, peppers: &Peppers, hashes: &KeyHashes) -> Result<Found, Failure> {
    if let Some(record) = store.keys.find_by_hash(hashes.as_slice()).await?
        && let Some(origin) = hashes.origin(record.matched)
        && counts(&record, origin)
    {
        return Ok(Found::Somebody { record: Box::new(record), origin });
    }
    // With another pepper than the store's every key is unknown, and that is not the key's fault.
    let known = store.peppers.list().await?;
    let fingerprint = peppers.current.fingerprint();
    let previous = peppers.previous.as_ref().map(crate::crypto::pepper::Pepper::fingerprint);
    let ours = |seen: &str| seen == fingerprint || previous.as_deref() == Some(seen);
    if !known.is_empty() && !known.iter().any(|record| ours(&record.fingerprint)) {
        return Err(PepperError::Mismatch.into());
    }
    Ok(Found::Nobody(Reason::Unknown))
}

/// As gateways see it: a plain hash is a credential only where an import left one.
fn counts(record: &CredentialRecord, origin: PepperOrigin) -> bool {
    let kind = record.key.as_ref().map_or(HashKind::Hmac, |key| key.hash_kind);
    (kind == HashKind::Sha256) == (origin == PepperOrigin::Unpeppered)
}

/// In the order of a gateway: the key before its client.
fn judge(context: &Context, found: Found) -> Verdict {
    let (record, origin) = match found {
        Found::Nobody(reason) => {
            let detail = sentence(reason).to_owned();
            return Verdict { valid: false, reason: Some(reason), detail, pepper: None, key: None, client: None };
        }
        Found::Somebody { record, origin } => (record, origin),
    };
    let now = context.clock.wall();
    let reason = match (record.key.as_ref().and_then(|key| key.defect(now)), record.client.status) {
        (Some(KeyDefect::Revoked), _) => Some(Reason::Revoked),
        (Some(KeyDefect::Expired), _) => Some(Reason::Expired),
        (None, ClientStatus::Suspended) => Some(Reason::ClientSuspended),
        (None, ClientStatus::Active) => None,
    };
    Verdict {
        valid: reason.is_none(),
        reason,
        detail: reason.map_or_else(|| welcome(record.key.as_ref(), &record.client), |why| sentence(why).to_owned()),
        pepper: Some(match origin {
            PepperOrigin::Current => "current",
            PepperOrigin::Previous => "previous",
            PepperOrigin::Unpeppered => "none",
        }),
        key: record.key.as_ref().map(row),
        client: Some(client::row(&record.client)),
    }
}

fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed => "this is no key's text: its length or its characters are wrong; a gateway answers 401",
        Reason::BadCheckDigits => "its check digits do not fit: it was mistyped or cut; a gateway answers 401",
        Reason::Unknown => "no key of this store; a gateway answers 401",
        Reason::Revoked => "the key is revoked; a gateway answers 401",
        Reason::Expired => "the key has expired; a gateway answers 401",
        Reason::ClientSuspended => "the key is good and its client suspended; a gateway answers 403",
    }
}

/// What a good key opens, and the conditions on it.
fn welcome(key: Option<&ApiKey>, client: &Client) -> String {
    let of = format!("a good key of the client {}", client.name);
    let Some(key) = key else { return of + ", its legacy hash: without scopes" };
    let scopes =
        if key.scopes.is_empty() { "without scopes".into() } else { format!("with the scopes {}", key.scopes) };
    let from = (!key.allowed_addresses.is_empty()).then(|| format!("only from {}", key.allowed_addresses));
    let until = key.expires_at.map(|until| format!("until {until}"));
    let parts: Vec<String> = [Some(of), Some(scopes), from, until].into_iter().flatten().collect();
    parts.join(", ")
}

fn write(format: Format, verdict: &Verdict, out: &mut dyn Write) -> std::io::Result<()> {
    if format == Format::Json {
        return output::write_json(verdict, out);
    }
    let reason = serde_json::to_value(verdict.reason)?;
    let mut flat = Row::new().with("valid", verdict.valid).with("reason", reason).with("detail", &*verdict.detail);
    flat = flat.with("pepper", verdict.pepper);
    if let Some(client) = &verdict.client {
        for (name, of) in [("client_name", "name"), ("client_status", "status")] {
            flat = flat.with(name, client.find(of).clone());
        }
    }
    if let Some(key) = &verdict.key {
        flat = flat.followed_by(key.clone());
    }
    output::write_object(&flat, format, out)
}

/// More than the longest key, and a newline; a key that is longer is malformed, whatever follows.
const INPUT_MAX: usize = 4096;
