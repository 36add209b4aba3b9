//! Peppers: the server's secrets that keys are hashed under.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::model::key::KeyHash;
use crate::model::secret::SecretBytes;

/// What a fingerprint is the HMAC of: no key text starts like this, so none has this hash.
const FINGERPRINT_LABEL: &[u8] = b"octroi pepper fingerprint v1";

/// One pepper, with the HMAC keyed once: hashing a key then costs no key schedule.
#[derive(Clone)]
pub struct Pepper {
    keyed: Hmac<Sha256>,
}

impl Pepper {
    /// Keys the HMAC.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length (RFC 2104).
    #[must_use]
    pub fn new(secret: &SecretBytes) -> Self {
        Self { keyed: Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length") }
    }

    /// HMAC-SHA-256(pepper, raw key): the same as `openssl dgst -sha256 -hmac PEPPER`.
    #[must_use]
    pub fn hash(&self, raw_key: &[u8]) -> KeyHash {
        let mut mac = self.keyed.clone();
        mac.update(raw_key);
        KeyHash(mac.finalize().into_bytes().into())
    }

    /// What identifies this pepper without giving it away: 32 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = self.hash(FINGERPRINT_LABEL).to_hex();
        text.truncate(32);
        text
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[pepper]")
    }
}

/// The peppers that are alive: the current one, and "the other one" during a rotation.
#[derive(Clone, Debug)]
pub struct Peppers {
    /// New keys are hashed under it.
    pub current: Pepper,
    /// Keys may still be hashed under it.
    pub previous: Option<Pepper>,
}

impl Peppers {
    /// Both.
    #[must_use]
    pub fn new(current: Pepper, previous: Option<Pepper>) -> Self {
        Self { current, previous }
    }

    /// The hash under the current pepper: what caches are keyed by.
    #[must_use]
    pub fn hash(&self, raw_key: &[u8]) -> KeyHash {
        self.current.hash(raw_key)
    }

    /// The hash under the other pepper, where there is one.
    #[must_use]
    pub fn previous_hash(&self, raw_key: &[u8]) -> Option<KeyHash> {
        self.previous.as_ref().map(|pepper| pepper.hash(raw_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(text: &str) -> Pepper {
        Pepper::new(&SecretBytes::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn hashes_are_those_of_openssl() {
        // printf %s "what do ya want for nothing?" | openssl dgst -sha256 -hmac "Jefe" (RFC 4231, case 2)
        assert_eq!(
            pepper("Jefe").hash(b"what do ya want for nothing?").to_hex(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn fingerprints_tell_peppers_apart_and_give_nothing_away() {
        let (one, two) = (pepper("one pepper"), pepper("two peppers"));
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.fingerprint(), pepper("one pepper").fingerprint());
        assert_eq!(one.fingerprint().len(), 32);
        assert_eq!(format!("{one:?}"), "[pepper]");
    }
}
