//! The text of a refresh token: `<prefix>_refresh_` + 43 base64url + 6 check.
//!
//! Opaque: 256 bits and nothing else. The first of a family is random; each other follows from the
//! one it takes the place of, by a key that only we have, so that whoever presents the old one twice
//! gets the same new one though only hashes are stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key_text::check_digits;
use super::pepper::sha256;
use crate::model::key::KeyHash;
use crate::model::secret::{SecretBytes, SecretText};

/// Makes and reads refresh tokens.
pub struct RefreshTexts {
    start: String,
    successors: Hmac<Sha256>,
}

impl RefreshTexts {
    /// `prefix` is `auth.prefix`; the successors' key is derived from `secret`, which also signs
    /// tokens: neither use can be played against the other.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(prefix: &str, secret: &SecretBytes) -> Self {
        let keyed = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        let derived = keyed(secret.expose()).chain_update(DERIVATION_LABEL).finalize().into_bytes();
        Self { start: format!("{prefix}_refresh_"), successors: keyed(&derived) }
    }

    /// A random one.
    ///
    /// # Panics
    /// When the kernel gives no randomness, which it always does once it has booted.
    #[must_use]
    pub fn first(&self) -> SecretText {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..]).expect("the kernel gives randomness once it has booted");
        self.text(&bytes)
    }

    /// The one that takes the place of `presented`, whose row has this nonce.
    #[must_use]
    pub fn successor(&self, presented: &SecretText, nonce: &[u8; 16]) -> SecretText {
        let mac = self.successors.clone().chain_update(presented.expose()).chain_update(nonce);
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        self.text(&bytes)
    }

    /// What its row holds. Plain: 256 random bits need no pepper.
    #[must_use]
    pub fn hash(text: &SecretText) -> KeyHash {
        sha256(text.expose().as_bytes())
    }

    /// Whether a text has the shape of one: worth a look-up.
    #[must_use]
    pub fn is_one(&self, text: &str) -> bool {
        let Some(body) = text.strip_prefix(&self.start) else { return false };
        if body.len() != TEXT_LENGTH + CHECK_LENGTH || !body.is_ascii() {
            return false;
        }
        let (covered, check) = text.split_at(text.len() - CHECK_LENGTH);
        check_digits(covered.as_bytes()) == check.as_bytes()
    }

    fn text(&self, bytes: &[u8; 32]) -> SecretText {
        // Room for everything at once: a string that grows would leave copies behind.
        let mut text = String::with_capacity(self.start.len() + TEXT_LENGTH + CHECK_LENGTH);
        text.push_str(&self.start);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        for digit in check_digits(text.as_bytes()) {
            text.push(char::from(digit));
        }
        SecretText::new(text)
    }
}

impl std::fmt::Debug for RefreshTexts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[refresh tokens]")
    }
}

/// What the successors' key is derived with. Never changes.
const DERIVATION_LABEL: &[u8] = b"octroi refresh token successor v1";

/// 32 bytes in base64url without padding.
const TEXT_LENGTH: usize = 43;

/// As keys have them.
const CHECK_LENGTH: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(secret: u8) -> RefreshTexts {
        RefreshTexts::new("octroi", &SecretBytes::new(vec![secret; 32]))
    }

    #[test]
    fn a_successor_follows_from_its_parent_the_nonce_and_the_secret_alone() {
        let parent = texts(1).first();
        let successor =
            |secret, text: &SecretText, nonce| texts(secret).successor(text, &[nonce; 16]).expose().to_owned();
        let made = successor(1, &parent, 7);
        assert_eq!(made, successor(1, &parent, 7));
        for other in [successor(2, &parent, 7), successor(1, &texts(1).first(), 7), successor(1, &parent, 8)] {
            assert_ne!(made, other);
        }
        assert_ne!(texts(1).first().expose(), texts(1).first().expose());
    }

    #[test]
    fn only_whole_ones_are_worth_a_look_up() {
        let texts = texts(1);
        let good = texts.first().expose().to_owned();
        assert!(texts.is_one(&good), "{}", good.len());
        let typo = |at: usize| {
            let other = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
            format!("{}{other}{}", &good[..at], &good[at + 1..])
        };
        for bad in [
            typo(20),
            typo(good.len() - 1),
            good[1..].to_owned(),
            format!("{good}A"),
            String::new(),
            good.replace("refresh", "rефresh"),
        ] {
            assert!(!texts.is_one(&bad), "{bad}");
        }
    }
}
