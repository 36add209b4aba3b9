//! `octroi key import`: keys that were made elsewhere, all of them or none.
//!
//! A row names a client and brings a key as one of three: its hash under our pepper, its plain
//! SHA-256, or the key itself. Raw keys are read from stdin only, so that nobody is led to leave a
//! file of them behind; each is hashed as its row is read and then forgotten.
//!
//! | file | owns |
//! |---|---|
//! | `read` | from bytes to rows: CSV, NDJSON, line numbers |
//! | `check` | from a row to a key, or the reason why not; duplicates |
//!
//! Every row is checked, also against the store, before anything is written; every bad one is
//! told with its line. No message repeats a value: where columns are mixed up it may be a key.

mod check;
mod read;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::auth::guard_pepper;
use crate::cli::open::open_store;
use crate::cli::output::{self, Row};
use crate::cli::{Context, Exit, Failure, Format};
use crate::config::auth::AuthConfig;
use crate::crypto::pepper::Peppers;
use crate::store::Store;
use check::{Checker, Hasher};

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

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Problem {
    line: u64,
    reason: String,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Outcome<'p> {
    ok: bool,
    dry_run: bool,
    /// Rows that were imported, or, in a dry run, would be.
    imported: u64,
    problems: &'p [Problem],
}

/// Imports a file or stdin.
pub(super) async fn run(context: &Context, arguments: &Import, out: &mut dyn Write) -> Result<(), Failure> {
    let from_stdin = arguments.file == Path::new("-");
    let format = arguments.format.or_else(|| ending(&arguments.file)).ok_or_else(|| {
        Failure::usage("the file's ending does not say how its rows are written: add --format csv or --format ndjson")
    })?;
    if from_stdin {
        return import(context, arguments, Source { rows: &mut stdin().lock(), format, raw_keys: true }, out).await;
    }
    let file = File::open(&arguments.file).map_err(|error| {
        let detail = format!("{} cannot be read: {error}", arguments.file.display());
        Failure::new(Exit::Failed, "input_failed", detail)
    })?;
    import(context, arguments, Source { rows: &mut BufReader::new(file), format, raw_keys: false }, out).await
}

fn ending(file: &Path) -> Option<Rows> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Rows::Csv),
        "ndjson" | "jsonl" => Some(Rows::Ndjson),
        _ => None,
    }
}

/// Where rows come from.
struct Source<'s> {
    rows: &'s mut dyn BufRead,
    format: Rows,
    /// Whether it is a place for raw keys.
    raw_keys: bool,
}

async fn import(context: &Context, arguments: &Import, source: Source<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    let store = open_store(context, &loaded.config).await?;
    let hasher = hasher(&store, &loaded.config.auth, source.raw_keys).await?;
    let mut checker = Checker::new(hasher, loaded.config.auth.prefix.clone());
    let unreadable = read::rows(source.rows, source.format, &mut |row| checker.take(row));
    let (keys, mut problems) = checker.finish(&store).await?;
    problems.extend(unreadable);
    problems.sort_by_key(|problem| problem.line);
    let imported = match (problems.is_empty(), arguments.dry_run) {
        (true, false) => store.keys.import(keys).await?,
        (true, true) => keys.len() as u64,
        (false, _) => 0,
    };
    let outcome = Outcome { ok: problems.is_empty(), dry_run: arguments.dry_run, imported, problems: &problems };
    write(context.format, &outcome, out)?;
    match problems.len() {
        0 => Ok(()),
        1 => Err(bad_rows("1 problem; nothing was imported".to_owned())),
        count => Err(bad_rows(format!("{count} problems; nothing was imported"))),
    }
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

fn bad_rows(detail: String) -> Failure {
    Failure::new(Exit::Failed, "bad_rows", detail)
}

fn write(format: Format, outcome: &Outcome<'_>, out: &mut dyn Write) -> std::io::Result<()> {
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
