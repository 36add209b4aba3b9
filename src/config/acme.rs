//! `[server.tls.acme]`: a certificate that is ordered and renewed by ourselves (RFC 8555).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::listener::{ListenProtocol, ListenerConfig};

/// Names in one certificate: what Let's Encrypt takes.
const NAMES_MOST: usize = 100;

/// How a certificate is had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Where the authority lists what it offers; https.
    pub directory: String,
    /// The names of the certificate, in lower case.
    pub domains: Vec<String>,
    /// Whom the authority may write to, as URLs (`mailto:`).
    pub contacts: Vec<String>,
    /// How it finds out that the names are ours.
    pub challenge: AcmeChallenge,
    /// Who vouches for the directory; none: whom the system trusts.
    pub authorities: Option<PathBuf>,
    /// Where account and certificate are kept.
    pub folder: PathBuf,
}

/// `server.tls.acme.challenge`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// In a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a request on port 80 (RFC 8555 §8.3).
    Http01,
}

/// `[server.tls.acme]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAcme {
    directory: String,
    domains: Vec<String>,
    contacts: Vec<String>,
    accept_terms: bool,
    challenge: String,
    ca_file: String,
}

impl Default for RawAcme {
    fn default() -> Self {
        Self {
            directory: String::new(),
            domains: Vec::new(),
            contacts: Vec::new(),
            accept_terms: false,
            challenge: "tls-alpn-01".to_owned(),
            ca_file: String::new(),
        }
    }
}

impl RawAcme {
    /// `is_required`: callers get no connection without a certificate of theirs.
    pub(super) fn resolve(
        &self,
        check: &Check<'_>,
        listeners: &[ListenerConfig],
        is_required: bool,
    ) -> Option<AcmeConfig> {
        if self.directory.is_empty() {
            if !self.domains.is_empty() {
                check.refuse("directory", "nobody is asked for the certificate", "write the authority's directory URL");
            }
            return None;
        }
        if !self.directory.starts_with("https://") {
            check.refuse("directory", "it is no https URL", "write the authority's directory URL");
        }
        if !self.accept_terms {
            let remedy = "read the authority's terms of service and write accept_terms = true";
            check.refuse("accept_terms", "its terms of service are not agreed to", remedy);
        }
        let words = [("tls-alpn-01", AcmeChallenge::TlsAlpn01), ("http-01", AcmeChallenge::Http01)];
        let challenge = check.choice("challenge", &self.challenge, &words);
        check_listeners(check, challenge, listeners, is_required);
        for (index, contact) in self.contacts.iter().enumerate().filter(|(_, contact)| !contact.contains(':')) {
            let key = format!("contacts[{index}]");
            check.refuse(&key, format!("`{contact}` is no URL"), "write it as mailto:somebody@example.com");
        }
        Some(AcmeConfig {
            directory: self.directory.clone(),
            domains: self.resolve_domains(check),
            contacts: self.contacts.clone(),
            challenge,
            authorities: (!self.ca_file.is_empty()).then(|| check.place(&self.ca_file)),
            folder: check.place("acme"),
        })
    }

    fn resolve_domains(&self, check: &Check<'_>) -> Vec<String> {
        if self.domains.is_empty() || self.domains.len() > NAMES_MOST {
            let remedy = format!("write 1 to {NAMES_MOST} names");
            check.refuse("domains", "no certificate can be ordered for as many names", remedy);
        }
        let mut names: Vec<String> = Vec::new();
        for (index, text) in self.domains.iter().enumerate() {
            let (key, name) = (format!("domains[{index}]"), text.to_ascii_lowercase());
            if name.starts_with("*.") {
                let remedy = "write each name; wildcards need DNS, which is not ours to change";
                check.refuse(&key, format!("`{text}` is a wildcard"), remedy);
            } else if !is_host_name(&name) {
                check.refuse(&key, format!("`{text}` is no host name"), "write a name like api.example.com");
            } else if names.contains(&name) {
                check.refuse(&key, format!("`{text}` stands twice"), "leave one of them out");
            }
            names.push(name);
        }
        names
    }
}

fn check_listeners(check: &Check<'_>, challenge: AcmeChallenge, listeners: &[ListenerConfig], is_required: bool) {
    let speak = |protocol| listeners.iter().any(|listener| listener.protocol == protocol);
    if !speak(ListenProtocol::Https) {
        let remedy = "add `[[server.listeners]]` with protocol = \"https\"";
        check.refuse("directory", "a certificate is ordered and no listener speaks TLS", remedy);
    }
    if challenge == AcmeChallenge::Http01 && !speak(ListenProtocol::Http) {
        let remedy = "listen on port 80 too, or write \"tls-alpn-01\"";
        check.refuse("challenge", "no listener speaks plain HTTP", remedy);
    }
    if challenge == AcmeChallenge::TlsAlpn01 && is_required {
        let remedy = "write \"http-01\", or caller_certificates = \"optional\"";
        check.refuse("challenge", "callers must show a certificate, and the authority has none", remedy);
    }
}

/// RFC 1123 §2.1; no address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{loaded, paths};
    use super::*;

    /// A listener and an order, with these settings in place of good ones.
    fn written(settings: &[(&str, &str)]) -> String {
        let good = [
            ("directory", "\"https://a.example/directory\""),
            ("domains", "[\"API.example.com\"]"),
            ("accept_terms", "true"),
        ];
        let kept = good.iter().filter(|(name, _)| !settings.iter().any(|(other, _)| other == name));
        let lines: Vec<String> = kept.chain(settings).map(|(name, value)| format!("{name} = {value}\n")).collect();
        let listener = "[[server.listeners]]\naddress = \"[::]:443\"\nprotocol = \"https\"\n";
        format!("{listener}[server.tls.acme]\n{}", lines.concat())
    }

    #[test]
    fn what_is_ordered_is_said_in_full_or_refused_at_its_setting() {
        let acme = loaded(&written(&[])).server.tls.acme.unwrap();
        assert_eq!((acme.domains, acme.challenge), (vec!["api.example.com".to_owned()], AcmeChallenge::TlsAlpn01));
        assert_eq!((acme.authorities, acme.folder), (None, "/srv/acme".into()));
        for (name, value, path) in [
            ("directory", "\"http://a.example/\"", "directory"),
            ("directory", "\"\"", "directory"),
            ("accept_terms", "false", "accept_terms"),
            ("domains", "[]", "domains"),
            ("domains", "[\"*.example.com\"]", "domains[0]"),
            ("domains", "[\"a.example\", \"A.example\"]", "domains[1]"),
            ("domains", "[\"192.0.2.1\"]", "domains[0]"),
            ("domains", "[\"a_b.example\"]", "domains[0]"),
            ("domains", "[\"a..example\"]", "domains[0]"),
            ("domains", "[\"https://a.example\"]", "domains[0]"),
            ("contacts", "[\"me@example.com\"]", "contacts[0]"),
            ("challenge", "\"dns-01\"", "challenge"),
            // Nobody listens on plain HTTP.
            ("challenge", "\"http-01\"", "challenge"),
        ] {
            let found = paths(&written(&[(name, value)]));
            assert!(found.contains(&format!("server.tls.acme.{path}")), "{name} = {value}: {found:?}");
        }
        let required = "[server.tls]\ncaller_certificates = \"required\"\ncaller_ca = \"ca.pem\"\n";
        let text = written(&[]).replace("[server.tls.acme]", &format!("{required}[server.tls.acme]"));
        assert_eq!(paths(&text), ["server.tls.acme.challenge"]);
        let plain = written(&[]).replace("\"https\"", "\"http\"");
        assert_eq!(paths(&plain), ["server.tls.acme.directory"]);
    }
}
