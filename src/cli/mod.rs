//! Commands: one a file. Results go to stdout, everything else to stderr.

mod client;
mod config;
mod failure;
mod key;
mod migrate;
mod output;
mod quickstart;
mod serve;
mod session;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::telemetry::LogFormat;
use crate::config::{Config, Environment};
use crate::telemetry::logging;

use failure::Failure;
use output::OutputFormat;
use session::Session;

/// An authentication gateway: keys checked, limits kept, every request counted exactly once.
#[derive(Debug, Parser)]
#[command(name = "octroi", version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration [default: $OCTROI_CONFIG, ./octroi.toml, /etc/octroi/octroi.toml]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: OutputFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing to an answered request: makes a folder, a client and a key, and serves
    Quickstart(quickstart::QuickstartArguments),
    /// Run the gateway
    Serve,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Bring the store's tables up to this version
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Make, list and change clients
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Make, list and revoke keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Sums of usage
    Usage(usage::UsageArguments),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Runs the command line; the exit code says whose turn it is if something failed.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_process();
    let output = arguments.output;
    match dispatch(arguments, &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(output, &failure);
            ExitCode::from(failure.exit_code)
        }
    }
}

fn report(output: OutputFormat, failure: &Failure) {
    if output == OutputFormat::Json {
        eprintln!("{}", serde_json::json!({ "code": failure.code, "detail": failure.detail }));
    } else {
        eprintln!("octroi: {}", failure.detail);
    }
}

fn dispatch(arguments: Arguments, environment: &Environment) -> Result<(), Failure> {
    let Arguments { config: named, output, command } = arguments;
    let named = named.as_deref();
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "octroi", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Arguments::command());
            page.render(&mut std::io::stdout()).map_err(|error| Failure::failed("failed", error.to_string()))
        }
        Command::Quickstart(arguments) => {
            install_log(LogFormat::Auto, environment);
            quickstart::run(&arguments, environment)
        }
        Command::Serve => {
            let config = load(named, environment)?;
            install_log(config.telemetry.log_format, environment);
            serve::run(config, |_| {}).map_err(Failure::from)
        }
        Command::Config(command) => config::run(command, named, environment, output),
        Command::Migrate(command) => {
            Session::open(load(named, environment)?, output)?.run(|session| migrate::run(command, session))
        }
        Command::Client(command) => {
            Session::open(load(named, environment)?, output)?.run(|session| client::run(command, session))
        }
        Command::Key(command) => {
            Session::open(load(named, environment)?, output)?.run(|session| key::run(command, session))
        }
        Command::Usage(arguments) => {
            Session::open(load(named, environment)?, output)?.run(|session| usage::run(arguments, session))
        }
    }
}

fn load(named: Option<&Path>, environment: &Environment) -> Result<Config, Failure> {
    Ok(Config::load(named, environment)?)
}

fn install_log(format: LogFormat, environment: &Environment) {
    logging::install(format, environment.find("RUST_LOG"), environment.find("NO_COLOR").is_none());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
