//! `[[auth.issuers]]`: whose JWTs are believed, and how far.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::check::{Check, Zero};
use crate::model::token::TokenAlgorithm;

/// An issuer of tokens that is believed.
#[derive(Clone, Debug)]
pub struct TokenIssuerConfig {
    /// Its name: `iss`, compared byte by byte.
    pub issuer: String,
    /// Who we are to it: a token's `aud` contains one of these.
    pub audiences: Vec<String>,
    /// What its keys may sign with.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Where its keys are.
    pub keys: KeyLocation,
    /// The claim that names the client, by id or name.
    pub client_claim: String,
    /// The claim that holds the scopes.
    pub scopes_claim: String,
    /// How far its clock may be from ours.
    pub leeway: Duration,
    /// The longest life a token may have.
    pub max_lifetime: Duration,
    /// Which `typ` a token may have.
    pub types: TokenTypes,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeyLocation {
    /// Fetched.
    Url(KeyUrl),
    /// Read.
    File(PathBuf),
    /// Ours: they are here already.
    Own,
}

/// A key set that is fetched.
#[derive(Clone, Debug)]
pub struct KeyUrl {
    /// `https`, unless the file says otherwise.
    pub url: Url,
    /// The certificate authorities its server may have; none: the web's.
    pub ca_file: Option<PathBuf>,
    /// Whether it may lie in a private network, or on this machine.
    pub allow_private_addresses: bool,
}

/// Which `typ` a token may have: media types without `application/`, compared without case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTypes {
    /// Lower case.
    pub named: Vec<String>,
    /// Whether it may have none.
    pub absent: bool,
}

impl TokenTypes {
    /// Whether a token's `typ` is one of these.
    #[must_use]
    pub fn contain(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else { return self.absent };
        self.named.contains(&short_type(typ))
    }
}

/// A media type as it is compared (RFC 7515 §4.1.9).
fn short_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map(ToOwned::to_owned).unwrap_or(typ)
}

/// `[[auth.issuers]]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTokenIssuer {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) algorithms: Vec<String>,
    pub(super) jwks_url: String,
    pub(super) jwks_file: String,
    pub(super) jwks_ca_file: String,
    pub(super) client_claim: String,
    pub(super) scopes_claim: String,
    pub(super) leeway: String,
    pub(super) max_lifetime: String,
    pub(super) types: Vec<String>,
    pub(super) allow_http: bool,
    pub(super) allow_private_addresses: bool,
}

impl Default for RawTokenIssuer {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            algorithms: Vec::new(),
            jwks_url: String::new(),
            jwks_file: String::new(),
            jwks_ca_file: String::new(),
            // What RFC 9068 calls it.
            client_claim: "client_id".to_owned(),
            scopes_claim: "scope".to_owned(),
            leeway: "30s".to_owned(),
            // Nobody renews an access token less than daily; a longer one is a password.
            max_lifetime: "24h".to_owned(),
            types: ["", "JWT", "at+jwt"].map(ToOwned::to_owned).to_vec(),
            allow_http: false,
            allow_private_addresses: false,
        }
    }
}

impl RawTokenIssuer {
    pub(super) fn resolve(&self, check: &Check<'_>) -> TokenIssuerConfig {
        self.check_names(check);
        let leeway = check.duration("leeway", &self.leeway, Zero::Allowed);
        if leeway > LEEWAY_MAX {
            check.refuse("leeway", "a clock that is further off is broken", "write at most \"30s\"");
        }
        TokenIssuerConfig {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            algorithms: self.resolve_algorithms(check),
            keys: self.resolve_location(check),
            client_claim: self.client_claim.clone(),
            scopes_claim: self.scopes_claim.clone(),
            leeway,
            max_lifetime: check.duration("max_lifetime", &self.max_lifetime, Zero::Refused),
            types: self.resolve_types(check),
        }
    }

    fn check_names(&self, check: &Check<'_>) {
        if !check.has_problem("issuer") {
            check.name("issuer", &self.issuer);
        }
        for (key, claim) in [("client_claim", &self.client_claim), ("scopes_claim", &self.scopes_claim)] {
            check.name(key, claim);
            if DECIDED.contains(&claim.as_str()) {
                let message = format!("`{claim}` has a meaning of its own in every token");
                check.refuse(key, message, "name the claim in which the issuer says it, like \"azp\" or \"scope\"");
            }
        }
        if self.audiences.is_empty() && !check.has_problem("audiences") {
            let message = "a token for anyone would be a token for us";
            check.refuse("audiences", message, "write what the issuer puts into `aud` for this gateway");
        }
        for (index, audience) in self.audiences.iter().enumerate() {
            check.name(&format!("audiences[{index}]"), audience);
        }
    }

    fn resolve_algorithms(&self, check: &Check<'_>) -> Vec<TokenAlgorithm> {
        let known = || TokenAlgorithm::PUBLIC.map(TokenAlgorithm::as_str).join(", ");
        if self.algorithms.is_empty() && !check.has_problem("algorithms") {
            let message = "the algorithm must not be the token's choice";
            check.refuse("algorithms", message, format!("write those its keys sign with, of {}", known()));
        }
        let mut algorithms = Vec::new();
        for (index, name) in self.algorithms.iter().enumerate() {
            let key = format!("algorithms[{index}]");
            match TokenAlgorithm::parse(name) {
                Some(TokenAlgorithm::HS256) => {
                    let message = "who can check such a signature can make one: a shared secret is not an issuer's key";
                    check.refuse(&key, message, format!("write one of {}", known()));
                }
                Some(algorithm) if algorithms.contains(&algorithm) => {
                    check.refuse(&key, format!("{name} is named twice"), "name each algorithm once");
                }
                Some(algorithm) => algorithms.push(algorithm),
                None => check.refuse(&key, format!("`{name}` is not known here"), format!("write one of {}", known())),
            }
        }
        algorithms
    }

    fn resolve_location(&self, check: &Check<'_>) -> KeyLocation {
        match (self.jwks_url.is_empty(), self.jwks_file.is_empty()) {
            (true, true) if !check.has_problem("jwks_url") && !check.has_problem("jwks_file") => {
                check.refuse("jwks_url", "the issuer's keys are nowhere", "write `jwks_url` or `jwks_file`");
            }
            (false, false) => check.refuse("jwks_file", "`jwks_url` names the keys already", "remove one of them"),
            _ => {}
        }
        if !self.jwks_file.is_empty() {
            let path = check.place(&self.jwks_file);
            if !path.is_file() && !check.has_problem("jwks_file") {
                check.refuse("jwks_file", format!("there is no file {}", path.display()), "put the key set there");
            }
            return KeyLocation::File(path);
        }
        KeyLocation::Url(self.resolve_url(check))
    }

    fn resolve_url(&self, check: &Check<'_>) -> KeyUrl {
        let ca_file = (!self.jwks_ca_file.is_empty()).then(|| check.place(&self.jwks_ca_file));
        if let Some(path) = ca_file.as_ref().filter(|path| !path.is_file()) {
            check.refuse("jwks_ca_file", format!("there is no file {}", path.display()), "put the PEM text there");
        }
        let url = Url::parse(&self.jwks_url).ok().filter(|url| url.host().is_some());
        let Some(url) = url else {
            if !self.jwks_url.is_empty() {
                check.refuse("jwks_url", "this is not a URL", "write it like \"https://id.example.com/jwks.json\"");
            }
            return KeyUrl { url: stand_in(), ca_file, allow_private_addresses: false };
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            let message = "a key set is public: its address has no user and no fragment";
            check.refuse("jwks_url", message, "leave them out");
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => {
                let message = "whoever is in between could put in keys of his own";
                check.refuse("jwks_url", message, "write https://, or `allow_http = true` where nobody is in between");
            }
            scheme => check.refuse("jwks_url", format!("`{scheme}` is not fetched"), "write https://"),
        }
        self.check_address(check, &url);
        KeyUrl { url, ca_file, allow_private_addresses: self.allow_private_addresses }
    }

    /// Names are resolved, and judged, at each fetch; an address that is written is judged there too,
    /// but a start should not succeed with what can never work.
    fn check_address(&self, check: &Check<'_>, url: &Url) {
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
            Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unique_local(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if local && !self.allow_private_addresses {
            let remedy = "name a public host, or write `allow_private_addresses = true`";
            check.refuse("jwks_url", "it lies in a private network", remedy);
        }
    }

    fn resolve_types(&self, check: &Check<'_>) -> TokenTypes {
        if self.types.is_empty() && !check.has_problem("types") {
            check.refuse("types", "no token could pass", "write those it may have, \"\" for none at all");
        }
        let named = self.types.iter().filter(|typ| !typ.is_empty()).map(|typ| short_type(typ)).collect();
        TokenTypes { named, absent: self.types.iter().any(String::is_empty) }
    }
}

/// Checks issuers against each other: the first of one name would hide the others.
pub(super) fn resolve_all(raw: &[RawTokenIssuer], check: &Check<'_>) -> Vec<TokenIssuerConfig> {
    if raw.len() > ISSUERS_MAX {
        check.refuse("issuers", "there are too many issuers", format!("write at most {ISSUERS_MAX}"));
    }
    let mut issuers: Vec<TokenIssuerConfig> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let check = check.below(&format!("issuers[{index}]"));
        let issuer = raw.resolve(&check);
        if issuers.iter().any(|other| other.issuer == issuer.issuer) && !check.has_problem("issuer") {
            check.refuse("issuer", "there are two issuers of this name", "name each once, with all its audiences");
        }
        issuers.push(issuer);
    }
    issuers
}

fn stand_in() -> Url {
    Url::parse("https://localhost/").expect("a URL")
}

/// A leeway is for clocks, not for tokens.
const LEEWAY_MAX: Duration = Duration::from_secs(30);

/// Each has a key set in memory and a task that keeps it fresh.
const ISSUERS_MAX: usize = 64;

/// Claims that can name neither a client nor scopes.
const DECIDED: &[&str] = &["iss", "aud", "exp", "nbf", "iat", "jti"];
