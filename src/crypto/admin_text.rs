//! The text of an admin token: `octroi_admin_` + 12 id + 32 secret + 6 check, as keys have them.
//!
//! The start is fixed and not `auth.prefix`: scanners of leaked secrets know it, and a change of
//! the prefix of keys locks no operator out.

use zeroize::Zeroizing;

use super::key_text::{CHECK_LENGTH, ID_LENGTH, SECRET_LENGTH, check_digits, push_random};
use super::pepper::sha256;
use crate::model::key::KeyHash;
use crate::model::secret::SecretText;

/// What every admin token starts with.
pub const START: &str = "octroi_admin_";

/// An admin token that was just made.
#[derive(Debug)]
pub struct GeneratedToken {
    /// Shown once.
    pub text: SecretText,
    /// Its public part: everything before the secret.
    pub token_id: String,
    /// What its row holds.
    pub hash: KeyHash,
}

/// Makes one from the kernel's randomness.
///
/// # Panics
/// When the kernel gives no randomness, which it always does once it has booted.
#[must_use]
pub fn generate() -> GeneratedToken {
    // Room for everything at once: a string that grows would leave copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(LENGTH));
    text.push_str(START);
    push_random(&mut text, ID_LENGTH);
    let token_id = String::clone(&text);
    push_random(&mut text, SECRET_LENGTH);
    for digit in check_digits(text.as_bytes()) {
        text.push(char::from(digit));
    }
    let hash = sha256(text.as_bytes());
    GeneratedToken { text: SecretText::new(std::mem::take(&mut *text)), token_id, hash }
}

/// The hash that the row of this text has; none: it is no admin token, and worth no look-up.
///
/// Plain SHA-256: the secret has 190 random bits, which no guessing reaches, so that a pepper would
/// add nothing but a way for a change of pepper to lock operators out.
#[must_use]
pub fn hash_of(text: &str) -> Option<KeyHash> {
    let body = text.strip_prefix(START)?;
    if text.len() != LENGTH || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (covered, check) = text.split_at(LENGTH - CHECK_LENGTH);
    (check_digits(covered.as_bytes()) == check.as_bytes()).then(|| sha256(text.as_bytes()))
}

/// The public part of a text, where somebody gave all of it: what is asked by id need not know the
/// secret. None: it is too long to be an id, and may be any secret.
#[must_use]
pub fn public_part(text: &str) -> Option<&str> {
    let id = START.len() + ID_LENGTH;
    if text.starts_with(START) && text.len() > id { text.get(..id) } else { (text.len() <= LONGEST_ID).then_some(text) }
}

/// A UUID with its hyphens.
const LONGEST_ID: usize = 36;

const LENGTH: usize = START.len() + ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_token_reads_back_and_nothing_else_does() {
        let made = generate();
        let text = made.text.expose();
        assert_eq!(text.len(), LENGTH);
        assert_eq!(hash_of(text), Some(made.hash));
        assert!(text.starts_with(&made.token_id) && made.token_id.len() == START.len() + ID_LENGTH);
        assert_ne!(generate().text.expose(), text);
        let mut wrong = text.to_owned();
        let last = if wrong.ends_with('0') { '1' } else { '0' };
        wrong.pop();
        wrong.push(last);
        for other in [wrong.as_str(), &text[1..], &text[..LENGTH - 1], &format!("{text}0"), "", START] {
            assert_eq!(hash_of(other), None, "{other}");
        }
        assert_eq!(hash_of(&text.replace(START, "octroi_ädmin")), None);
    }

    #[test]
    fn of_a_whole_token_the_public_part_is_taken() {
        let made = generate();
        let uuid = "00000000-0000-4000-8000-000000000000";
        for (text, part) in [
            (made.text.expose(), Some(made.token_id.as_str())),
            (&made.token_id, Some(made.token_id.as_str())),
            (uuid, Some(uuid)),
            ("octroi_admin_aÄÄÄÄÄÄÄÄÄÄÄÄÄÄ", None),
            ("octroi_live_abcdefghijklSECRETSECRETSECRETSECRETSECRET", None),
        ] {
            assert_eq!(public_part(text), part, "{text}");
        }
    }
}
