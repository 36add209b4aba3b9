//! `[[routes]]`

use std::time::Duration;

use http::{HeaderName, Method, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::auth::AuthConfig;
use super::check::{Check, Zero};
use super::cors::RawCors;
use super::header_rules::RawHeaderRules;
use super::metering::MAX_COST;
use super::observe;
use super::route_path;
use super::server::ServerConfig;
use super::shaping::Shaping;
use super::tls::CallerCertificates;
use crate::model::access::Scopes;

/// The word for the certificate of a caller.
const CERTIFICATE: &str = "certificate";

/// Which requests go where, and who may send them.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting that operators write as true or false")]
pub struct RouteConfig {
    /// Labels and events carry it.
    pub name: String,
    /// Only for this host (lower case, no port); none: any.
    pub host: Option<String>,
    /// A prefix, on segment boundaries; starts with `/`, canonical.
    pub path: String,
    /// Only these; empty: any.
    pub methods: Vec<Method>,
    /// The upstream's name; empty on a delegated route.
    pub upstream: String,
    /// Another proxy forwards: this route is for `/.octroi/check` only.
    pub delegated: bool,
    /// Before then nothing is refused on it; none: it enforces.
    pub observe_until: Option<Timestamp>,
    /// Whether the prefix is removed before forwarding.
    pub strip_prefix: bool,
    /// Which credentials it takes.
    pub auth: RouteAuth,
    /// Where it looks for them.
    pub credentials: Vec<HeaderName>,
    /// Whether the certificate a caller shows is one.
    pub certificate: bool,
    /// What the caller must hold.
    pub scopes: Scopes,
    /// The largest request body; none: the server's limit.
    pub max_body: Option<u64>,
    /// `//` becomes `/` instead of 400.
    pub merge_slashes: bool,
    /// `%2F` and `%5C` pass instead of 400.
    pub encoded_slash: bool,
    /// Until the response's head is there; none: its upstream's.
    pub response_timeout: Option<Duration>,
    /// How long the response's body may pause; none: its upstream's.
    pub idle_timeout: Option<Duration>,
    /// For the whole exchange; none: its upstream's.
    pub request_timeout: Option<Duration>,
    /// Whether callers may go on with WebSocket.
    pub websocket: bool,
    /// Whether the caller's Host goes on to the upstream; else the endpoint's own.
    pub preserve_host: bool,
    /// What a request costs, unless the upstream says otherwise.
    pub cost: u32,
    /// What it changes of what passes.
    pub shaping: Shaping,
}

impl RouteConfig {
    /// Whether it refuses nothing yet, at this time.
    #[must_use]
    pub fn observes(&self, now: impl FnOnce() -> Timestamp) -> bool {
        self.observe_until.is_some_and(|until| now() < until)
    }
}

/// `routes.auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAuth {
    /// A key or a JWT.
    Required,
    /// A key.
    Key,
    /// A JWT.
    Jwt,
    /// Nothing; metered under the nil client.
    None,
}

/// `[[routes]]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting that operators write as true or false")]
pub(super) struct RawRoute {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) methods: Vec<String>,
    pub(super) upstream: String,
    pub(super) delegated: bool,
    pub(super) strip_prefix: bool,
    pub(super) auth: String,
    pub(super) mode: String,
    pub(super) observe_until: String,
    pub(super) credentials: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) max_body: String,
    pub(super) merge_slashes: bool,
    pub(super) encoded_slash: bool,
    pub(super) response_timeout: String,
    pub(super) idle_timeout: String,
    pub(super) request_timeout: String,
    pub(super) websocket: bool,
    pub(super) preserve_host: bool,
    pub(super) cost: i64,
    pub(super) replace_prefix: String,
    pub(super) host_header: String,
    pub(super) override_headers: String,
    pub(super) maintenance: bool,
    pub(super) maintenance_message: String,
    pub(super) maintenance_retry_after: String,
    pub(super) request_headers: RawHeaderRules,
    pub(super) response_headers: RawHeaderRules,
    pub(super) cors: RawCors,
}

impl Default for RawRoute {
    fn default() -> Self {
        Self {
            name: String::new(),
            host: String::new(),
            path: String::new(),
            methods: Vec::new(),
            upstream: String::new(),
            delegated: false,
            strip_prefix: false,
            // Open is what somebody spells out, never what somebody forgot.
            auth: "required".to_owned(),
            mode: "enforce".to_owned(),
            observe_until: String::new(),
            credentials: Vec::new(),
            scopes: Vec::new(),
            max_body: "0".to_owned(),
            merge_slashes: false,
            encoded_slash: false,
            response_timeout: "0s".to_owned(),
            idle_timeout: "0s".to_owned(),
            request_timeout: "0s".to_owned(),
            // What is forwarded needs a credential either way, and the service has to agree.
            websocket: true,
            // Services that build links or serve several hosts need the name the caller used.
            preserve_host: true,
            cost: 1,
            replace_prefix: String::new(),
            host_header: String::new(),
            // Upstreams that obey them would serve another method or path than was authorised.
            override_headers: "drop".to_owned(),
            maintenance: false,
            maintenance_message: String::new(),
            maintenance_retry_after: "5m".to_owned(),
            request_headers: RawHeaderRules::default(),
            response_headers: RawHeaderRules::default(),
            cors: RawCors::default(),
        }
    }
}

/// What the sections before this one came to.
pub(super) struct Surroundings<'c> {
    pub(super) auth: &'c AuthConfig,
    pub(super) server: &'c ServerConfig,
    pub(super) now: Timestamp,
}

impl RawRoute {
    /// The name it goes by: its own, else host and path as written.
    pub(super) fn effective_name(&self) -> String {
        if self.name.is_empty() { format!("{}{}", self.host, self.path) } else { self.name.clone() }
    }

    pub(super) fn resolve(&self, check: &Check<'_>, around: &Surroundings<'_>) -> RouteConfig {
        if !self.name.is_empty() {
            check.name("name", &self.name);
        }
        self.check_path(check);
        if self.delegated {
            self.check_delegated(check, around.server);
        } else if self.upstream.is_empty() && !check.has_problem("upstream") {
            check.refuse("upstream", "the route leads nowhere", "name one of `[[upstreams]]`");
        }
        let auth = self.resolve_auth(check, around.auth);
        let methods = self.resolve_methods(check);
        let credentials = self.resolve_credentials(check, auth, around.auth);
        let certificate = self.resolve_certificate(check, auth, around.server);
        RouteConfig {
            shaping: self.resolve_shaping(check, &methods, &credentials, &around.auth.key_headers),
            name: self.effective_name(),
            host: self.resolve_host(check),
            path: self.path.clone(),
            methods,
            upstream: self.upstream.clone(),
            delegated: self.delegated,
            observe_until: observe::until(check, &self.mode, &self.observe_until, around.now),
            strip_prefix: self.strip_prefix,
            auth,
            credentials,
            certificate,
            scopes: self.resolve_scopes(check, auth),
            max_body: self.resolve_max_body(check, around.server),
            merge_slashes: self.merge_slashes,
            encoded_slash: self.encoded_slash,
            response_timeout: own_timeout(check, "response_timeout", &self.response_timeout),
            idle_timeout: own_timeout(check, "idle_timeout", &self.idle_timeout),
            request_timeout: own_timeout(check, "request_timeout", &self.request_timeout),
            websocket: self.websocket,
            preserve_host: self.preserve_host,
            cost: check.count("cost", self.cost, 0..=MAX_COST),
        }
    }

    fn check_path(&self, check: &Check<'_>) {
        if let Err(defect) = route_path::check(&self.path)
            && !check.has_problem("path")
        {
            check.refuse("path", format!("`{}` {}", self.path, defect.message), defect.remedy);
        }
    }

    /// What says how to forward says nothing where nobody does.
    fn check_delegated(&self, check: &Check<'_>, server: &ServerConfig) {
        if server.trusted_proxies.is_empty() {
            let remedy = "name the proxy's address in `server.trusted_proxies`";
            check.refuse("delegated", "no proxy is trusted: nobody may ask about requests", remedy);
        }
        if !self.upstream.is_empty() {
            let remedy = "remove it, or `delegated`: a route with an upstream can be checked as well";
            check.refuse("upstream", "a delegated route forwards nothing", remedy);
        }
        if self.strip_prefix {
            check.refuse("strip_prefix", "a delegated route forwards nothing", "remove it");
        }
    }

    fn resolve_auth(&self, check: &Check<'_>, config: &AuthConfig) -> RouteAuth {
        let words = [
            ("required", RouteAuth::Required),
            ("key", RouteAuth::Key),
            ("jwt", RouteAuth::Jwt),
            ("none", RouteAuth::None),
        ];
        let auth = check.choice("auth", &self.auth, &words);
        if auth == RouteAuth::Jwt && config.issuers.is_empty() {
            let message = "no issuer of tokens is named: nobody could pass";
            check.refuse("auth", message, "add one under `[[auth.issuers]]`, or write \"required\" or \"key\"");
        }
        auth
    }

    fn resolve_host(&self, check: &Check<'_>) -> Option<String> {
        let host = self.host.to_ascii_lowercase();
        if host.contains('*') {
            check.refuse("host", "patterns of hosts are not in this version", "write a route for each host");
        } else if !host.is_empty() && !is_host(&host) {
            let remedy = "write a name or an address without a port, like \"api.example.com\" or \"[::1]\"";
            check.refuse("host", format!("`{}` is not a host", self.host), remedy);
        }
        (!host.is_empty()).then_some(host)
    }

    fn resolve_methods(&self, check: &Check<'_>) -> Vec<Method> {
        let mut methods = Vec::new();
        for (index, text) in self.methods.iter().enumerate() {
            let key = format!("methods[{index}]");
            match Method::from_bytes(text.as_bytes()) {
                Ok(Method::CONNECT | Method::TRACE) => {
                    check.refuse(&key, format!("{text} is never forwarded"), "remove it");
                }
                Ok(method) if methods.contains(&method) => {
                    check.refuse(&key, format!("{text} is named twice"), "name each method once");
                }
                Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => methods.push(method),
                // Methods are case-sensitive (RFC 9110 §9.1): `get` would match nothing.
                _ => check.refuse(&key, format!("`{text}` is not a method"), "write it in capitals, like \"GET\""),
            }
        }
        methods
    }

    fn resolve_credentials(&self, check: &Check<'_>, auth: RouteAuth, config: &AuthConfig) -> Vec<HeaderName> {
        if auth == RouteAuth::None {
            if !self.credentials.is_empty() {
                check.refuse("credentials", "a route with auth = \"none\" looks for no credential", "remove it");
            }
            return Vec::new();
        }
        let known: Vec<HeaderName> =
            std::iter::once(header::AUTHORIZATION).chain(config.key_headers.iter().cloned()).collect();
        if self.credentials.is_empty() {
            return known;
        }
        if auth == RouteAuth::Jwt && !self.credentials.iter().any(|name| name.eq_ignore_ascii_case("authorization")) {
            check.refuse("credentials", "tokens come in `authorization` only", "add it, or leave `credentials` out");
        }
        let mut credentials = Vec::new();
        for (index, text) in self.credentials.iter().enumerate().filter(|(_, text)| *text != CERTIFICATE) {
            let key = format!("credentials[{index}]");
            match known.iter().find(|name| name.as_str().eq_ignore_ascii_case(text)) {
                Some(name) if credentials.contains(name) => {
                    check.refuse(&key, format!("`{text}` is named twice"), "name each header once");
                }
                Some(name) => credentials.push(name.clone()),
                None => {
                    let known: Vec<&str> = known.iter().map(HeaderName::as_str).collect();
                    let remedy =
                        format!("write one of {}, {CERTIFICATE}, or add it to `auth.key_headers`", known.join(", "));
                    check.refuse(&key, format!("`{text}` carries no credentials"), remedy);
                }
            }
        }
        credentials
    }

    /// In no route's default: who has one for the connection may call with a key of another's.
    fn resolve_certificate(&self, check: &Check<'_>, auth: RouteAuth, server: &ServerConfig) -> bool {
        let is_named = self.credentials.iter().any(|text| text == CERTIFICATE);
        if is_named && auth == RouteAuth::Jwt {
            check.refuse("credentials", "a certificate is no token", "write auth = \"required\" or \"key\"");
        }
        if is_named && matches!(server.tls.caller_certificates, CallerCertificates::None) {
            let remedy = "set `server.tls.caller_certificates` to \"optional\" or \"required\"";
            check.refuse("credentials", "no caller is asked for a certificate", remedy);
        }
        is_named
    }

    fn resolve_scopes(&self, check: &Check<'_>, auth: RouteAuth) -> Scopes {
        if auth == RouteAuth::None && !self.scopes.is_empty() {
            check.refuse("scopes", "with auth = \"none\" nobody holds a scope", "remove it, or require a credential");
        }
        Scopes::new(self.scopes.iter().cloned()).unwrap_or_else(|name| {
            let remedy = "write 1 to 128 visible ASCII characters without blank, quote and backslash";
            check.refuse("scopes", format!("`{name}` is not a scope"), remedy);
            Scopes::default()
        })
    }

    fn resolve_max_body(&self, check: &Check<'_>, server: &ServerConfig) -> Option<u64> {
        let max_body = check.size_or_none("max_body", &self.max_body);
        if let (Some(own), Some(all)) = (max_body, server.limits.body)
            && own > all
        {
            let remedy = "write less, or raise `server.limits.body`";
            check.refuse("max_body", "a route narrows `server.limits.body` and cannot widen it", remedy);
        }
        max_body
    }
}

/// None: the upstream's.
fn own_timeout(check: &Check<'_>, key: &str, text: &str) -> Option<Duration> {
    Some(check.duration(key, text, Zero::Allowed)).filter(|own| !own.is_zero())
}

/// Whether a lower-case text is what a Host header names, without its port.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(legal)
    };
    text.len() <= 253 && text.split('.').all(label)
}
