//! `octroi key verify`: whose a raw key is, and what a gateway would say to it now.
//!
//! The key comes on stdin and never as an argument, which other users of the machine can read.
//! It is not repeated. `auth::verdict` judges, here or in a gateway that is asked from afar.

use std::io::{IsTerminal as _, Read as _, Write, stdin};

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{COLUMNS, row};
use crate::auth::verdict::{Examiner, Reason, Verdict};
use crate::cli::open::open_store;
use crate::cli::output::{self, Format, Row};
use crate::cli::server::{Server, unreadable};
use crate::cli::{Context, Exit, Failure, client};
use crate::crypto::pepper::Peppers;

/// The answer, as it is written.
#[derive(Debug, Serialize)]
struct Shown {
    valid: bool,
    reason: Value,
    /// The same in a sentence.
    detail: String,
    /// Under which pepper its hash stands: `current`, `previous`, or `none` for an imported one.
    pepper: Value,
    key: Option<Row>,
    client: Option<Row>,
}

impl From<Verdict> for Shown {
    fn from(verdict: Verdict) -> Self {
        Self {
            valid: verdict.is_valid(),
            reason: serde_json::to_value(verdict.reason).unwrap_or_default(),
            pepper: verdict.pepper.into(),
            key: verdict.key.as_ref().map(row),
            client: verdict.client.as_ref().map(client::row),
            detail: verdict.detail,
        }
    }
}

impl Shown {
    /// As a gateway says it.
    fn read(answer: &Value) -> Option<Self> {
        let object = |columns, name: &str| answer[name].is_object().then(|| Row::read(columns, &answer[name]));
        Some(Self {
            valid: answer["valid"].as_bool()?,
            reason: answer["reason"].clone(),
            detail: answer["detail"].as_str()?.to_owned(),
            pepper: answer["pepper"].clone(),
            key: object(COLUMNS, "key"),
            client: object(client::COLUMNS, "client"),
        })
    }
}

/// A key on its way to a gateway.
#[derive(Serialize)]
struct Sent<'k> {
    key: &'k str,
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
async fn answer(context: &Context, raw: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    let auth = &loaded.config.auth;
    let peppers = Peppers::new(auth.require_pepper()?, auth.pepper_previous.as_ref());
    let examiner = Examiner { prefix: &auth.prefix, peppers: &peppers, now: context.clock.wall(), sees: &|_| true };
    let verdict = match examiner.unseen(raw) {
        Some(verdict) => verdict,
        None => examiner.examine(raw, &open_store(context, &loaded.config).await?).await?,
    };
    tell(context, &verdict.into(), out)
}

/// Reads the key, has a gateway answer, and fails when the key is not valid.
pub(super) async fn run_remote(context: &Context, server: &Server, out: &mut dyn Write) -> Result<(), Failure> {
    let raw = read_key(context)?;
    // What is no text is no key, and cannot be sent as one.
    let Ok(key) = std::str::from_utf8(&raw) else {
        return tell(context, &Verdict::nobody(Reason::Malformed).into(), out);
    };
    let answer = server.ask_secretly("/v1/keys/verify", &Sent { key }, None).await?;
    tell(context, &Shown::read(&answer).ok_or_else(unreadable)?, out)
}

fn tell(context: &Context, shown: &Shown, out: &mut dyn Write) -> Result<(), Failure> {
    write(context.format, shown, out)?;
    if shown.valid { Ok(()) } else { Err(Failure::new(Exit::Failed, "key_not_valid", shown.detail.as_str())) }
}

fn write(format: Format, verdict: &Shown, out: &mut dyn Write) -> std::io::Result<()> {
    if format == Format::Json {
        return output::write_json(verdict, out);
    }
    let mut flat = Row::new().with("valid", verdict.valid).with("reason", verdict.reason.clone());
    flat = flat.with("detail", &*verdict.detail).with("pepper", verdict.pepper.clone());
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
