//! `octroi config`: what is wrong with the settings, and what they are.

use std::path::Path;

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::output::OutputFormat;
use crate::config::{Config, Environment};

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say everything that is wrong
    Check,
    /// Print the effective settings, secrets masked
    Show,
}

pub(super) fn run(
    command: ConfigCommand,
    named: Option<&Path>,
    environment: &Environment,
    output: OutputFormat,
) -> Result<(), Failure> {
    let loaded = Config::load(named, environment);
    match command {
        ConfigCommand::Check => {
            let problems = loaded.as_ref().err().map(|problems| problems.0.clone()).unwrap_or_default();
            if output == OutputFormat::Json {
                println!("{}", json!({ "ok": problems.is_empty(), "problems": problems }));
            } else if problems.is_empty() {
                println!("the configuration is fine");
            }
            // What is wrong stands on stderr once more: whoever reads only that finds it.
            loaded.map(drop).map_err(Failure::from)
        }
        ConfigCommand::Show => {
            let config = loaded?;
            match output {
                OutputFormat::Json => {
                    let shown = serde_json::to_string(&config.effective);
                    println!("{}", shown.map_err(|error| Failure::failed("failed", error.to_string()))?);
                }
                OutputFormat::Table | OutputFormat::Csv => print!("{}", config.effective),
            }
            Ok(())
        }
    }
}
