//! `[auth]`

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use http::HeaderName;

use crate::model::rate::Rate;
use crate::model::secret::SecretBytes;

use toml::Table;

use super::env::{Environment, LEAST_SECRET_BYTES, read_secret_file, secret_bytes};
use super::problem::Problem;
use super::reader::{Findings, Section};

/// How callers are recognised.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The prefix of new keys.
    pub prefix: String,
    /// Headers that carry a key, besides `Authorization: Bearer`.
    pub key_headers: Vec<HeaderName>,
    /// The pepper; none was given where only commands without keys run.
    pub pepper: Option<SecretBytes>,
    /// The other live pepper.
    pub pepper_previous: Option<SecretBytes>,
    /// The age at which a cached identity is refreshed in the background.
    pub cache_ttl: Duration,
    /// The age up to which it serves while the store is away.
    pub max_stale: Duration,
    /// How many failures an address may have.
    pub failures: FailureBudget,
}

/// `[auth.failures]`
#[derive(Clone, Copy, Debug)]
pub struct FailureBudget {
    /// How fast it comes back.
    pub rate: Rate,
    /// How much there is.
    pub burst: NonZeroU32,
}

/// Where a secret comes from, for messages.
const PEPPER_REMEDY: &str = "set API_KEY_PEPPER (or API_KEY_PEPPER_FILE, or auth.pepper_file); make one with: openssl rand -hex 32. \
     Keep it: keys hashed with it cannot be checked without it";

impl AuthConfig {
    /// The pepper, for everything that hashes a key.
    pub fn require_pepper(&self) -> Result<&SecretBytes, Problem> {
        self.pepper.as_ref().ok_or_else(|| Problem {
            path: "API_KEY_PEPPER".to_owned(),
            message: "no pepper is set, and no key can be checked without one".to_owned(),
            remedy: PEPPER_REMEDY.to_owned(),
        })
    }

    /// Reads `[auth]` and the peppers, which the environment overrules.
    pub(super) fn read(
        root: &mut Table,
        environment: &Environment,
        data_dir: &Path,
        findings: &mut Findings,
    ) -> (Self, Table) {
        let mut section = Section::take(root, "auth", findings);
        section.not_yet("issuers", "verification of JWTs");
        section.not_yet("query_param", "credentials in the query");
        let allow_short = section.flag("allow_short_pepper", false);
        let least = if allow_short { 1 } else { LEAST_SECRET_BYTES };
        let file = section.text("pepper_file", "");
        let prefix = section.text("prefix", "octroi");
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if prefix.is_empty() || prefix.len() > 8 || !prefix.bytes().all(legal) {
            section.problem("prefix", format!("{prefix:?} is not a prefix"), "write 1-8 of [a-z0-9]");
        }
        let config = Self {
            prefix,
            key_headers: section.list("key_headers", &["x-api-key"], read_header),
            pepper: pepper("API_KEY_PEPPER", &file, least, environment, data_dir, section.findings),
            pepper_previous: pepper("API_KEY_PEPPER_PREVIOUS", "", least, environment, data_dir, section.findings),
            cache_ttl: section.duration("cache_ttl", "30s", Duration::from_secs(1)),
            max_stale: section.duration("max_stale", "10m", Duration::from_secs(1)),
            failures: read_failures(&mut section),
        };
        (config, section.close())
    }
}

fn pepper(
    name: &str,
    file: &str,
    least: usize,
    environment: &Environment,
    data_dir: &Path,
    findings: &mut Findings,
) -> Option<SecretBytes> {
    // Environment beats file.
    if let Some(text) = environment.or_file(name, findings) {
        return secret_bytes(&text, name, least, findings);
    }
    if file.is_empty() {
        return None;
    }
    let text = read_secret_file(&data_dir.join(file), "auth.pepper_file", findings)?;
    secret_bytes(&text, "auth.pepper_file", least, findings)
}

pub(super) fn read_header(text: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(text).map_err(|_| format!("{text:?} is not a header's name"))
}

fn read_failures(parent: &mut Section<'_>) -> FailureBudget {
    let mut section = parent.section("failures");
    let config = FailureBudget {
        rate: section.parsed("rate", "10/s"),
        burst: NonZeroU32::new(section.number("burst", 100, 1, 1_000_000)).unwrap_or(NonZeroU32::MIN),
    };
    let effective = section.close();
    parent.include("failures", effective);
    config
}
