//! `octroi completions` and `octroi man`

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Failure};

/// Writes a shell's completions.
///
/// # Errors
/// The answer could not be written.
pub(super) fn write_completions(shell: Shell, out: &mut dyn Write) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "octroi", &mut text);
    Ok(out.write_all(&text)?)
}

/// Writes the manual: a page for the program, one for each command.
///
/// # Errors
/// The answer could not be written.
pub(super) fn write_manual(out: &mut dyn Write) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    Ok(write_pages(&command, out)?)
}

fn write_pages(command: &clap::Command, out: &mut dyn Write) -> std::io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(out)?;
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for command in visible {
        write_pages(command, out)?;
    }
    Ok(())
}
