//! What the authority finds while it looks whether a name is ours: a certificate in a handshake
//! (RFC 8737), or a text at a path (RFC 8555 §8.3). Only while it is asked for, and nothing of a caller's
//! choice: each is found by what an order put there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::AcmeFault;

/// What ALPN says in the authority's handshake (RFC 8737 §4).
pub(in crate::server) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Where it asks for a text.
const PATH: &str = "/.well-known/acme-challenge/";

/// What is proved at the moment.
#[derive(Debug, Default)]
pub struct Challenges {
    // Std mutexes, held for a look; a request looks only below the path, a handshake only by the word.
    certificates: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    texts: Mutex<HashMap<String, String>>,
}

impl Challenges {
    /// The text for a request's path, where an authority waits for one.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// The certificate for a handshake in which the authority looks at a name.
    pub(in crate::server) fn certificate(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(&name?.to_ascii_lowercase()).cloned()
    }

    /// Shows a text until the order is over.
    pub(super) fn show_text(&self, token: &str, text: &str) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), text.to_owned());
    }

    /// Shows a certificate with this digest until the order is over.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn show_certificate(
        &self,
        name: &str,
        digest: &[u8],
        provider: &CryptoProvider,
    ) -> Result<(), AcmeFault> {
        let made = certified(name, digest, provider)?;
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(made));
        Ok(())
    }

    /// The order is over.
    pub(super) fn clear(&self) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// RFC 8737 §3: for that name alone, signed by itself, with the digest in a critical extension.
fn certified(name: &str, digest: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, AcmeFault> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    // Not looked at again: that extension is critical, and no caller's library knows it.
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}
