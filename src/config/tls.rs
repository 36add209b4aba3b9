//! `[server.tls]`: the certificates that callers are shown, and those that they may have to show.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::acme::{AcmeConfig, RawAcme};
use super::check::Check;
use super::listener::{ListenProtocol, ListenerConfig};

/// TLS towards callers, or operators.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Whether HTTP/2 is spoken besides HTTP/1.1.
    pub offers_http2: bool,
    /// At least one, where any listener speaks TLS; the first is shown to callers that name no
    /// host, or one that none is for.
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS 1.2 is spoken besides 1.3.
    pub allows_tls12: bool,
    /// What callers must show.
    pub caller_certificates: CallerCertificates,
    /// The certificate that is ordered; none: none is.
    pub acme: Option<AcmeConfig>,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `server.tls.caller_certificates`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerCertificates {
    /// None is asked for.
    None,
    /// One is asked for; if one is shown, it must be of these authorities.
    Optional(PathBuf),
    /// Without one of these authorities there is no connection.
    Required(PathBuf),
}

/// `[server.tls]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) certificates: Vec<RawCertificate>,
    min_version: String,
    caller_certificates: String,
    caller_ca: String,
    acme: RawAcme,
}

/// `[[server.tls.certificates]]` as written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCertificate {
    certificate: String,
    key: String,
}

impl Default for RawTls {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            // 1.0 and 1.1 are dead (RFC 8996); 1.2 is still what older callers speak.
            min_version: "1.2".to_owned(),
            caller_certificates: "none".to_owned(),
            caller_ca: String::new(),
            acme: RawAcme::default(),
        }
    }
}

impl RawTls {
    pub(super) fn resolve(&self, check: &Check<'_>, listeners: &[ListenerConfig]) -> TlsConfig {
        let speaks_tls = listeners.iter().any(|listener| listener.protocol == ListenProtocol::Https);
        let caller_certificates = self.resolve_callers(check);
        let is_required = matches!(caller_certificates, CallerCertificates::Required(_));
        let acme = self.acme.resolve(&check.below("acme"), listeners, is_required);
        if speaks_tls && self.certificates.is_empty() && acme.is_none() && !check.has_problem("certificates") {
            let remedy = "add `[[server.tls.certificates]]` with `certificate` and `key`, PEM files, or \
                          `[server.tls.acme]`";
            check.refuse("certificates", "a listener speaks TLS and there is no certificate", remedy);
        }
        let certificates = self.certificates.iter().enumerate();
        let certificates =
            certificates.map(|(index, raw)| raw.resolve(&check.below(&format!("certificates[{index}]"))));
        TlsConfig {
            offers_http2: true,
            certificates: certificates.collect(),
            allows_tls12: check.choice("min_version", &self.min_version, &[("1.2", true), ("1.3", false)]),
            caller_certificates,
            acme,
        }
    }

    fn resolve_callers(&self, check: &Check<'_>) -> CallerCertificates {
        let words =
            [("none", CallersAsked::None), ("optional", CallersAsked::Optional), ("required", CallersAsked::Required)];
        let asked = check.choice("caller_certificates", &self.caller_certificates, &words);
        match (asked == CallersAsked::None, self.caller_ca.is_empty()) {
            (false, true) => {
                let remedy = "name the PEM file of the authorities whose certificates callers may show";
                check.refuse("caller_ca", "nobody says which certificates of callers are good", remedy);
            }
            (true, false) => {
                let remedy = "write \"optional\" or \"required\", or leave `caller_ca` out";
                check.refuse("caller_certificates", "no certificate of callers is asked for", remedy);
            }
            _ => {}
        }
        let authorities = check.place(&self.caller_ca);
        match asked {
            CallersAsked::None => CallerCertificates::None,
            CallersAsked::Optional => CallerCertificates::Optional(authorities),
            CallersAsked::Required => CallerCertificates::Required(authorities),
        }
    }
}

/// The words of `caller_certificates`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallersAsked {
    None,
    Optional,
    Required,
}

impl RawCertificate {
    fn resolve(&self, check: &Check<'_>) -> CertificateFiles {
        for (key, text) in [("certificate", &self.certificate), ("key", &self.key)] {
            if text.is_empty() && !check.has_problem(key) {
                check.refuse(key, "no file is named", "name a PEM file; a relative path starts at the data folder");
            }
        }
        CertificateFiles { certificate: check.place(&self.certificate), key: check.place(&self.key) }
    }
}
