//! The environment, read once: the only place of the program that asks the process for it.
//!
//! Everything else takes an [`Environment`] as a parameter, so that a test sets nothing global
//! and two tests never see each other's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variables and places as the process was given them.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    unreadable: Vec<String>,
    working_directory: PathBuf,
    system_file: Option<PathBuf>,
}

impl Environment {
    /// Where a packaged installation keeps its configuration.
    const SYSTEM_FILE: &'static str = "/etc/octroi/octroi.toml";

    /// This process's own.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    pub fn read() -> Self {
        let mut environment = Self {
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            system_file: Some(PathBuf::from(Self::SYSTEM_FILE)),
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name, value)),
                Err(_) => environment.unreadable.push(name),
            }
        }
        environment
    }

    /// One made by hand, without a system-wide file: for tests and simulations.
    #[must_use]
    pub fn of(variables: &[(&str, &str)], working_directory: &Path) -> Self {
        Self {
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            working_directory: working_directory.to_owned(),
            ..Self::default()
        }
    }

    /// The value of a variable; an empty one counts as not set, as `NAME=${OTHER:-}` leaves it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Variables whose name starts with `prefix`, also empty ones, in order of name.
    pub(super) fn starting_with<'e>(&'e self, prefix: &'e str) -> impl Iterator<Item = (&'e str, &'e str)> {
        let entries = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        entries.filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Names of variables whose value is not text.
    pub(super) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// The folder the process was started in.
    #[must_use]
    pub fn working_directory(&self) -> &Path {
        &self.working_directory
    }

    /// The system-wide configuration file, where one is looked for.
    pub(super) fn system_file(&self) -> Option<&Path> {
        self.system_file.as_deref()
    }

    /// What `RUST_LOG` asks for.
    #[must_use]
    pub fn log_filter(&self) -> Option<&str> {
        self.find("RUST_LOG")
    }

    /// Whether `NO_COLOR` asks for plain text (no-color.org: set and not empty).
    #[must_use]
    pub fn no_color(&self) -> bool {
        self.find("NO_COLOR").is_some()
    }

    /// `$XDG_DATA_HOME/octroi`, by its own default `$HOME/.local/share/octroi`.
    pub(super) fn user_data_dir(&self) -> Option<PathBuf> {
        let home = self.find("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = home.or_else(|| self.find("HOME").map(|home| Path::new(home).join(".local/share")));
        home.map(|home| home.join("octroi"))
    }
}

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The file of the running program, to run it once more.
///
/// # Errors
/// The system does not say.
pub fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// The words of the command line, the program's own name first.
#[must_use]
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().collect()
}
