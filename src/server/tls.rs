//! TLS towards callers (RFC 8446, RFC 5246): what a handshake is made with, and how that changes
//! while connections are open.
//!
//! What is in force is read once for each handshake. Files that changed are read again every few
//! seconds and when somebody asks; what cannot be used changes nothing. A connection keeps what its
//! handshake was made with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::acme::{self, ACME_TLS, Challenges};
use super::certificates::{ByName, CertificateFault, Loaded, read_authorities};
use crate::config::acme::AcmeConfig;
use crate::config::tls::{CallerCertificates, CertificateFiles, TlsConfig};
use crate::tasks;
use crate::telemetry::metrics::Metrics;

/// How often the files are looked at: certificates are renewed days before they end.
const LOOK_EACH: Duration = Duration::from_secs(5);

/// What ALPN offers, the better one first.
pub(super) const H2: &[u8] = b"h2";
pub(super) const HTTP11: &[u8] = b"http/1.1";

/// TLS cannot be spoken with these files.
#[derive(Debug, Error)]
pub enum TlsFault {
    /// One of them cannot be used.
    #[error(transparent)]
    File(#[from] CertificateFault),
    /// The authorities of callers' certificates cannot be used.
    #[error("callers' certificates cannot be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Library(#[from] rustls::Error),
}

/// What handshakes are made with.
pub struct Tls {
    settings: TlsConfig,
    listener: &'static str,
    current: ArcSwap<ServerConfig>,
    // A std mutex: held by whoever reads the files, off the workers.
    seen: Mutex<Seen>,
    /// What an authority finds that looks whether a name is ours.
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
}

/// The files as they were when they were last looked at.
struct Seen {
    digest: [u8; 32],
}

impl Tls {
    /// Reads the files. `listener` is what metrics call it: `data` or `admin`.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(settings: TlsConfig, listener: &'static str, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsFault> {
        let digest = digest(&settings);
        let challenges = Arc::new(Challenges::default());
        let (current, expires) = build(&settings, &challenges, None)?;
        metrics.tls_certificates_expire(listener, expires);
        let (current, seen) = (ArcSwap::new(current), Mutex::new(Seen { digest }));
        Ok(Arc::new(Self { settings, listener, current, seen, challenges, metrics }))
    }

    /// The certificate that is ordered by ourselves, if one is.
    pub(super) fn acme(&self) -> Option<&AcmeConfig> {
        self.settings.acme.as_ref()
    }

    /// What is proved to its authority.
    #[must_use]
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// What the next handshake is made with.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Takes files that changed. Whether they did.
    ///
    /// # Errors
    /// They cannot be used: what was in force stays, and nothing is said again before they change.
    pub fn reload(&self) -> Result<bool, TlsFault> {
        let digest = digest(&self.settings);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut seen.digest, digest) == digest {
            return Ok(false);
        }
        let (next, expires) = build(&self.settings, &self.challenges, Some(&self.current.load()))?;
        self.metrics.tls_certificates_expire(self.listener, expires);
        self.current.store(next);
        Ok(true)
    }

    /// Looks at the files until a stop.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EACH);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = stop.cancelled() => return,
            }
            self.look().await;
        }
    }

    /// Takes files that changed, and tells what came of it.
    pub async fn look(self: &Arc<Self>) {
        let tls = Arc::clone(self);
        match tasks::blocking(move || tls.reload()).await {
            Ok(false) => {}
            Ok(true) => {
                self.metrics.reloaded(true);
                tracing::info!("new certificates are in force for new connections");
            }
            Err(error) => {
                self.metrics.reloaded(false);
                let causes = crate::model::causes::with_causes(&error);
                tracing::error!(error = causes, "changed certificates cannot be used; those before stay in force");
            }
        }
    }
}

/// What the files say, whatever it is worth. Unreadable ones count as empty.
fn digest(settings: &TlsConfig) -> [u8; 32] {
    let mut digest = Sha256::new();
    let authorities = match &settings.caller_certificates {
        CallerCertificates::None => None,
        CallerCertificates::Optional(path) | CallerCertificates::Required(path) => Some(path),
    };
    let files = all_files(settings);
    for path in files.iter().flat_map(|files| [&files.certificate, &files.key]).chain(authorities) {
        let bytes = zeroize::Zeroizing::new(std::fs::read(path).unwrap_or_default());
        digest.update(bytes.len().to_le_bytes());
        digest.update(&*bytes);
    }
    digest.finalize().into()
}

/// Those of the configuration, and the one that was ordered, once it is there.
fn all_files(settings: &TlsConfig) -> Vec<CertificateFiles> {
    let ordered = settings.acme.as_ref().map(acme::certificate).filter(|files| files.certificate.exists());
    settings.certificates.iter().cloned().chain(ordered).collect()
}

/// A configuration of these files, and when the first certificate ends. `before`: the one in
/// force, whose callers may resume their sessions.
fn build(
    settings: &TlsConfig,
    challenges: &Arc<Challenges>,
    before: Option<&Arc<ServerConfig>>,
) -> Result<(Arc<ServerConfig>, Timestamp), TlsFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let files = all_files(settings);
    let loaded = files.iter().map(|files| Loaded::read(files, &provider));
    let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
    let expires = loaded.iter().map(|one| one.expires).min().unwrap_or(Timestamp::MAX);
    let versions = if settings.allows_tls12 { &[&TLS13, &TLS12][..] } else { &[&TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match &settings.caller_certificates {
        CallerCertificates::None => builder.with_no_client_auth(),
        asked => builder.with_client_cert_verifier(verifier(asked, &provider)?),
    };
    let challenges = settings.acme.is_some().then(|| Arc::clone(challenges));
    let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&loaded, challenges)));
    config.alpn_protocols =
        if settings.offers_http2 { vec![H2.to_vec(), HTTP11.to_vec()] } else { vec![HTTP11.to_vec()] };
    if settings.acme.is_some() {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    // A renewed certificate ends no session. Where callers show theirs it does: who is no longer
    // good is not to come back by a ticket.
    match before.filter(|_| settings.caller_certificates == CallerCertificates::None) {
        Some(before) => {
            config.ticketer = Arc::clone(&before.ticketer);
            config.session_storage = Arc::clone(&before.session_storage);
        }
        None => config.ticketer = aws_lc_rs::Ticketer::new()?,
    }
    Ok((Arc::new(config), expires))
}

fn verifier(
    asked: &CallerCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsFault> {
    let (path, may_be_missing) = match asked {
        CallerCertificates::None => unreachable!("nobody is asked for a certificate"),
        CallerCertificates::Optional(path) => (path, true),
        CallerCertificates::Required(path) => (path, false),
    };
    let roots = Arc::new(read_authorities(path)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let builder = if may_be_missing { builder.allow_unauthenticated() } else { builder };
    Ok(builder.build()?)
}

impl std::fmt::Debug for Tls {
    /// Without keys.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}
