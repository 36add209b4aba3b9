//! The text of a key.

use crate::crypto::key_text::{Environment, KeyText, MalformedKey, check_digits, generate};

/// The first byte picks the prefix, the rest is the text.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (seed, text) = super::split(data);
    let prefix = ["octroi", "a", "o8", "zzzzzzzz"][usize::from(seed % 4)];
    let parsed = KeyText::parse(prefix, text);
    assert_eq!(parsed, by_definition(prefix, text), "{:?}", text.escape_ascii().to_string());
    if seed == u8::MAX {
        let made = generate(prefix, if text.len().is_multiple_of(2) { Environment::Live } else { Environment::Test });
        let whole = made.text.expose();
        assert_eq!(KeyText::parse(prefix, whole.as_bytes()), Ok(KeyText::Ours { key_id: &made.key_id }));
        // Whatever one byte of it becomes, it is no key of ours any more.
        let at = text.first().map_or(0, |byte| usize::from(*byte)) % whole.len();
        let mut broken = whole.as_bytes().to_vec();
        broken[at] ^= text.get(1).copied().unwrap_or(1).max(1);
        assert!(!matches!(KeyText::parse(prefix, &broken), Ok(KeyText::Ours { .. })), "{broken:?}");
    }
}

/// The text as the contract describes it, read without haste.
fn by_definition<'t>(prefix: &str, text: &'t [u8]) -> Result<KeyText<'t>, MalformedKey> {
    let starts = ["live", "test"].map(|word| format!("{prefix}_{word}_"));
    let Some(start) = starts.iter().find(|start| text.starts_with(start.as_bytes())) else {
        let is_legacy = (8..=256).contains(&text.len()) && text.iter().all(|byte| (b'!'..=b'~').contains(byte));
        return if is_legacy { Ok(KeyText::Legacy) } else { Err(MalformedKey::Legacy) };
    };
    let body = &text[start.len()..];
    if body.len() != 12 + 32 + 6 || !body.iter().all(u8::is_ascii_alphanumeric) {
        return Err(MalformedKey::Shape);
    }
    let covered = &text[..text.len() - 6];
    if check_digits(covered) != text[covered.len()..] {
        return Err(MalformedKey::Check);
    }
    Ok(KeyText::Ours { key_id: std::str::from_utf8(&text[..start.len() + 12]).expect("all of it is ASCII") })
}
