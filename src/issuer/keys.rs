//! Which key signs, and what is published of it.
//!
//! A change of keys takes three steps, each on every replica before the next: the *next* key is
//! published, so that whoever verifies tokens has it before it is used; it signs, and the old one is
//! *retired*: published, but not used; the old one goes when its last token has ended.

use bytes::Bytes;
use serde_json::json;
use thiserror::Error;

use crate::config::issuer::{IssuerConfig, SigningKeyConfig};
use crate::crypto::signing::{SigningKey, SigningKeyFault};
use crate::model::token::TokenAlgorithm;

/// The keys of an issuer.
#[derive(Debug)]
pub struct SigningKeys {
    current: SigningKey,
    published: Bytes,
    has_published: bool,
}

/// A private key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting}: {fault}")]
pub struct UnusableKey {
    /// Which setting names it.
    pub setting: String,
    /// What is wrong with it.
    #[source]
    pub fault: SigningKeyFault,
}

impl SigningKeys {
    /// The configured keys, else the secret; none where there is neither.
    ///
    /// # Errors
    /// A key that cannot be used.
    pub fn of(config: &IssuerConfig) -> Result<Option<Self>, UnusableKey> {
        let read = |config: &SigningKeyConfig| {
            let fault = |fault| UnusableKey { setting: config.setting.clone(), fault };
            SigningKey::from_pem(&config.pem).map_err(fault)
        };
        let others = config.published_keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let current = match (&config.signing_key, &config.secret) {
            (Some(key), _) => read(key)?,
            (None, Some(secret)) => SigningKey::shared_secret(secret),
            (None, None) => return Ok(None),
        };
        let mut published = Vec::new();
        for key in [&current].into_iter().chain(&others).filter_map(SigningKey::public) {
            // The same file under two settings is one key.
            if !published.contains(&key) {
                published.push(key);
            }
        }
        let has_published = !published.is_empty();
        let published = Bytes::from(json!({ "keys": published }).to_string());
        Ok(Some(Self { current, published, has_published }))
    }

    /// The key that signs.
    #[must_use]
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.current.algorithm()
    }

    /// The public halves, as a key set (RFC 7517); empty where the secret signs.
    #[must_use]
    pub fn published(&self) -> &Bytes {
        &self.published
    }

    /// Whether services can verify tokens offline.
    #[must_use]
    pub fn are_public(&self) -> bool {
        self.has_published
    }
}
