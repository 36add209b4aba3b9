//! Who types: the system's user, for the audit; and how a password is asked for.

use std::io::{IsTerminal as _, Read as _, stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Context, Exit, Failure};
use crate::config::Environment;
use crate::model::operator::Actor;
use crate::model::secret::SecretText;

/// The most that is read; longer ones are refused as passwords anyway.
const INPUT_MAX: usize = 4_096;

/// Whoever runs this command, as the audit calls it: the user whose rights it has, and who took
/// them with sudo.
pub(super) fn actor(environment: &Environment) -> Actor {
    let user = rustix::process::getuid();
    let name = name_of(user.as_raw()).unwrap_or_else(|| format!("uid {}", user.as_raw()));
    match environment.find("SUDO_USER") {
        // Others could set the variable to any name.
        Some(behind) if user.is_root() => Actor::shell(format!("{name} (sudo: {behind})")),
        _ => Actor::shell(name),
    }
}

/// The name in `/etc/passwd`; a directory's users are known by their number.
fn name_of(user: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let number = user.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        (uid == number).then(|| name.to_owned())
    })
}

/// Reads a password: typed twice on a terminal, else all of stdin, without the newline at its end.
/// Never an argument, which other users of the machine could read.
///
/// # Errors
/// Nothing was typed, or not the same twice.
pub(super) fn read_password(context: &Context) -> Result<SecretText, Failure> {
    let text = if stdin().is_terminal() { read_twice(context)? } else { read_all()? };
    if text.is_empty() {
        return Err(Failure::usage("there is no password on stdin: type one, or octroi admin … < FILE"));
    }
    Ok(SecretText::new(String::clone(&text)))
}

fn read_all() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_MAX + 1));
    stdin().lock().take(INPUT_MAX as u64).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| Failure::usage("the password is not UTF-8"))?;
    Ok(Zeroizing::new(without_newline(&Zeroizing::new(text)).to_owned()))
}

fn read_twice(context: &Context) -> Result<Zeroizing<String>, Failure> {
    let quiet = Quiet::begin().map_err(|error| unreadable(&error.into()))?;
    context.tell("password:");
    let first = read_line()?;
    context.tell("again:");
    let second = read_line()?;
    drop(quiet);
    if *first != *second {
        return Err(Failure::usage("these were two different passwords"));
    }
    Ok(first)
}

fn read_line() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::with_capacity(INPUT_MAX));
    stdin().read_line(&mut line).map_err(|error| unreadable(&error))?;
    Ok(Zeroizing::new(without_newline(&line).to_owned()))
}

fn without_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "input_failed", format!("stdin was not read: {error}"))
}

/// The terminal does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}
