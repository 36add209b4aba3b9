//! `[store]`

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};
use crate::model::secret::SecretText;

/// Where clients, keys and usage live.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Its address.
    pub url: StoreUrl,
    /// Whether `serve` applies pending migrations.
    pub migrate: bool,
    /// How long `serve` waits for it at start.
    pub start_timeout: Duration,
}

/// A store's address.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// `sqlite:PATH`; the path is absolute.
    Sqlite(PathBuf),
    /// `postgres://…`, with its password, as given.
    Postgres(SecretText),
}

impl StoreUrl {
    /// Reads an address; a path stays as written.
    ///
    /// # Errors
    /// What is wrong with it, and how it is written. The address itself, which may hold a password,
    /// is not shown.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_url(text).map_err(|defect| format!("{}; {}", defect.message, defect.remedy))
    }
}

/// `[store]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) url: String,
    pub(super) migrate: bool,
    pub(super) start_timeout: String,
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            url: "sqlite:octroi.db".to_owned(),
            // A schema changes when somebody says so, not because a process happened to start.
            migrate: false,
            start_timeout: "30s".to_owned(),
        }
    }
}

impl RawStore {
    pub(super) fn resolve(&self, check: &Check<'_>) -> StoreConfig {
        let url = parse_url(&self.url).unwrap_or_else(|defect| {
            check.refuse("url", defect.message, defect.remedy);
            StoreUrl::Sqlite(PathBuf::new())
        });
        let url = match url {
            StoreUrl::Sqlite(path) => StoreUrl::Sqlite(check.place(&path.to_string_lossy())),
            StoreUrl::Postgres(address) => StoreUrl::Postgres(address),
        };
        let start_timeout = check.duration("start_timeout", &self.start_timeout, Zero::Allowed);
        StoreConfig { url, migrate: self.migrate, start_timeout }
    }
}

struct UrlDefect {
    message: &'static str,
    remedy: &'static str,
}

/// Reads an address; a path stays as written. Messages never show it: it may hold a password.
fn parse_url(text: &str) -> Result<StoreUrl, UrlDefect> {
    const FORMS: &str = "write `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`";
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(UrlDefect { message: "this is not the address of a store", remedy: FORMS });
    };
    match scheme {
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(UrlDefect { message: "the database file is not named", remedy: "write `sqlite:PATH`" });
            }
            if path.starts_with(":memory:") {
                return Err(UrlDefect {
                    message: "a database in memory is not shared between the gateway and its commands",
                    remedy: "name a file: `sqlite:PATH`",
                });
            }
            if path.contains('?') {
                return Err(UrlDefect {
                    message: "options of a SQLite database are not the operator's to set",
                    remedy: "leave out the question mark and what follows it",
                });
            }
            Ok(StoreUrl::Sqlite(PathBuf::from(path)))
        }
        "postgres" | "postgresql" if rest.starts_with("//") => Ok(StoreUrl::Postgres(SecretText::new(text.to_owned()))),
        _ => Err(UrlDefect { message: "there is no store of this kind", remedy: FORMS }),
    }
}

/// An address whose passwords are not shown: neither before the host nor among the options.
///
/// Rather too much than too little: whatever lies between the first `:` of the authority and the
/// last `@` is taken for a password, so that one with a `/`, `?` or `@` in it does not slip out.
pub(super) fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => match user.split_once(':') {
            Some((name, _)) => (format!("{name}:{MASK}@"), rest),
            None => (format!("{user}@"), rest),
        },
        None => (String::new(), rest),
    };
    let Some((place, options)) = rest.split_once('?') else { return format!("{scheme}://{user}{rest}") };
    let mask = |option: &str| match option.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pass") => format!("{name}={MASK}"),
        _ => option.to_owned(),
    };
    let options: Vec<String> = options.split('&').map(mask).collect();
    format!("{scheme}://{user}{place}?{}", options.join("&"))
}

/// What stands where a secret was.
pub(super) const MASK: &str = "[secret]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        for (text, path) in [
            ("sqlite:octroi.db", "octroi.db"),
            ("sqlite://octroi.db", "octroi.db"),
            ("sqlite://data/octroi.db", "data/octroi.db"),
            ("sqlite:///var/lib/octroi.db", "/var/lib/octroi.db"),
            ("sqlite:/var/lib/octroi.db", "/var/lib/octroi.db"),
            ("sqlite:with blank.db", "with blank.db"),
        ] {
            let Ok(StoreUrl::Sqlite(found)) = parse_url(text) else { panic!("{text}") };
            assert_eq!(found, PathBuf::from(path), "{text}");
        }
        for text in ["postgres://u:p@h/d", "postgresql:///d?host=/run/postgresql", "postgres://h1,h2:5433/d"] {
            let Ok(StoreUrl::Postgres(found)) = parse_url(text) else { panic!("{text}") };
            assert_eq!(found.expose(), text);
        }
        for text in [
            "",
            "octroi.db",
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite:a?mode=rw",
            "mysql://h/d",
            "postgres:d",
        ] {
            let Err(defect) = parse_url(text) else { panic!("{text}") };
            assert!(!defect.remedy.is_empty());
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (text, masked) in [
            ("sqlite:octroi.db", "sqlite:octroi.db"),
            ("postgres://h/d", "postgres://h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://u:hunter2@h:5432/d?sslmode=require", "postgres://u:[secret]@h:5432/d?sslmode=require"),
            ("postgres://u:hunt@er/2?@h/d", "postgres://u:[secret]@h/d"),
            ("postgres:///d?user=u&password=hunter2&host=/run", "postgres:///d?user=u&password=[secret]&host=/run"),
            ("postgres://h/d?sslpassword=hunter2", "postgres://h/d?sslpassword=[secret]"),
        ] {
            assert_eq!(mask_url(text), masked, "{text}");
        }
    }
}
