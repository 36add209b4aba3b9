//! `octroi config check|show|schema`

use std::io::Write;

use clap::Subcommand;
use serde::Serialize;

use super::failure::write_problem;
use super::output::{self, Format, Row};
use super::{Context, Exit, Failure};
use crate::app;
use crate::config::{self, Loaded, Problem, Problems};

/// `octroi config …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say everything that is wrong with the settings, at once
    Check,
    /// Print the settings in force as TOML, secrets masked
    Show,
    /// Print the JSON Schema of the file, for editors (`#:schema` in its first line)
    Schema,
}

#[derive(Serialize)]
struct Verdict<'v> {
    ok: bool,
    problems: &'v [Problem],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'v [String],
}

/// Runs one of them.
///
/// # Errors
/// The settings are bad, or the answer could not be written.
pub(super) fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Check => check(context, out),
        Command::Show => show(context, out),
        Command::Schema => {
            Ok(writeln!(out, "{}", serde_json::to_string_pretty(&config::json_schema()).unwrap_or_default())?)
        }
    }
}

fn check(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    match config::load(context.config_file.as_deref(), &context.environment) {
        Ok(loaded) => match app::check(&loaded.config) {
            None => Ok(write_good(context.format, &loaded, out)?),
            Some(problem) => Err(refused(context, &[problem], out)?),
        },
        Err(Problems(problems)) => Err(refused(context, &problems, out)?),
    }
}

fn refused(context: &Context, problems: &[Problem], out: &mut dyn Write) -> std::io::Result<Failure> {
    write_bad(context.format, problems, out)?;
    let detail = match problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    Ok(Failure::new(Exit::Configuration, "bad_configuration", detail))
}

fn write_good(format: Format, loaded: &Loaded, out: &mut dyn Write) -> std::io::Result<()> {
    match format {
        Format::Json => output::write_json(&Verdict { ok: true, problems: &[], warnings: &loaded.warnings }, out),
        Format::Csv => output::write_csv(COLUMNS, &[], out),
        Format::Table => {
            for warning in &loaded.warnings {
                writeln!(out, "warning: {warning}")?;
            }
            if loaded.config.auth.pepper.is_none() {
                writeln!(
                    out,
                    "warning: there is no pepper here: `octroi serve` needs API_KEY_PEPPER or auth.pepper_file"
                )?;
            }
            match &loaded.file {
                Some(file) => writeln!(out, "{} is good", file.display()),
                None => writeln!(out, "there is no file; the defaults and the environment are good"),
            }
        }
    }
}

fn write_bad(format: Format, problems: &[Problem], out: &mut dyn Write) -> std::io::Result<()> {
    match format {
        Format::Json => output::write_json(&Verdict { ok: false, problems, warnings: &[] }, out),
        Format::Csv => {
            let row = |problem: &Problem| {
                let row = Row::new().with("path", problem.path.as_str());
                row.with("message", problem.message.as_str()).with("remedy", problem.remedy.as_str())
            };
            output::write_csv(COLUMNS, &problems.iter().map(row).collect::<Vec<_>>(), out)
        }
        Format::Table => problems.iter().try_for_each(|problem| write_problem(problem, out)),
    }
}

const COLUMNS: &[&str] = &["path", "message", "remedy"];

fn show(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = context.load()?;
    if context.format == Format::Json {
        return Ok(output::write_json(&loaded.effective, out)?);
    }
    let text = loaded.effective.to_toml().map_err(|error| {
        Failure::new(Exit::Failed, "internal", format!("the settings in force are no TOML: {error}"))
    })?;
    Ok(write!(out, "{text}")?)
}
