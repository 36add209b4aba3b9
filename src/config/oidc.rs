//! `[admin.oidc]`: operators who sign in at an identity provider (OpenID Connect Core 1.0).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::check::Check;
use super::secrets::{SecretSource, Secrets};
use super::token_issuer::{KeyLocation, KeyUrl, TokenIssuerConfig, TokenTypes};
use crate::model::operator::Role;
use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;

/// Where operators sign in, and what they become.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// Whose identity tokens are believed, and how far: `client_claim` is the claim that names an
    /// operator, `scopes_claim` the one that holds its groups.
    pub rules: TokenIssuerConfig,
    /// Who we are to it.
    pub client_id: String,
    /// What proves that; none: a public client, by PKCE alone.
    pub client_secret: Option<SecretBytes>,
    /// Where browsers are sent.
    pub authorization_url: Url,
    /// Where codes are redeemed.
    pub token_url: Url,
    /// Where browsers come back: our `/login/callback`, as they see it.
    pub redirect_url: Url,
    /// What is asked for.
    pub scopes: String,
    /// The role of each group that has one.
    pub roles: BTreeMap<String, Role>,
}

/// `[admin.oidc]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOidc {
    issuer: String,
    client_id: String,
    client_secret_file: String,
    authorization_url: String,
    token_url: String,
    jwks_url: String,
    redirect_url: String,
    ca_file: String,
    allow_private_addresses: bool,
    scopes: String,
    name_claim: String,
    roles_claim: String,
    roles: BTreeMap<String, String>,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) client_secret: Option<String>,
}

impl Default for RawOidc {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            client_secret_file: String::new(),
            authorization_url: String::new(),
            token_url: String::new(),
            jwks_url: String::new(),
            redirect_url: String::new(),
            ca_file: String::new(),
            allow_private_addresses: false,
            scopes: "openid email".to_owned(),
            name_claim: "email".to_owned(),
            roles_claim: "groups".to_owned(),
            roles: BTreeMap::new(),
            client_secret: None,
        }
    }
}

/// The variable that holds the secret, besides the file.
const SECRET: &str = "OCTROI_OIDC_CLIENT_SECRET";

impl RawOidc {
    /// None: nobody comes from elsewhere.
    pub(super) fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>, public: Option<&Url>) -> Option<OidcConfig> {
        if self.issuer.is_empty() {
            return None;
        }
        let client_secret = secrets.find(&SecretSource {
            variable: SECRET,
            setting: &check.path_of("client_secret_file"),
            file: &self.client_secret_file,
            allow_short: true,
        });
        if self.client_id.is_empty() {
            check.refuse("client_id", "nobody says who we are to the provider", "write the id it gave us");
        }
        if self.roles.is_empty() {
            let remedy = "map groups to roles: roles = { \"gateway-admins\" = \"owner\" }";
            check.refuse("roles", "nobody could become anything", remedy);
        }
        let redirect_url = self.redirect_url(check, public);
        let urls = [
            ("authorization_url", &self.authorization_url),
            ("token_url", &self.token_url),
            ("jwks_url", &self.jwks_url),
        ];
        let [authorization_url, token_url, jwks_url] =
            urls.map(|(key, text)| url(check, key, text, self.allow_private_addresses));
        let roles = self.roles.iter().filter_map(|(group, word)| Some((group.clone(), role(check, group, word)?)));
        let roles = roles.collect();
        let ca_file = (!self.ca_file.is_empty()).then(|| check.place(&self.ca_file));
        Some(OidcConfig {
            rules: self.rules(jwks_url?, ca_file),
            client_id: self.client_id.clone(),
            client_secret,
            authorization_url: authorization_url?,
            token_url: token_url?,
            redirect_url: redirect_url?,
            scopes: self.scopes.clone(),
            roles,
        })
    }

    /// Where browsers come back: under the address that they know us by.
    fn redirect_url(&self, check: &Check<'_>, public: Option<&Url>) -> Option<Url> {
        if let (true, Some(public)) = (self.redirect_url.is_empty(), public) {
            return public.join("login/callback").ok();
        }
        let named = url(check, "redirect_url", &self.redirect_url, self.allow_private_addresses)?;
        if public.is_some_and(|public| public.origin() != named.origin()) {
            let remedy = "leave it out, or write the address under `admin.public_url`";
            check.refuse("redirect_url", "browsers would come back where nobody knows of their way", remedy);
            return None;
        }
        Some(named)
    }

    fn rules(&self, jwks_url: Url, ca_file: Option<PathBuf>) -> TokenIssuerConfig {
        TokenIssuerConfig {
            issuer: self.issuer.clone(),
            audiences: vec![self.client_id.clone()],
            algorithms: vec![TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA],
            keys: KeyLocation::Url(KeyUrl {
                url: jwks_url,
                ca_file,
                allow_private_addresses: self.allow_private_addresses,
            }),
            client_claim: self.name_claim.clone(),
            scopes_claim: self.roles_claim.clone(),
            leeway: Duration::from_secs(30),
            // An identity token is used at once; providers make them last an hour or a day.
            max_lifetime: Duration::from_hours(24),
            types: TokenTypes { named: vec!["jwt".to_owned()], absent: true },
        }
    }
}

/// An address of the provider, or ours. Plain HTTP only where private addresses are allowed: for tries on
/// one machine.
fn url(check: &Check<'_>, key: &str, text: &str, allow_http: bool) -> Option<Url> {
    let read = Url::parse(text).ok().filter(Url::has_host);
    let read = read.filter(|url| url.scheme() == "https" || (allow_http && url.scheme() == "http"));
    if read.as_ref().is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
        check.refuse(key, "an address is no place for a secret: settings are shown", "write it without a user");
        return None;
    }
    if read.is_none() {
        check.refuse(key, format!("`{text}` is no https address"), "write it whole, like https://id.example.com/…");
    }
    read
}

/// Roles for all clients only: whom the others are for is no group's to say.
fn role(check: &Check<'_>, group: &str, word: &str) -> Option<Role> {
    let role = word.parse::<Role>().ok().filter(|role| !role.is_confined());
    if role.is_none() {
        check.refuse("roles", format!("`{group}`: `{word}` is no role here"), "write owner, operator or auditor");
    }
    role
}
