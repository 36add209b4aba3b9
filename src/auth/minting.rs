//! Making keys: a text that is shown once, and the hash that a store holds of it.

use super::pepper_guard::{PepperError, guard_pepper};
use crate::config::Problem;
use crate::config::auth::AuthConfig;
use crate::crypto::key_text::{self, Environment};
use crate::crypto::pepper::{Pepper, Peppers};
use crate::model::key::{ApiKey, KeyHash};
use crate::model::secret::SecretText;
use crate::store::{Store, StoreError};

/// Makes keys for one store, under the pepper that its gateways know.
#[derive(Clone)]
pub struct Mint {
    prefix: String,
    pepper: Pepper,
    pepper_version: i32,
}

/// A key that was just made.
#[derive(Debug)]
pub struct MadeKey {
    /// Shown once.
    pub text: SecretText,
    /// Its public part.
    pub key_id: String,
    /// What its row holds.
    pub hash: KeyHash,
}

/// Why no keys can be made.
#[derive(Debug, thiserror::Error)]
pub enum MintFault {
    /// There is no pepper.
    #[error("{}; {}", .0.message, .0.remedy)]
    Configuration(Problem),
    /// It is not the store's.
    #[error(transparent)]
    Pepper(#[from] PepperError),
}

impl Mint {
    /// One for this store. Under another pepper than the store's, a key would be unknown to every
    /// gateway: so that is asked first.
    ///
    /// # Errors
    /// There is no pepper, or it is not the store's; the store is away.
    pub async fn open(auth: &AuthConfig, store: &Store) -> Result<Self, MintFault> {
        let peppers =
            Peppers::new(auth.require_pepper().map_err(MintFault::Configuration)?, auth.pepper_previous.as_ref());
        let versions = guard_pepper(&peppers, store.peppers.as_ref()).await?;
        Ok(Self::new(&auth.prefix, peppers.current, versions.current))
    }

    /// One with a pepper that was found to be the store's.
    #[must_use]
    pub fn new(prefix: &str, pepper: Pepper, pepper_version: i32) -> Self {
        Self { prefix: prefix.to_owned(), pepper, pepper_version }
    }

    /// Which pepper its hashes are made with.
    #[must_use]
    pub fn pepper_version(&self) -> i32 {
        self.pepper_version
    }

    /// A new key.
    #[must_use]
    pub fn make(&self, environment: Environment) -> MadeKey {
        let made = key_text::generate(&self.prefix, environment);
        let hash = self.hash(made.text.expose().as_bytes());
        MadeKey { text: made.text, key_id: made.key_id, hash }
    }

    /// The hash of what stands for a key.
    #[must_use]
    pub fn hash(&self, raw: &[u8]) -> KeyHash {
        self.pepper.hash(raw)
    }

    /// The kind that a successor of this key has: it says `test` where the old one's text does; keys
    /// that came from elsewhere say nothing, and are live.
    #[must_use]
    pub fn kind_of(&self, key: &ApiKey) -> Environment {
        let word = key.key_id.as_deref();
        let word = word.and_then(|id| id.strip_prefix(&self.prefix)?.strip_prefix('_')?.split('_').next());
        word.and_then(Environment::parse).unwrap_or(Environment::Live)
    }

    /// Names of live gateways that do not know the pepper, and refuse what is made with it.
    ///
    /// # Errors
    /// The store's.
    pub async fn unaware(&self, store: &Store) -> Result<Vec<String>, StoreError> {
        store.rotation.unaware(&self.pepper.fingerprint()).await
    }
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[mint]")
    }
}
