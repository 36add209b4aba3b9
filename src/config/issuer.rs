//! `[issuer]`: the tokens that the gateway issues.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::check::{Check, Zero};
use super::secrets::{SecretSource, Secrets};
use super::token_issuer::{KeyLocation, TokenIssuerConfig, TokenTypes};
use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;

/// What issued tokens are made with. Without a secret and without keys, none are.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// `JWT_SECRET`: signs tokens where no key is configured, and makes refresh tokens.
    pub secret: Option<SecretBytes>,
    /// Where callers find the gateway, without a slash at the end; none: not said.
    pub url: Option<String>,
    /// Whom tokens are for unless something else is asked for, and which of them the gateway
    /// itself accepts. Never empty.
    pub audiences: Vec<String>,
    /// Whom else a token may be asked for; none: for anybody.
    pub allowed_audiences: Option<Vec<String>>,
    /// How long a verification token holds.
    pub token_lifetime: Duration,
    /// How long a refresh token waits to be used.
    pub refresh_lifetime: Duration,
    /// How long after its use a refresh token still gives the same successor.
    pub refresh_grace: Duration,
    /// How long rows of ended tokens stay.
    pub retention: Duration,
    /// The private key that signs; none: the secret does.
    pub signing_key: Option<SigningKeyConfig>,
    /// Keys that are published beside it: the next one, and retired ones.
    pub published_keys: Vec<SigningKeyConfig>,
}

/// A private key, of which the public half is published.
#[derive(Clone, Debug)]
pub struct SigningKeyConfig {
    /// Which setting names it.
    pub setting: String,
    /// The PEM text.
    pub pem: SecretBytes,
}

impl IssuerConfig {
    /// `iss`: the URL, or a name where there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.url.as_deref().unwrap_or(UNNAMED)
    }

    /// How the gateway believes its own tokens.
    #[must_use]
    pub fn rules(&self) -> TokenIssuerConfig {
        TokenIssuerConfig {
            issuer: self.name().to_owned(),
            audiences: self.audiences.clone(),
            algorithms: vec![TokenAlgorithm::HS256, TokenAlgorithm::EdDSA, TokenAlgorithm::ES256],
            keys: KeyLocation::Own,
            client_claim: "client_id".to_owned(),
            scopes_claim: "scope".to_owned(),
            // Between the clocks of replicas. A token's end is in its row, which has none.
            leeway: CLOCKS_APART,
            // Not what is configured now: tokens of before a change hold on.
            max_lifetime: HOUR,
            types: TokenTypes { named: vec![TOKEN_TYPE.to_owned()], absent: false },
        }
    }
}

/// `typ` of verification tokens (RFC 9068 §2.1): nothing else we sign passes as one.
pub const TOKEN_TYPE: &str = "at+jwt";

/// `iss` of a gateway that was not told its URL.
const UNNAMED: &str = "octroi";

const CLOCKS_APART: Duration = Duration::from_secs(30);

/// `[issuer]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawIssuer {
    pub(super) secret_file: String,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    pub(super) url: String,
    pub(super) audiences: Vec<String>,
    pub(super) allowed_audiences: Vec<String>,
    pub(super) token_lifetime: String,
    pub(super) refresh_lifetime: String,
    pub(super) refresh_grace: String,
    pub(super) retention: String,
    pub(super) signing_key_file: String,
    pub(super) next_signing_key_file: String,
    pub(super) retired_signing_key_files: Vec<String>,
}

impl Default for RawIssuer {
    fn default() -> Self {
        Self {
            secret_file: String::new(),
            secret: None,
            url: String::new(),
            audiences: Vec::new(),
            allowed_audiences: Vec::new(),
            // Verified offline, a token outlives its revocation by at most this.
            token_lifetime: "5m".to_owned(),
            refresh_lifetime: "30d".to_owned(),
            // Long enough for a caller that lost the answer to try again.
            refresh_grace: "10s".to_owned(),
            retention: "90d".to_owned(),
            signing_key_file: String::new(),
            next_signing_key_file: String::new(),
            retired_signing_key_files: Vec::new(),
        }
    }
}

impl RawIssuer {
    pub(super) fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> IssuerConfig {
        let bounded = |key: &str, text: &str, zero, longest: Duration, named: &str| {
            let duration = check.duration(key, text, zero);
            if duration > longest {
                check.refuse(key, "it is longer than is safe", format!("write at most \"{named}\""));
            }
            duration
        };
        let url = self.resolve_url(check);
        let key = |setting: String, file: &str| {
            let setting = check.path_of(&setting);
            let pem = (!file.is_empty()).then(|| secrets.read_named(&setting, file))??;
            Some(SigningKeyConfig { setting, pem })
        };
        let secret = secrets.find(&SecretSource {
            variable: "JWT_SECRET",
            setting: "issuer.secret_file",
            file: &self.secret_file,
            allow_short: false,
        });
        let published = self.published(check, secret.is_some());
        let name = url.as_deref().unwrap_or(UNNAMED).to_owned();
        for (list, audiences) in [("audiences", &self.audiences), ("allowed_audiences", &self.allowed_audiences)] {
            for (index, _) in audiences.iter().enumerate().filter(|(_, audience)| !is_audience(audience)) {
                let remedy = "write 1 to 255 visible characters of ASCII";
                check.refuse(&format!("{list}[{index}]"), "this is no audience", remedy);
            }
        }
        IssuerConfig {
            secret,
            url,
            audiences: if self.audiences.is_empty() { vec![name] } else { self.audiences.clone() },
            allowed_audiences: (!self.allowed_audiences.is_empty()).then(|| self.allowed_audiences.clone()),
            token_lifetime: bounded("token_lifetime", &self.token_lifetime, Zero::Refused, HOUR, "1h"),
            refresh_lifetime: bounded("refresh_lifetime", &self.refresh_lifetime, Zero::Refused, 366 * DAY, "366d"),
            refresh_grace: bounded("refresh_grace", &self.refresh_grace, Zero::Allowed, MINUTE, "1m"),
            retention: bounded("retention", &self.retention, Zero::Allowed, 3_660 * DAY, "3660d"),
            signing_key: key("signing_key_file".to_owned(), &self.signing_key_file),
            published_keys: published.into_iter().filter_map(|(setting, file)| key(setting, file)).collect(),
        }
    }

    fn resolve_url(&self, check: &Check<'_>) -> Option<String> {
        if self.url.is_empty() {
            return None;
        }
        let remedy = "write where callers find the gateway, like \"https://api.example.com\"";
        match Url::parse(&self.url) {
            Ok(url)
                if matches!(url.scheme(), "https" | "http")
                    && (url.username(), url.password()) == ("", None)
                    && url.query().is_none()
                    && url.fragment().is_none() =>
            {
                // The text itself: it is compared byte by byte (RFC 8414 §3.3).
                Some(self.url.trim_end_matches('/').to_owned())
            }
            _ => {
                check.refuse("url", "this is not a URL of a gateway", remedy);
                None
            }
        }
    }

    /// Keys beside what signs, by their settings. They stand beside the secret while replicas go from
    /// it to a key, or back.
    fn published<'s>(&'s self, check: &Check<'_>, has_secret: bool) -> Vec<(String, &'s str)> {
        let next = ("next_signing_key_file".to_owned(), self.next_signing_key_file.as_str());
        let retired = self.retired_signing_key_files.iter().enumerate();
        let retired = retired.map(|(index, file)| (format!("retired_signing_key_files[{index}]"), file.as_str()));
        let published: Vec<_> = [next].into_iter().chain(retired).filter(|(_, file)| !file.is_empty()).collect();
        if let Some((setting, _)) = published.first().filter(|_| self.signing_key_file.is_empty() && !has_secret) {
            check.refuse(setting, "no key signs", "name the one that does in `issuer.signing_key_file`");
        }
        published
    }
}

/// Whether a text can be `aud`: it is kept with spaces between.
#[must_use]
pub fn is_audience(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
