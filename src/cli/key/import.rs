//! `octroi key import`: keys that were made elsewhere, all of them or none.
//!
//! Raw keys are read from stdin only, so that nobody is led to leave a file of them behind. What rows
//! are, and what is wrong with them, is `auth::import`'s, which works here or in a gateway that is
//! asked from afar.

use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::auth::guard_pepper;
use crate::auth::import::{self, Checker, Form, Hasher, Outcome};
use crate::cli::open::open_store;
use crate::cli::output::{self, Row};
use crate::cli::server::{Server, unreadable};
use crate::cli::{Context, Exit, Failure, Format};
use crate::config::auth::AuthConfig;
use crate::crypto::pepper::Peppers;
use crate::model::secret::SecretText;
use crate::store::Store;

/// `octroi key import`
#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    /// The rows; `-` reads them from stdin, the only place for raw keys
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How they are written; without it, as the file's ending says
    #[arg(long, value_enum)]
    format: Option<Rows>,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// RFC 4180, the first row names the columns
    Csv,
    /// One JSON object a line
    Ndjson,
}

impl From<Rows> for Form {
    fn from(rows: Rows) -> Self {
        match rows {
            Rows::Csv => Self::Csv,
            Rows::Ndjson => Self::Ndjson,
        }
    }
}

/// Where rows come from.
struct Source {
    rows: Box<dyn BufRead>,
    form: Form,
    /// Whether it is a place for raw keys.
    raw_keys: bool,
}

impl Import {
    fn source(&self) -> Result<Source, Failure> {
        let raw_keys = self.file == Path::new("-");
        let form = self.format.or_else(|| ending(&self.file)).map(Form::from).ok_or_else(|| {
            Failure::usage(
                "the file's ending does not say how its rows are written: add --format csv or --format ndjson",
            )
        })?;
        if raw_keys {
            return Ok(Source { rows: Box::new(stdin().lock()), form, raw_keys });
        }
        let file = File::open(&self.file).map_err(|error| {
            let detail = format!("{} cannot be read: {error}", self.file.display());
            Failure::new(Exit::Failed, "input_failed", detail)
        })?;
        Ok(Source { rows: Box::new(BufReader::new(file)), form, raw_keys })
    }
}

fn ending(file: &Path) -> Option<Rows> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Rows::Csv),
        "ndjson" | "jsonl" => Some(Rows::Ndjson),
        _ => None,
    }
}

/// Imports a file or stdin.
pub(super) async fn run(context: &Context, arguments: &Import, out: &mut dyn Write) -> Result<(), Failure> {
    let mut source = arguments.source()?;
    let loaded = context.load()?;
    let store = open_store(context, &loaded.config).await?;
    let hasher = hasher(&store, &loaded.config.auth, source.raw_keys).await?;
    let mut checker = Checker::new(hasher, loaded.config.auth.prefix.clone());
    let unreadable = import::rows(source.rows.as_mut(), source.form, &mut |row| checker.take(row));
    let outcome = import::finish(checker, unreadable, arguments.dry_run, &store).await?;
    tell(context, &outcome, out)
}

/// Raw keys are hashed under the store's pepper or not at all.
async fn hasher(store: &Store, auth: &AuthConfig, raw_keys: bool) -> Result<Hasher, Failure> {
    if !raw_keys {
        return Ok(Hasher::FileHasNoKeys);
    }
    if auth.pepper.is_none() {
        return Ok(Hasher::NoPepper);
    }
    let peppers = Peppers::new(auth.require_pepper()?, auth.pepper_previous.as_ref());
    let version = guard_pepper(&peppers, store.peppers.as_ref()).await?.current;
    Ok(Hasher::Ready { peppers: Box::new(peppers), version })
}

/// Rows on their way to a gateway.
#[derive(Serialize)]
struct Sent<'r> {
    dry_run: bool,
    items: Vec<Item<'r>>,
}

/// One of them; what is null there is none.
#[derive(Serialize)]
struct Item<'r> {
    line: u64,
    client: Option<&'r str>,
    name: Option<&'r str>,
    api_key_hash: Option<&'r str>,
    sha256: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    scopes: &'r [String],
    expires_at: Option<&'r str>,
    created_at: Option<&'r str>,
}

impl<'r> Item<'r> {
    fn of(row: &'r import::Row) -> Self {
        Self {
            line: row.line,
            client: row.client.as_deref(),
            name: row.name.as_deref(),
            api_key_hash: row.api_key_hash.as_deref(),
            sha256: row.sha256.as_deref(),
            key: row.key.as_ref().map(SecretText::expose),
            scopes: &row.scopes,
            expires_at: row.expires_at.as_deref(),
            created_at: row.created_at.as_deref(),
        }
    }
}

/// Has a gateway import a file or stdin. What cannot be read, or must not be sent, is told with what the
/// gateway says of the rest.
pub(super) async fn run_remote(
    context: &Context,
    server: &Server,
    arguments: &Import,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut source = arguments.source()?;
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let not_read = import::rows(source.rows.as_mut(), source.form, &mut |row| {
        let misplaced = if source.raw_keys { None } else { import::misplaced_key(&row) };
        match misplaced {
            Some(problem) => problems.push(problem),
            None => rows.push(row),
        }
    });
    problems.extend(not_read);
    let sent = Sent { dry_run: arguments.dry_run || !problems.is_empty(), items: rows.iter().map(Item::of).collect() };
    let answer = server.ask_secretly("/v1/keys/import", &sent, Some(BAD_ROWS)).await?;
    let mut outcome: Outcome = serde_json::from_value(answer).map_err(|_| unreadable())?;
    if !problems.is_empty() {
        problems.append(&mut outcome.problems);
        outcome = Outcome::refused(problems, arguments.dry_run);
    }
    tell(context, &outcome, out)
}

/// What a gateway says, too, where rows are bad.
const BAD_ROWS: &str = "bad_rows";

fn tell(context: &Context, outcome: &Outcome, out: &mut dyn Write) -> Result<(), Failure> {
    write(context.format, outcome, out)?;
    outcome.refusal().map_or(Ok(()), |detail| Err(Failure::new(Exit::Failed, BAD_ROWS, detail)))
}

fn write(format: Format, outcome: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
    let rows = || outcome.problems.iter().map(|one| Row::new().with("line", one.line).with("reason", &*one.reason));
    match format {
        Format::Json => output::write_json(outcome, out),
        Format::Csv if outcome.ok => {
            output::write_csv(&["imported"], &[Row::new().with("imported", outcome.imported)], out)
        }
        Format::Csv => output::write_csv(COLUMNS, &rows().collect::<Vec<_>>(), out),
        Format::Table if !outcome.ok => output::write_table(COLUMNS, &rows().collect::<Vec<_>>(), out),
        Format::Table if outcome.dry_run => writeln!(out, "{} keys would be imported", outcome.imported),
        Format::Table => writeln!(out, "{} keys imported", outcome.imported),
    }
}

const COLUMNS: &[&str] = &["line", "reason"];
