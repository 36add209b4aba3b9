//! The text of a key: `<prefix>_<live|test>_` + 12 id + 32 secret + 6 check, at most 64 characters.
//!
//! The id is public (logs, lists and people use it), the secret holds 190 bits, the check lets a
//! typing error be refused before anything is hashed or looked up. Keys that were made elsewhere
//! ("legacy") have any shape; only text that claims our prefix must keep our rules.
//!
//! Refuses to know whether a key exists or is good: that is `auth`.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::model::secret::SecretText;

/// Which of the two families a key belongs to: part of its text, so that a test key in a
/// production setting can be seen with the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// `live`
    Live,
    /// `test`
    Test,
}

impl Environment {
    /// As the text of a key has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "live" => Some(Self::Live),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// A key that was just made.
#[derive(Debug)]
pub struct GeneratedKey {
    /// The raw key: shown once, then only its hash remains.
    pub text: SecretText,
    /// Its public part: everything before the secret.
    pub key_id: String,
}

/// What stands for a key where a caller's certificate is the credential: its subject, in DER, behind
/// bytes that no header and no import can bring.
#[must_use]
pub fn of_certificate(subject: &[u8]) -> Vec<u8> {
    [b"\0certificate\0", subject].concat()
}

/// Text that cannot be a key, whatever the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedKey {
    /// It claims our prefix and has another length or other characters than a key of ours.
    #[error("it starts like a key of ours and has another shape")]
    Shape,
    /// Its check digits do not fit: somebody mistyped or cut it.
    #[error("its check digits do not fit")]
    Check,
    /// It is no key of ours, and too short, too long or not visible ASCII.
    #[error("it is not 8 to 256 characters of visible ASCII")]
    Legacy,
}

/// Text that may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyText<'t> {
    /// One of ours, its check digits right.
    Ours {
        /// Its public part.
        key_id: &'t str,
    },
    /// One that was made elsewhere: its shape says nothing.
    Legacy,
}

impl<'t> KeyText<'t> {
    /// Reads the text of a key. `prefix` is `auth.prefix`. Allocates nothing.
    ///
    /// # Errors
    /// What makes it impossible; worth no look-up.
    pub fn parse(prefix: &str, text: &'t [u8]) -> Result<Self, MalformedKey> {
        let Some(body) = strip_start(prefix, text) else {
            let length_fits = LEGACY_LENGTH.contains(&text.len());
            return if length_fits && text.iter().all(u8::is_ascii_graphic) {
                Ok(Self::Legacy)
            } else {
                Err(MalformedKey::Legacy)
            };
        };
        // All of them, not up to the first wrong one: without a way out the compiler compares
        // sixteen at a time, and nearly every key that comes here is whole.
        let in_alphabet = body.iter().fold(true, |legal, byte| legal & byte.is_ascii_alphanumeric());
        if body.len() != ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH || !in_alphabet {
            return Err(MalformedKey::Shape);
        }
        let (covered, check) = text.split_at(text.len() - CHECK_LENGTH);
        if check_digits(covered) != check {
            return Err(MalformedKey::Check);
        }
        let key_id = &covered[..covered.len() - SECRET_LENGTH];
        let key_id = std::str::from_utf8(key_id).map_err(|_| MalformedKey::Shape)?;
        Ok(Self::Ours { key_id })
    }
}

/// Makes a key from the kernel's randomness. `prefix` is `auth.prefix`: at most 8 of `[a-z0-9]`,
/// which keeps the text within 64 characters.
///
/// # Panics
/// When the kernel gives no randomness, which it always does once it has booted.
#[must_use]
pub fn generate(prefix: &str, environment: Environment) -> GeneratedKey {
    // Room for everything at once: a string that grows would leave copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(64));
    text.push_str(prefix);
    text.push('_');
    text.push_str(environment.as_str());
    text.push('_');
    push_random(&mut text, ID_LENGTH);
    let key_id = text.clone();
    push_random(&mut text, SECRET_LENGTH);
    for digit in check_digits(text.as_bytes()) {
        text.push(char::from(digit));
    }
    GeneratedKey { text: SecretText::new(std::mem::take(&mut *text)), key_id: String::clone(&key_id) }
}

/// What follows `<prefix>_live_` or `<prefix>_test_`; `None` when the text starts otherwise.
fn strip_start<'t>(prefix: &str, text: &'t [u8]) -> Option<&'t [u8]> {
    let rest = text.strip_prefix(prefix.as_bytes())?.strip_prefix(b"_")?;
    rest.strip_prefix(b"live_").or_else(|| rest.strip_prefix(b"test_"))
}

/// Appends `count` random base62 characters. Six bits at a time, and those above 61 are thrown
/// away: a remainder would make the first characters of the alphabet likelier than the others.
pub(super) fn push_random(text: &mut String, count: usize) {
    let mut pool = Zeroizing::new([0_u8; 64]);
    let mut wanted = count;
    while wanted > 0 {
        getrandom::fill(&mut pool[..]).expect("the kernel gives randomness once it has booted");
        for byte in pool.iter() {
            if let Some(character) = ALPHABET.get(usize::from(byte & 0x3F))
                && wanted > 0
            {
                text.push(char::from(*character));
                wanted -= 1;
            }
        }
    }
}

/// CRC-32 (IEEE) of `covered` in base62, zero-padded.
#[must_use]
pub fn check_digits(covered: &[u8]) -> [u8; CHECK_LENGTH] {
    let mut rest = crc32fast::hash(covered);
    let mut digits = [b'0'; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Base62: digits, upper case, lower case.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of the public id: enough that two never meet among a billion keys.
pub(super) const ID_LENGTH: usize = 12;

/// Characters of the secret: 190 bits.
pub(super) const SECRET_LENGTH: usize = 32;

/// Characters of the check: 62⁶ is more than 2³².
pub(super) const CHECK_LENGTH: usize = 6;

/// How long keys of others may be.
const LEGACY_LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Its check digits were made elsewhere: Python's `zlib.crc32` of the first 56 characters, in base62.
    const KNOWN: &str = "octroi_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgh0nXihg";

    #[test]
    fn check_digits_are_the_crc_in_base62() {
        // Reference: python3 zlib.crc32, divided by 62 over 0-9A-Za-z.
        assert_eq!(&check_digits(b"123456789"), b"3jZRME", "CRC-32/IEEE check value 0xCBF43926");
        assert_eq!(&check_digits(b""), b"000000");
    }

    #[test]
    fn texts_are_sorted_into_ours_legacy_and_malformed() {
        let known = KNOWN.to_owned();
        let ours = Ok(KeyText::Ours { key_id: "octroi_live_0123456789AB" });
        let mistyped = known.replace("MNOP", "MNPO");
        for (text, expected) in [
            (known.as_str(), ours),
            (&mistyped, Err(MalformedKey::Check)),
            (&known[..known.len() - 1], Err(MalformedKey::Shape)),
            (&format!("{known}0"), Err(MalformedKey::Shape)),
            (&known.replace('8', "-"), Err(MalformedKey::Shape)),
            ("octroi_live_", Err(MalformedKey::Shape)),
            ("octroi_test_short", Err(MalformedKey::Shape)),
            ("octroi_prod_0123456789", Ok(KeyText::Legacy)),
            ("sk_live_0123456789", Ok(KeyText::Legacy)),
            ("12345678", Ok(KeyText::Legacy)),
            ("1234567", Err(MalformedKey::Legacy)),
            ("", Err(MalformedKey::Legacy)),
            ("with a space", Err(MalformedKey::Legacy)),
            ("naïve-key-text", Err(MalformedKey::Legacy)),
            ("line\nbreak", Err(MalformedKey::Legacy)),
            (&"x".repeat(256), Ok(KeyText::Legacy)),
            (&"x".repeat(257), Err(MalformedKey::Legacy)),
        ] {
            assert_eq!(KeyText::parse("octroi", text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(KeyText::parse("acme", known.as_bytes()), Ok(KeyText::Legacy), "another house's key");
    }

    #[test]
    fn a_made_key_reads_back_and_is_never_made_twice() {
        let mut seen = std::collections::HashSet::new();
        for environment in [Environment::Live, Environment::Test] {
            for _ in 0..200 {
                let made = generate("octroiab", environment);
                let text = made.text.expose();
                assert_eq!(text.len(), 64);
                let parsed = KeyText::parse("octroiab", text.as_bytes());
                assert_eq!(parsed, Ok(KeyText::Ours { key_id: &made.key_id }));
                assert!(made.key_id.starts_with(&format!("octroiab_{}_", environment.as_str())));
                assert!(seen.insert(text.to_owned()));
            }
        }
    }

    #[test]
    fn every_character_of_the_alphabet_is_equally_likely() {
        let mut text = String::new();
        push_random(&mut text, 62 * 2_000);
        for character in ALPHABET {
            let count = text.bytes().filter(|byte| byte == character).count();
            // Mean 2,000, standard deviation 44; `% 62` of a byte would give 2,422 to the first eight.
            assert!((1_700..2_300).contains(&count), "{} came {count} times", char::from(*character));
        }
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_always_noticed(position in 12_usize..62, replacement in "[0-9A-Za-z]") {
            let known = KNOWN.to_owned();
            let mut other = known.clone();
            other.replace_range(position..=position, &replacement);
            let parsed = KeyText::parse("octroi", other.as_bytes());
            prop_assert_eq!(parsed.is_ok(), other == known);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = KeyText::parse("octroi", &text);
        }
    }
}
