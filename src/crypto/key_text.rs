//! The text of a key: `<prefix>_<live|test>_` + 12 of id + 32 of secret + 6 of check.
//!
//! All in base62, so that a double click selects the whole. The check is the CRC-32 (IEEE) of
//! every byte before it: a typo is refused before anything is hashed or looked up, and a scanner
//! of leaked secrets can tell a key from noise. It is no security: the 32 characters (190 bits)
//! of secret are. The id is public: logs, lists and people use it.

use std::fmt;
use std::str::FromStr;

use crate::model::secret::SecretText;

/// Digits of base62, in their order.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 32;
const CHECK_LENGTH: usize = 6;

/// The longest prefix: a key text never passes 64 characters.
pub const MAX_PREFIX_LENGTH: usize = 8;

/// Lengths of legacy keys, which have any other shape.
const LEGACY_LENGTHS: std::ops::RangeInclusive<usize> = 8..=256;

/// Whether a key is for production or for trying things out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEnvironment {
    /// `live`
    Live,
    /// `test`
    Test,
}

impl KeyEnvironment {
    /// As the text holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for KeyEnvironment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for KeyEnvironment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err(format!("`{text}` is neither `live` nor `test`")),
        }
    }
}

/// A fresh key: its text and its public id.
#[derive(Debug)]
pub struct GeneratedKey {
    /// The whole text, to be shown once.
    pub text: SecretText,
    /// Everything before the secret: `api_keys.key_id`.
    pub key_id: String,
}

/// Makes a key.
///
/// # Panics
/// When the kernel gives no randomness, which it does once it has booted.
#[must_use]
pub fn generate(prefix: &str, environment: KeyEnvironment) -> GeneratedKey {
    let mut text = format!("{prefix}_{environment}_");
    push_random(&mut text, ID_LENGTH);
    let key_id = text.clone();
    push_random(&mut text, SECRET_LENGTH);
    let check = check_digits(text.as_bytes());
    text.push_str(std::str::from_utf8(&check).expect("base62 is ASCII"));
    GeneratedKey { text: SecretText::new(text), key_id }
}

/// What a presented text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyShape {
    /// One of ours, with a good check.
    Octroi,
    /// From before: any 8-256 visible ASCII characters.
    Legacy,
    /// Neither.
    Malformed,
}

/// Tells what a presented text is, by shape alone.
#[must_use]
pub fn shape(prefix: &str, text: &[u8]) -> KeyShape {
    if let Some(body) = strip_prefix(prefix, text) {
        return if is_ours(text, body) { KeyShape::Octroi } else { KeyShape::Malformed };
    }
    if LEGACY_LENGTHS.contains(&text.len()) && text.iter().all(u8::is_ascii_graphic) {
        return KeyShape::Legacy;
    }
    KeyShape::Malformed
}

/// What follows `<prefix>_live_` or `<prefix>_test_`.
fn strip_prefix<'a>(prefix: &str, text: &'a [u8]) -> Option<&'a [u8]> {
    let rest = text.strip_prefix(prefix.as_bytes())?.strip_prefix(b"_")?;
    rest.strip_prefix(b"live_").or_else(|| rest.strip_prefix(b"test_"))
}

fn is_ours(text: &[u8], body: &[u8]) -> bool {
    if body.len() != ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH || !body.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    let (before, check) = text.split_at(text.len() - CHECK_LENGTH);
    check == check_digits(before)
}

/// CRC-32 in base62, most significant digit first, zero-padded.
fn check_digits(text: &[u8]) -> [u8; CHECK_LENGTH] {
    let mut value = crc32fast::hash(text);
    let mut digits = [b'0'; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    digits
}

fn push_random(text: &mut String, count: usize) {
    /// The largest multiple of 62 in a byte: bytes from it on are thrown away, so that no digit
    /// is likelier than another.
    const FAIR: u8 = 248;
    let mut pool = [0; 64];
    let mut left = count;
    while left > 0 {
        getrandom::fill(&mut pool).expect("the kernel gives randomness once it has booted");
        for byte in pool.iter().filter(|byte| **byte < FAIR).take(left) {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_generated_key_is_ours_and_names_its_id() {
        for environment in [KeyEnvironment::Live, KeyEnvironment::Test] {
            let key = generate("octroi", environment);
            let text = key.text.expose();
            assert_eq!(text.len(), "octroi_live_".len() + 50);
            assert!(text.len() <= 64);
            assert_eq!(shape("octroi", text.as_bytes()), KeyShape::Octroi);
            assert!(text.starts_with(&key.key_id));
            assert_eq!(key.key_id.len(), "octroi_live_".len() + 12);
        }
    }

    #[test]
    fn the_check_is_crc_32_in_base62() {
        // CRC-32("123456789") = 0xCBF43926 (the IEEE check value) = 3421780262 = 3jZVCo in base62.
        let mut value = 0_u64;
        for digit in check_digits(b"123456789") {
            value = value * 62 + ALPHABET.iter().position(|letter| *letter == digit).unwrap() as u64;
        }
        assert_eq!(value, 0xCBF4_3926);
    }

    #[test]
    fn shapes() {
        let key = generate("octroi", KeyEnvironment::Live).text.expose().to_owned();
        let mut typo = key.clone().into_bytes();
        typo[20] = if typo[20] == b'a' { b'b' } else { b'a' };
        for (text, expected) in [
            (key.as_bytes(), KeyShape::Octroi),
            (&typo, KeyShape::Malformed),
            (&key.as_bytes()[..61], KeyShape::Malformed),
            (b"octroi_live_", KeyShape::Malformed),
            (b"octroi_beta_something", KeyShape::Legacy),
            (b"other_live_something", KeyShape::Legacy),
            (b"12345678", KeyShape::Legacy),
            (b"1234567", KeyShape::Malformed),
            (b"with space", KeyShape::Malformed),
            ("ünïcödé-key".as_bytes(), KeyShape::Malformed),
            (&[b'x'; 256], KeyShape::Legacy),
            (&[b'x'; 257], KeyShape::Malformed),
        ] {
            assert_eq!(shape("octroi", text), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn any_single_changed_character_is_noticed(position in 12_usize..62, letter in "[0-9A-Za-z]") {
            let key = generate("octroi", KeyEnvironment::Live).text.expose().to_owned();
            let mut changed = key.clone().into_bytes();
            changed[position] = letter.as_bytes()[0];
            let same = changed == key.as_bytes();
            prop_assert_eq!(shape("octroi", &changed) == KeyShape::Octroi, same);
        }
    }
}
