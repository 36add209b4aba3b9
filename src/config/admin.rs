//! `[admin]`

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::check::{Check, Zero};
use super::oidc::{OidcConfig, RawOidc};
use super::secrets::{SecretSource, Secrets};
use super::tls::CertificateFiles;
use crate::model::secret::SecretText;

/// Where operators and scrapers connect.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The admin listener.
    pub listen: SocketAddr,
    /// A second one with only `/livez`, `/readyz` and `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
    /// What TLS is spoken with there; none: it is not.
    pub tls: Option<CertificateFiles>,
    /// Where browsers see it, where that is not where it listens: behind a proxy that ends TLS.
    pub public_url: Option<Url>,
    /// Names, besides `localhost` and addresses, under which browsers may come.
    pub hosts: Vec<String>,
    /// `[admin.sessions]`
    pub sessions: SessionsConfig,
    /// Where operators may sign in besides here.
    pub oidc: Option<OidcConfig>,
    /// The owner that is made at the first start, where a password is given for it.
    pub first_operator: Option<FirstOperator>,
}

impl AdminConfig {
    /// Whether browsers reach it over TLS: then cookies are kept for that.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.public_url.as_ref().map_or(self.tls.is_some(), |url| url.scheme() == "https")
    }
}

/// The operator that is made at the first start, when there is none.
#[derive(Clone, Debug)]
pub struct FirstOperator {
    /// What it signs in with.
    pub name: String,
    /// Its password.
    pub password: SecretText,
    /// Which variable or setting the password came from.
    pub origin: String,
}

/// How long operators stay signed in.
#[derive(Clone, Copy, Debug)]
pub struct SessionsConfig {
    /// Without doing anything.
    pub idle: Duration,
    /// At most.
    pub absolute: Duration,
}

/// `[admin]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: String,
    pub(super) metrics_listen: String,
    pub(super) public_url: String,
    pub(super) hosts: Vec<String>,
    pub(super) tls: RawAdminTls,
    pub(super) sessions: RawSessions,
    pub(super) oidc: RawOidc,
    pub(super) first_operator: RawFirstOperator,
}

/// `[admin.first_operator]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFirstOperator {
    pub(super) name: String,
    pub(super) password_file: String,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
}

impl Default for RawFirstOperator {
    fn default() -> Self {
        Self { name: "admin".to_owned(), password_file: String::new(), password: None }
    }
}

impl RawFirstOperator {
    fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> Option<FirstOperator> {
        let setting = check.path_of("password_file");
        let found = secrets.find_bytes(&SecretSource {
            variable: "OCTROI_ADMIN_PASSWORD",
            setting: &setting,
            file: &self.password_file,
            // How good it must be is judged where it is made use of: once.
            allow_short: true,
        })?;
        check.name("name", &self.name);
        let Ok(password) = String::from_utf8(found.bytes.to_vec()) else {
            check.refuse("password_file", "the password is not UTF-8", "write one that can be typed");
            return None;
        };
        Some(FirstOperator { name: self.name.clone(), password: SecretText::new(password), origin: found.origin })
    }
}

/// `[admin.tls]` as written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdminTls {
    certificate: String,
    key: String,
}

impl RawAdminTls {
    fn resolve(&self, check: &Check<'_>) -> Option<CertificateFiles> {
        match (self.certificate.is_empty(), self.key.is_empty()) {
            (true, true) => None,
            (false, false) => {
                Some(CertificateFiles { certificate: check.place(&self.certificate), key: check.place(&self.key) })
            }
            (true, false) => {
                check.refuse("certificate", "there is a key and no certificate", "name both, as PEM files");
                None
            }
            (false, true) => {
                check.refuse("key", "there is a certificate and no key", "name both, as PEM files");
                None
            }
        }
    }
}

/// `[admin.sessions]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSessions {
    pub(super) idle: String,
    pub(super) absolute: String,
}

impl Default for RawSessions {
    fn default() -> Self {
        // A browser that was left open, and a working day (OWASP's Session Management Cheat Sheet).
        Self { idle: "30m".to_owned(), absolute: "12h".to_owned() }
    }
}

impl RawSessions {
    fn resolve(&self, check: &Check<'_>) -> SessionsConfig {
        let idle = check.duration("idle", &self.idle, Zero::Refused);
        let absolute = check.duration("absolute", &self.absolute, Zero::Refused);
        if absolute > LONGEST && !check.has_problem("absolute") {
            check.refuse("absolute", "whoever finds such a session has it for good", "write at most \"30d\"");
        }
        if idle > absolute && !check.has_problem("idle") && !check.has_problem("absolute") {
            check.refuse("idle", "a session ends before it has been idle so long", "write at most `absolute`");
        }
        SessionsConfig { idle, absolute }
    }
}

/// The longest life of a session.
const LONGEST: Duration = Duration::from_hours(30 * 24);

impl Default for RawAdmin {
    fn default() -> Self {
        // This machine only: what operators do must not be one firewall rule away from strangers.
        Self {
            listen: "127.0.0.1:8081".to_owned(),
            metrics_listen: String::new(),
            // As it listens: what a proxy in front makes of it, nobody here can know.
            public_url: String::new(),
            hosts: Vec::new(),
            tls: RawAdminTls::default(),
            sessions: RawSessions::default(),
            oidc: RawOidc::default(),
            first_operator: RawFirstOperator::default(),
        }
    }
}

impl RawAdmin {
    pub(super) fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> AdminConfig {
        let metrics_listen =
            (!self.metrics_listen.is_empty()).then(|| check.address("metrics_listen", &self.metrics_listen));
        let listen = check.address("listen", &self.listen);
        let tls = self.tls.resolve(&check.below("tls"));
        if !listen.ip().is_loopback() && tls.is_none() && !check.has_problem("listen") {
            let remedy = "listen on 127.0.0.1, or name `certificate` and `key` in [admin.tls]; for probes and scrapers \
                          there is `admin.metrics_listen`";
            check.refuse("listen", "passwords and tokens would cross a network in the clear", remedy);
        }
        for (index, host) in self.hosts.iter().enumerate() {
            if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            {
                check.refuse(
                    &format!("hosts[{index}]"),
                    format!("`{host}` is no host name"),
                    "write it without a port",
                );
            }
        }
        let public_url = public_url(check, &self.public_url);
        let named = public_url.as_ref().and_then(Url::host_str);
        AdminConfig {
            listen,
            tls,
            hosts: self.hosts.iter().map(String::as_str).chain(named).map(str::to_ascii_lowercase).collect(),
            metrics_listen,
            sessions: self.sessions.resolve(&check.below("sessions")),
            oidc: self.oidc.resolve(&check.below("oidc"), secrets, public_url.as_ref()),
            public_url,
            first_operator: self.first_operator.resolve(&check.below("first_operator"), secrets),
        }
    }
}

/// Where browsers see it: an origin, and nothing behind it. Off TLS on this machine only.
fn public_url(check: &Check<'_>, text: &str) -> Option<Url> {
    if text.is_empty() {
        return None;
    }
    let is_here = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let is_origin = |url: &Url| {
        url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let read = Url::parse(text).ok().filter(Url::has_host).filter(is_origin);
    let read = read.filter(|url| url.scheme() == "https" || (url.scheme() == "http" && is_here(url)));
    if read.is_none() {
        let remedy = "write scheme and host, and the port if it is another than 443: https://admin.example.com";
        check.refuse("public_url", "browsers can see no dashboard there", remedy);
    }
    read
}
