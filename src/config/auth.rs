//! `[auth]`

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};
use super::limits::{burst_of, rate_of};
use super::problem::Problem;
use super::secrets::{GENERATE, SecretSource, Secrets};
use super::token_issuer::{self, RawTokenIssuer, TokenIssuerConfig};
use crate::model::rate::Rate;
use crate::model::secret::SecretBytes;

/// How callers are recognised.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The prefix of new keys.
    pub prefix: String,
    /// Headers that carry a key, besides `Authorization: Bearer`.
    pub key_headers: Vec<HeaderName>,
    /// A query parameter that carries a credential; none: the query is never looked at.
    pub query_param: Option<String>,
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
    /// Whose tokens are believed.
    pub issuers: Vec<TokenIssuerConfig>,
}

impl AuthConfig {
    /// The pepper, for commands that hash keys.
    ///
    /// # Errors
    /// None was given: what is missing and how to make one.
    pub fn require_pepper(&self) -> Result<&SecretBytes, Problem> {
        self.pepper.as_ref().ok_or_else(|| {
            Problem::new(
                "auth.pepper_file",
                "no pepper was given: keys cannot be hashed without one",
                format!(
                    "make one with `{GENERATE}`, keep it as long as the keys, and give it in API_KEY_PEPPER, \
                     API_KEY_PEPPER_FILE or the file `auth.pepper_file` names"
                ),
            )
        })
    }
}

/// `[auth.failures]`
#[derive(Clone, Copy, Debug)]
pub struct FailureBudget {
    /// How fast it comes back.
    pub rate: Rate,
    /// How much there is.
    pub burst: NonZeroU32,
}

/// `[auth]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) prefix: String,
    pub(super) key_headers: Vec<String>,
    pub(super) query_param: String,
    pub(super) pepper_file: String,
    pub(super) allow_short_pepper: bool,
    pub(super) cache_ttl: String,
    pub(super) max_stale: String,
    pub(super) failures: RawFailures,
    pub(super) issuers: Vec<RawTokenIssuer>,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) pepper: Option<String>,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) pepper_previous: Option<String>,
}

/// `[auth.failures]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFailures {
    pub(super) rate: String,
    pub(super) burst: i64,
}

impl Default for RawAuth {
    fn default() -> Self {
        Self {
            prefix: "octroi".to_owned(),
            key_headers: vec!["x-api-key".to_owned()],
            // Addresses end in logs, histories and referrers.
            query_param: String::new(),
            pepper_file: String::new(),
            allow_short_pepper: false,
            cache_ttl: "30s".to_owned(),
            // The length of an ordinary fail-over, with room.
            max_stale: "10m".to_owned(),
            failures: RawFailures::default(),
            issuers: Vec::new(),
            pepper: None,
            pepper_previous: None,
        }
    }
}

impl Default for RawFailures {
    fn default() -> Self {
        // A misconfigured service may fail for a while; a guesser gets nowhere against 190 bits.
        Self { rate: "10/s".to_owned(), burst: 100 }
    }
}

impl RawAuth {
    fn resolve_query_param(&self, check: &Check<'_>) -> Option<String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.query_param.len() > 64 || !self.query_param.bytes().all(legal) {
            let remedy = "write letters, digits, `-`, `_` and `.`, at most 64";
            check.refuse("query_param", format!("`{}` is no name of a parameter", self.query_param), remedy);
        }
        (!self.query_param.is_empty()).then(|| self.query_param.clone())
    }

    pub(super) fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> AuthConfig {
        self.check_prefix(check);
        let (pepper, pepper_previous) = self.resolve_peppers(secrets);
        let cache_ttl = check.duration("cache_ttl", &self.cache_ttl, Zero::Refused);
        let max_stale = check.duration("max_stale", &self.max_stale, Zero::Refused);
        if max_stale < cache_ttl && !check.has_problem("cache_ttl") {
            check.refuse(
                "max_stale",
                "an identity would be dropped before it is refreshed",
                "write at least `auth.cache_ttl`",
            );
        }
        let failures = check.below("failures");
        AuthConfig {
            query_param: self.resolve_query_param(check),
            prefix: self.prefix.clone(),
            key_headers: self.resolve_key_headers(check),
            pepper,
            pepper_previous,
            cache_ttl,
            max_stale,
            failures: FailureBudget {
                rate: rate_of(&failures, &self.failures.rate),
                burst: burst_of(&failures, self.failures.burst).unwrap_or(NonZeroU32::MIN),
            },
            issuers: token_issuer::resolve_all(&self.issuers, check),
        }
    }

    fn check_prefix(&self, check: &Check<'_>) {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=8).contains(&self.prefix.len()) || !self.prefix.bytes().all(legal) {
            let remedy = "write 1 to 8 of the letters a-z and digits, like \"octroi\"";
            check.refuse("prefix", format!("`{}` cannot stand before keys", self.prefix), remedy);
        }
    }

    fn resolve_peppers(&self, secrets: &Secrets<'_>) -> (Option<SecretBytes>, Option<SecretBytes>) {
        let allow_short = self.allow_short_pepper;
        let source = |variable, setting, file| SecretSource { variable, setting, file, allow_short };
        (
            secrets.find(&source("API_KEY_PEPPER", "auth.pepper_file", &self.pepper_file)),
            secrets.find(&source("API_KEY_PEPPER_PREVIOUS", "", "")),
        )
    }

    fn resolve_key_headers(&self, check: &Check<'_>) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for (index, text) in self.key_headers.iter().enumerate() {
            let key = format!("key_headers[{index}]");
            match HeaderName::from_bytes(text.as_bytes()) {
                Err(_) => check.refuse(&key, format!("`{text}` is no header name"), "write one like \"x-api-key\""),
                Ok(name) if is_taken(&name) => {
                    let message = format!("`{name}` has a meaning of its own");
                    check.refuse(&key, message, "name a header that only carries keys, like \"x-api-key\"");
                }
                Ok(name) if headers.contains(&name) => {
                    check.refuse(&key, format!("`{name}` is named twice"), "name each header once");
                }
                Ok(name) => headers.push(name),
            }
        }
        headers
    }
}

/// Headers that HTTP, a proxy or the gateway itself already reads.
fn is_taken(name: &HeaderName) -> bool {
    const TAKEN: &[&str] = &[
        "authorization",
        "proxy-authorization",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "cookie",
        "forwarded",
        "via",
        "x-request-id",
        "x-real-ip",
    ];
    let ours = ["x-octroi-", "x-forwarded-"].iter().any(|prefix| name.as_str().starts_with(prefix));
    ours || TAKEN.contains(&name.as_str())
}
