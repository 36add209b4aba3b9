//! Keys that sign tokens of our own.
//!
//! A mechanism: which key signs now, what a token says and who may have one is decided elsewhere.

use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use thiserror::Error;

use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;

/// A key that signs.
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
    /// Its public half, where it has one.
    public: Option<Jwk>,
}

/// Why a private key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SigningKeyFault {
    /// No PEM text with a section `PRIVATE KEY`.
    #[error("it is no PEM text of a private key (PKCS #8, `BEGIN PRIVATE KEY`)")]
    NoKey,
    /// RSA, another curve, or damaged.
    #[error("it is neither an Ed25519 nor a P-256 key")]
    Unsupported,
}

impl SigningKey {
    /// A secret that signs and checks (HS256).
    #[must_use]
    pub fn shared_secret(secret: &SecretBytes) -> Self {
        Self { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret.expose()), public: None }
    }

    /// A private key (PKCS #8 in PEM): EdDSA for Ed25519 (RFC 8037), ES256 for P-256 (RFC 7518).
    /// Its id is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(pem: &SecretBytes) -> Result<Self, SigningKeyFault> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose()).map_err(|_| SigningKeyFault::NoKey)?;
        let der = der.secret_pkcs8_der();
        // Whichever fits: a key of the one kind is none of the other.
        let candidates =
            [(Algorithm::EdDSA, EncodingKey::from_ed_der(der)), (Algorithm::ES256, EncodingKey::from_ec_der(der))];
        for (algorithm, key) in candidates {
            let Ok(mut public) = Jwk::from_encoding_key(&key, algorithm) else { continue };
            let id = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| SigningKeyFault::Unsupported)?;
            public.common.key_id = Some(id);
            public.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
            let signing = Self { algorithm, key, public: Some(public) };
            // The public half alone does not show that the key can sign.
            if signing.sign("check", &()).is_some() {
                return Ok(signing);
            }
        }
        Err(SigningKeyFault::Unsupported)
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        match self.algorithm {
            Algorithm::EdDSA => TokenAlgorithm::EdDSA,
            Algorithm::ES256 => TokenAlgorithm::ES256,
            _ => TokenAlgorithm::HS256,
        }
    }

    /// Its public half as a member of a key set (RFC 7517); none: a shared secret.
    #[must_use]
    pub fn public(&self) -> Option<serde_json::Value> {
        self.public.as_ref().and_then(|public| serde_json::to_value(public).ok())
    }

    /// A token of this type with these claims, in compact serialisation; none: the key cannot sign.
    #[must_use]
    pub fn sign(&self, token_type: &str, claims: &impl Serialize) -> Option<String> {
        let header = Header {
            typ: Some(token_type.to_owned()),
            kid: self.public.as_ref().and_then(|public| public.common.key_id.clone()),
            ..Header::new(self.algorithm)
        };
        jsonwebtoken::encode(&header, claims, &self.key).ok()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl genpkey -algorithm ed25519`, RFC 8410 §10.3's example key.
    const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

    fn pem(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_key_is_what_it_is_and_publishes_its_public_half_alone() {
        let key = SigningKey::from_pem(&pem(ED25519)).unwrap();
        assert_eq!(key.algorithm(), TokenAlgorithm::EdDSA);
        let public = key.public().unwrap();
        // As `openssl pkey -pubout` has it.
        assert_eq!(public["x"], "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE");
        for (member, value) in [("kty", "OKP"), ("crv", "Ed25519"), ("alg", "EdDSA"), ("use", "sig")] {
            assert_eq!(public[member], value, "{member}");
        }
        assert!(public.get("d").is_none());
        assert_eq!(public["kid"].as_str().unwrap().len(), 43);
        assert_eq!(SigningKey::shared_secret(&pem("0123456789abcdef0123456789abcdef")).public(), None);
    }

    #[test]
    fn other_keys_are_refused() {
        for (text, fault) in [
            ("", SigningKeyFault::NoKey),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", SigningKeyFault::NoKey),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", SigningKeyFault::Unsupported),
        ] {
            assert_eq!(SigningKey::from_pem(&pem(text)).err(), Some(fault), "{text}");
        }
    }
}
