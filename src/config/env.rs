//! The environment, read once and then a parameter like any other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use toml::{Table, Value};

use super::reader::Findings;
use crate::model::secret::SecretBytes;

/// The prefix of variables that overrule settings.
const OVERRULE: &str = "OCTROI__";

/// The least a secret must have.
pub(super) const LEAST_SECRET_BYTES: usize = 32;

/// Variables by name. Its `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own. Variables that are not UTF-8 are left out.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    pub fn of_process() -> Self {
        let readable =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(readable.collect())
    }

    /// One made of these.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A variable; one that is set to nothing counts as absent.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Lays `OCTROI__SECTION__KEY` variables over a table: TOML values, else text.
    pub(super) fn overrule(&self, table: &mut Table) {
        for (name, text) in self.0.iter().filter(|(name, _)| name.starts_with(OVERRULE)) {
            let path: Vec<String> = name[OVERRULE.len()..].split("__").map(str::to_lowercase).collect();
            put(table, &path, value_of(text));
        }
    }

    /// The value of `NAME`, or of the file that `NAME_FILE` names; both at once are a problem.
    pub(super) fn or_file(&self, name: &str, findings: &mut Findings) -> Option<String> {
        let file_name = format!("{name}_FILE");
        match (self.find(name), self.find(&file_name)) {
            (None, None) => None,
            (Some(value), None) => Some(value.to_owned()),
            (None, Some(path)) => read_secret_file(Path::new(path), &file_name, findings),
            (Some(_), Some(_)) => {
                findings.problem(name, format!("{name} and {file_name} are both set"), "set one of them");
                None
            }
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

/// The file's text without one trailing newline.
pub(super) fn read_secret_file(path: &Path, setting: &str, findings: &mut Findings) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(mut text) => {
            warn_if_readable_by_others(path);
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Some(text)
        }
        Err(error) => {
            findings.problem(setting, format!("cannot read {}: {error}", path.display()), "name a readable file");
            None
        }
    }
}

fn warn_if_readable_by_others(path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
        tracing::warn!(file = %path.display(), "a file with a secret can be read by others; chmod 600 it");
    }
}

/// A secret's bytes: the text as given, or what `hex:` and `base64:` decode to.
pub(super) fn secret_bytes(text: &str, setting: &str, least: usize, findings: &mut Findings) -> Option<SecretBytes> {
    let decoded = if let Some(hex) = text.strip_prefix("hex:") {
        decode_hex(hex)
    } else if let Some(base64) = text.strip_prefix("base64:") {
        base64::engine::general_purpose::STANDARD.decode(base64).ok()
    } else {
        Some(text.as_bytes().to_vec())
    };
    let Some(bytes) = decoded else {
        findings.problem(setting, "does not decode", "after `hex:` or `base64:` write that, or leave the prefix away");
        return None;
    };
    if bytes.len() < least {
        let message = format!("has {} bytes, fewer than {least}", bytes.len());
        findings.problem(setting, message, "make one with: openssl rand -hex 32");
        return None;
    }
    Some(SecretBytes::new(bytes))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

fn put(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [section, rest @ ..] => {
            let entry = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = entry {
                put(section, rest, value);
            }
        }
    }
}

fn value_of(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Where relative paths start: CONTRACT's order.
pub(super) fn data_dir(setting: &str, environment: &Environment, file: Option<&Path>) -> PathBuf {
    let base = file.and_then(Path::parent).map(Path::to_path_buf);
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    if !setting.is_empty() {
        return absolute(base.unwrap_or_default().join(setting));
    }
    let named = environment.find("OCTROI_DATA").or_else(|| environment.find("STATE_DIRECTORY"));
    if let Some(named) = named {
        return absolute(PathBuf::from(named));
    }
    if let Some(base) = base {
        return absolute(if base.as_os_str().is_empty() { PathBuf::from(".") } else { base });
    }
    let home = environment.find("XDG_DATA_HOME").map(PathBuf::from);
    let home = home.or_else(|| environment.find("HOME").map(|home| Path::new(home).join(".local/share")));
    absolute(home.unwrap_or_default().join("octroi"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_toml_values_or_text() {
        let mut table: Table = "[server]\nworkers = 2".parse().unwrap();
        Environment::of(&[
            ("OCTROI__SERVER__WORKERS", "4"),
            ("OCTROI__SERVER__LISTEN", "[\"127.0.0.1:1\"]"),
            ("OCTROI__STORE__URL", "sqlite:x.db"),
            ("OCTROI__LIMITS__DEFAULT__RATE", "5/s"),
        ])
        .overrule(&mut table);
        assert_eq!(table["server"]["workers"].as_integer(), Some(4));
        assert!(table["server"]["listen"].is_array());
        assert_eq!(table["store"]["url"].as_str(), Some("sqlite:x.db"));
        assert_eq!(table["limits"]["default"]["rate"].as_str(), Some("5/s"));
    }

    #[test]
    fn secrets_are_taken_as_given_or_decoded_and_have_a_least_length() {
        let long = "x".repeat(32);
        for (text, bytes) in [
            (long.clone(), Some(32)),
            (format!("hex:{}", "0a".repeat(32)), Some(32)),
            (format!("hex:{}", "0a".repeat(31)), None),
            ("hex:zz".to_owned(), None),
            (format!("base64:{}=", "A".repeat(43)), Some(32)),
            ("short".to_owned(), None),
        ] {
            let mut findings = Findings::default();
            let secret = secret_bytes(&text, "API_KEY_PEPPER", LEAST_SECRET_BYTES, &mut findings);
            assert_eq!(secret.map(|secret| secret.len()), bytes, "{text}");
            assert_eq!(findings.problems.is_empty(), bytes.is_some());
            assert!(findings.problems.iter().all(|problem| !problem.to_string().contains(&text)));
        }
    }

    #[test]
    fn a_secret_and_its_file_at_once_are_a_problem() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from the file\n").unwrap();
        let path = file.path().to_str().unwrap();
        let mut findings = Findings::default();
        let environment = Environment::of(&[("JWT_SECRET_FILE", path)]);
        assert_eq!(environment.or_file("JWT_SECRET", &mut findings).as_deref(), Some("from the file"));
        assert!(findings.problems.is_empty());
        let environment = Environment::of(&[("JWT_SECRET_FILE", path), ("JWT_SECRET", "x")]);
        assert_eq!(environment.or_file("JWT_SECRET", &mut findings), None);
        assert_eq!(findings.problems.len(), 1);
    }
}
