//! The command line: what an operator types, and how it is answered.
//!
//! Results go to stdout, everything else to stderr, so that a pipe gets answers only. Exit codes
//! are [`Exit`]'s. Secrets are never arguments: other users of the machine can read those.
//!
//! To add a command: a variant of `Command`, an arm in `dispatch`, a file here whose `run`
//! writes rows of `output` and returns a [`Failure`].

mod admin;
mod audit;
mod backfill;
mod client;
mod config;
mod events;
mod failure;
mod key;
mod migrate;
mod open;
mod output;
mod pages;
mod pepper;
mod person;
mod plan;
mod prove;
pub mod quickstart;
pub mod serve;
mod server;
mod shell;
mod usage;

#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::future::Future;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::{Exit, Failure};
pub use open::{open, open_store};
pub use output::Format;

use crate::config::{Environment, Loaded};
use crate::model::clock::SharedClock;

/// An authentication gateway: keys checked, limits kept, every request counted exactly once.
#[derive(Debug, Parser)]
#[command(name = "octroi", version)]
pub struct Cli {
    /// The configuration; else $OCTROI_CONFIG, ./octroi.toml, /etc/octroi/octroi.toml, the defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How answers are written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Work on this admin API instead of the store, with the token in $OCTROI_ADMIN_TOKEN[_FILE]; else $OCTROI_SERVER
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: make settings, a database, a client and a key, and serve
    Quickstart(quickstart::Arguments),
    /// Run the gateway
    Serve,
    /// Look at the settings
    #[command(subcommand)]
    Config(config::Command),
    /// Make and update the store's tables
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Clients: the customers that have keys, limits and a bill
    #[command(subcommand)]
    Client(client::Command),
    /// Plans: limits that many clients have in common
    #[command(subcommand)]
    Plan(plan::Command),
    /// API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Raw keys of an adopted database (clients.api_key): make hashes of them
    #[command(subcommand)]
    Backfill(backfill::Command),
    /// Peppers: the secrets that keys are hashed with
    #[command(subcommand)]
    Pepper(pepper::Command),
    /// Operators: who may change what, with a browser or a token
    #[command(subcommand)]
    Admin(admin::Command),
    /// Who changed what, the latest first
    Audit(audit::Arguments),
    /// Say why a request was, or would be, answered as it is, and which setting decides
    Explain(server::explain::Arguments),
    /// What the running gateway refused lately, with the true reason
    Refusals(server::explain::RefusalsArguments),
    /// What goes on in the running gateway, looked at again and again
    Top(server::watch::TopArguments),
    /// Requests of the running gateway, as they end
    Tail(server::watch::TailArguments),
    /// Make plans, clients and what stands beside keys as a file says
    Apply(server::apply::Arguments),
    /// Say what `apply` would do; exit 1 if it would do anything
    Diff(server::apply::Arguments),
    /// Sums of what was used
    Usage(usage::Arguments),
    /// Show on this machine that the books balance: kill the gateway, cut the store, count by id
    Prove(prove::Arguments),
    /// Completions for a shell
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// The manual, as roff: `octroi man | man -l -`
    Man,
}

/// What every command is given.
pub struct Context {
    /// The environment of the process.
    pub environment: Environment,
    /// `--config`
    pub config_file: Option<PathBuf>,
    /// `--output`
    pub format: Format,
    /// `--server`
    pub server: Option<String>,
    /// The time.
    pub clock: SharedClock,
}

impl Context {
    /// The settings in force. Warnings go to stderr, unless a program reads it.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let loaded = crate::config::load(self.config_file.as_deref(), &self.environment)?;
        loaded.warnings.iter().for_each(|warning| self.tell(&format!("warning: {warning}")));
        Ok(loaded)
    }

    /// A word to a person, beside the answer.
    pub fn tell(&self, words: &str) {
        if self.format != Format::Json {
            // Nothing is lost if nobody listens.
            let _ = writeln!(stderr(), "{words}");
        }
    }
}

/// Runs the command that `arguments` ask for, the program's own name first.
pub fn run(arguments: &[OsString], environment: Environment, clock: SharedClock) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error, arguments),
    };
    let context = Context { environment, config_file: cli.config, format: cli.output, server: cli.server, clock };
    match dispatch(&context, &cli.command, &mut stdout()) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.report(context.format, &mut stderr());
            failure.exit().into()
        }
    }
}

fn dispatch(context: &Context, command: &Command, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    match command {
        Command::Explain(arguments) => block_on(server::explain::run(context, arguments, out)),
        Command::Refusals(arguments) => block_on(server::explain::refusals(context, arguments, out)),
        Command::Top(arguments) => block_on(server::watch::top(context, arguments, out)),
        Command::Tail(arguments) => block_on(server::watch::tail(context, arguments, out)),
        Command::Apply(arguments) => block_on(server::apply::apply(context, arguments, out)),
        Command::Diff(arguments) => block_on(server::apply::diff(context, arguments, out)),
        command => match server::Server::named(context)? {
            Some(server) => block_on(by_server(context, &server, command, out)),
            None => by_store(context, command, out),
        },
    }?;
    Ok(out.flush()?)
}

/// Commands that an admin API does as well.
async fn by_server(
    context: &Context,
    server: &server::Server,
    command: &Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        Command::Client(command) => client::remote::run(context, server, command, out).await,
        Command::Plan(command) => plan::remote::run(context, server, command, out).await,
        Command::Key(command) => key::remote::run(context, server, command, out).await,
        Command::Backfill(command) => backfill::remote::run(context, server, command, out).await,
        Command::Migrate(command) => migrate::run_remote(context, server, command, out).await,
        Command::Pepper(command) => pepper::run_remote(context, server, command, out).await,
        Command::Admin(command) => admin::remote::run(context, server, command, out).await,
        Command::Audit(arguments) => audit::run_remote(context, server, arguments, out).await,
        Command::Usage(arguments) => usage::remote::run(context, server, arguments, out).await,
        Command::Completions { shell } => shell::write_completions(*shell, out),
        Command::Man => shell::write_manual(out),
        _ => Err(Failure::usage("this command works beside the store, without --server (or $OCTROI_SERVER)")),
    }
}

/// Commands that work on the store itself, or on this machine.
fn by_store(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Quickstart(arguments) => quickstart::run(context, arguments),
        Command::Serve => serve::run(context),
        Command::Config(command) => config::run(context, command, out),
        Command::Migrate(command) => block_on(migrate::run(context, command, out)),
        Command::Client(command) => block_on(client::run(context, command, out)),
        Command::Plan(command) => block_on(plan::run(context, command, out)),
        Command::Key(command) => block_on(key::run(context, command, out)),
        Command::Backfill(command) => block_on(backfill::run(context, command, out)),
        Command::Pepper(command) => block_on(pepper::run(context, command, out)),
        Command::Admin(command) => block_on(admin::run(context, command, out)),
        Command::Audit(arguments) => block_on(audit::run(context, arguments, out)),
        Command::Usage(arguments) => block_on(usage::run(context, arguments, out)),
        Command::Prove(arguments) => prove::run(context, arguments, out),
        Command::Completions { shell } => shell::write_completions(*shell, out),
        Command::Man => shell::write_manual(out),
        Command::Explain(_)
        | Command::Refusals(_)
        | Command::Top(_)
        | Command::Tail(_)
        | Command::Apply(_)
        | Command::Diff(_) => unreachable!("they ask a gateway"),
    }
}

/// Runs a command that talks to the store, on a runtime of its own.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "internal", format!("no runtime: {error}")))?;
    runtime.block_on(command)
}

/// Help and version are answers; the rest is wrong usage, told as the caller asked for failures.
fn refuse_usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let asks_for_json = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--output=json");
    if error.use_stderr() && asks_for_json {
        let text = error.render().to_string();
        let detail = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::usage(detail).report(Format::Json, &mut stderr());
        return Exit::Usage.into();
    }
    // Nothing is left to be done if it cannot be written.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}
