//! The pepper: the server's secret under which keys are hashed.
//!
//! Keys are long and random, so that one fast keyed hash is enough: a stolen table of hashes is
//! worth nothing without the pepper, and the pepper nothing without the table. Slow password
//! hashes protect short secrets and would hand every stranger a way to burn our CPU.
//!
//! Refuses to know versions and where they are kept: that is `auth`.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::model::key::KeyHash;
use crate::model::secret::SecretBytes;

/// A pepper, ready to hash: the key's two blocks are mixed in once (a quarter of the cost of a
/// hash), and each hash starts from a copy of that state.
///
/// The state is wiped when it is dropped (features `zeroize` of `hmac` and `sha2`).
#[derive(Clone)]
pub struct Pepper {
    keyed: Hmac<Sha256>,
}

impl Pepper {
    /// The pepper made of these bytes. How long they must be is `config`'s rule.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(secret: &SecretBytes) -> Self {
        Self { keyed: Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length") }
    }

    /// The hash of a raw key; in hex it equals `openssl dgst -sha256 -hmac "$API_KEY_PEPPER"`.
    #[must_use]
    pub fn hash(&self, raw: &[u8]) -> KeyHash {
        #[cfg(test)]
        HASHES_MADE.set(HASHES_MADE.get() + 1);
        KeyHash(self.keyed.clone().chain_update(raw).finalize().into_bytes().into())
    }

    /// What identifies this pepper without giving it away: 32 hex digits, kept in `peppers`.
    ///
    /// The hash of a fixed text that no key can be, since keys have no spaces.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = self.hash(FINGERPRINT_LABEL).to_hex();
        text.truncate(FINGERPRINT_LENGTH);
        text
    }
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[pepper]")
    }
}

/// The live peppers: the current one, and "the other one" while a change of pepper is under way.
#[derive(Clone, Debug)]
pub struct Peppers {
    /// New hashes are made with it.
    pub current: Pepper,
    /// Hashes made with it are still found.
    pub previous: Option<Pepper>,
}

impl Peppers {
    /// Peppers of these secrets.
    #[must_use]
    pub fn new(current: &SecretBytes, previous: Option<&SecretBytes>) -> Self {
        Self { current: Pepper::new(current), previous: previous.map(Pepper::new) }
    }

    /// The hashes of a raw key under every live pepper. `current` was made already: the caller
    /// looked in its cache first.
    #[must_use]
    pub fn hashes(&self, current: KeyHash, raw: &[u8]) -> KeyHashes {
        let plain = sha256(raw);
        match &self.previous {
            None => KeyHashes { hashes: [current, plain, plain], peppered: 1 },
            Some(previous) => KeyHashes { hashes: [current, previous.hash(raw), plain], peppered: 2 },
        }
    }
}

/// The plain SHA-256 of a raw key: the form in which many systems kept keys that are imported.
#[must_use]
pub fn sha256(raw: &[u8]) -> KeyHash {
    KeyHash(Sha256::digest(raw).into())
}

/// The hashes of one raw key: the current pepper's, the other one's if it is alive, and the plain
/// one, under which an imported key waits for its first use.
#[derive(Clone, Copy, Debug)]
pub struct KeyHashes {
    hashes: [KeyHash; 3],
    peppered: usize,
}

impl KeyHashes {
    /// That of a key which is stored under the only pepper there is: it can be found by no other.
    #[must_use]
    pub fn only(current: KeyHash) -> Self {
        Self { hashes: [current; 3], peppered: 1 }
    }

    /// Whether two peppers are alive, so that the key may be stored under either at any time.
    #[must_use]
    pub fn may_move(&self) -> bool {
        self.peppered > 1
    }

    /// For one query.
    #[must_use]
    pub fn as_slice(&self) -> &[KeyHash] {
        &self.hashes[..=self.peppered]
    }

    /// The current pepper's: what caches are keyed by.
    #[must_use]
    pub fn current(&self) -> KeyHash {
        self.hashes[0]
    }

    /// Which pepper `matched` was made with, compared in constant time; `None` when it is no
    /// hash of this key at all.
    #[must_use]
    pub fn origin(&self, matched: KeyHash) -> Option<PepperOrigin> {
        use subtle::ConstantTimeEq as _;
        let equal = |hash: &KeyHash| bool::from(hash.0.ct_eq(&matched.0));
        match self.as_slice() {
            [current, ..] if equal(current) => Some(PepperOrigin::Current),
            [_, previous, _] if equal(previous) => Some(PepperOrigin::Previous),
            [.., plain] if equal(plain) => Some(PepperOrigin::Unpeppered),
            _ => None,
        }
    }
}

/// How a hash that was found was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PepperOrigin {
    /// Under the current pepper.
    Current,
    /// Under the other one.
    Previous,
    /// Without a pepper.
    Unpeppered,
}

#[cfg(test)]
thread_local! {
    static HASHES_MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many hashes this thread has made under a pepper, for tests that say that none was.
#[cfg(test)]
pub(crate) fn hashes_made() -> u64 {
    HASHES_MADE.get()
}

/// What is hashed for a fingerprint. Never changes: stored fingerprints would be strangers.
const FINGERPRINT_LABEL: &[u8] = b"octroi pepper fingerprint v1";

/// 128 bits.
const FINGERPRINT_LENGTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(bytes: &[u8]) -> Pepper {
        Pepper::new(&SecretBytes::new(bytes.to_vec()))
    }

    #[test]
    fn hashes_are_hmac_sha_256_as_others_make_it() {
        for (secret, raw, expected) in [
            // RFC 4231, test cases 2 and 6 (a key longer than a block).
            (&b"Jefe"[..], &b"what do ya want for nothing?"[..], RFC_4231_CASE_2),
            (&[0xAA; 131], b"Test Using Larger Than Block-Size Key - Hash Key First", RFC_4231_CASE_6),
            // printf %s octroi_live_abc | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
            (
                b"0123456789abcdef0123456789abcdef",
                b"octroi_live_abc",
                "5caa00762146a1be905c683a292c5f008028415370e6cfba7b88c471d66bfa93",
            ),
        ] {
            let pepper = pepper(secret);
            assert_eq!(pepper.hash(raw).to_hex(), expected);
            assert_eq!(pepper.hash(raw).to_hex(), expected, "a second hash starts from the same state");
        }
    }

    #[test]
    fn a_fingerprint_is_stable_and_tells_peppers_apart() {
        let first = pepper(b"0123456789abcdef0123456789abcdef");
        assert_eq!(first.fingerprint(), "8f28849c43395f86c4e24a3432f98411");
        assert_ne!(first.fingerprint(), pepper(b"0123456789abcdef0123456789abcdeg").fingerprint());
        assert_eq!(format!("{first:?}"), "[pepper]");
    }

    #[test]
    fn with_two_peppers_alive_either_hash_is_recognised() {
        let peppers = Peppers { current: pepper(b"new"), previous: Some(pepper(b"old")) };
        let raw = b"some-legacy-key";
        let hashes = peppers.hashes(peppers.current.hash(raw), raw);
        assert_eq!(hashes.as_slice(), [pepper(b"new").hash(raw), pepper(b"old").hash(raw), sha256(raw)]);
        assert_eq!(hashes.current(), pepper(b"new").hash(raw));
        assert_eq!(hashes.origin(pepper(b"new").hash(raw)), Some(PepperOrigin::Current));
        assert_eq!(hashes.origin(pepper(b"old").hash(raw)), Some(PepperOrigin::Previous));
        assert_eq!(hashes.origin(sha256(raw)), Some(PepperOrigin::Unpeppered));
        assert_eq!(hashes.origin(pepper(b"third").hash(raw)), None);

        let alone = Peppers { current: pepper(b"new"), previous: None };
        let hashes = alone.hashes(alone.current.hash(raw), raw);
        assert_eq!(hashes.as_slice(), [pepper(b"new").hash(raw), sha256(raw)]);
        assert_eq!(hashes.origin(sha256(raw)), Some(PepperOrigin::Unpeppered));
        assert_eq!(hashes.origin(pepper(b"old").hash(raw)), None);
    }

    const RFC_4231_CASE_2: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    const RFC_4231_CASE_6: &str = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
}
