//! `[store]`

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::secret::SecretText;

use toml::{Table, Value};

use super::reader::{Findings, Section};

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

impl StoreConfig {
    /// Reads `[store]`; `DATABASE_URL` overrules its address.
    pub(super) fn read(
        root: &mut Table,
        overruled: Option<String>,
        data_dir: &Path,
        findings: &mut Findings,
    ) -> (Self, Table) {
        if let Some(url) = overruled {
            if let Some(Value::Table(store)) = root.get_mut("store") {
                store.insert("url".to_owned(), Value::String(url));
            } else {
                root.insert(
                    "store".to_owned(),
                    Value::Table(Table::from_iter([("url".to_owned(), Value::String(url))])),
                );
            }
        }
        let mut section = Section::take(root, "store", findings);
        let text = section.masked_text("url", "sqlite:octroi.db", mask_password);
        let url = StoreUrl::read(&text, data_dir).unwrap_or_else(|message| {
            section.problem("url", message, "write sqlite:PATH or postgres://user@host/database");
            StoreUrl::Sqlite(data_dir.join("octroi.db"))
        });
        let config = Self {
            url,
            migrate: section.flag("migrate", false),
            start_timeout: section.duration("start_timeout", "30s", Duration::ZERO),
        };
        (config, section.close())
    }
}

impl StoreUrl {
    fn read(text: &str, data_dir: &Path) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.starts_with('?') || path == ":memory:" {
                return Err("names no file".to_owned());
            }
            return Ok(Self::Sqlite(data_dir.join(path)));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(SecretText::new(text.to_owned())));
        }
        // The address itself may hold a password: only what stands before it is repeated.
        let scheme: String = text.chars().take_while(char::is_ascii_alphanumeric).take(16).collect();
        Err(format!("`{scheme}` is not a store this version knows"))
    }
}

/// Replaces a password in an address.
fn mask_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            if url.set_password(Some("[secret]")).is_err() {
                return "[secret]".to_owned();
            }
            url.to_string()
        }
        Ok(url) if url.query().is_some_and(|query| query.contains("password")) => "[secret]".to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_stores() {
        let base = Path::new("/data");
        for (text, path) in [
            ("sqlite:octroi.db", Some("/data/octroi.db")),
            ("sqlite://octroi.db", Some("/data/octroi.db")),
            ("sqlite:///var/octroi.db", Some("/var/octroi.db")),
            ("sqlite:/var/octroi.db", Some("/var/octroi.db")),
            ("sqlite:", None),
            ("mysql://user:pw@x/y", None),
        ] {
            match (StoreUrl::read(text, base), path) {
                (Ok(StoreUrl::Sqlite(found)), Some(path)) => assert_eq!(found, Path::new(path), "{text}"),
                (Err(message), None) => assert!(!message.contains("pw"), "{message}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(StoreUrl::read("postgresql://x/y", base), Ok(StoreUrl::Postgres(_))));
    }

    #[test]
    fn passwords_are_masked() {
        assert!(!mask_password("postgres://octroi:hunter2@db/octroi").contains("hunter2"));
        assert!(!mask_password("postgres://db/octroi?password=hunter2").contains("hunter2"));
        assert_eq!(mask_password("sqlite:octroi.db"), "sqlite:octroi.db");
    }
}
