//! Paths as they may be told: what looks like a key of ours loses its secret.
//!
//! A credential in a path is looked for by nobody, so it can only be there by mistake; and a
//! mistake of a caller's must not end in our logs. The public part stays: it says whose key to
//! revoke.

use std::borrow::Cow;

use memchr::memmem;

/// What stands between a key's prefix and its id, and between an admin token's and its own.
const MARKS: [&[u8]; 3] = [b"_live_", b"_test_", b"_admin_"];

/// The public part of what follows; the rest is secret and check digits.
const ID_LENGTH: usize = 12;

/// What stands for what was taken out.
const MASK: &str = "[masked]";

/// The path, without secrets of keys.
#[must_use]
pub fn masked(path: &str) -> Cow<'_, str> {
    let Some(mut at) = secret(path, 0) else { return Cow::Borrowed(path) };
    let (mut text, mut told) = (String::with_capacity(path.len()), 0);
    loop {
        text.push_str(&path[told..at.start]);
        text.push_str(MASK);
        told = at.end;
        match secret(path, told) {
            Some(next) => at = next,
            None => break,
        }
    }
    text.push_str(&path[told..]);
    Cow::Owned(text)
}

/// Where the first secret lies, from `from` on.
fn secret(path: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let bytes = &path.as_bytes()[from..];
    let of_mark = |mark: &[u8]| {
        memmem::find_iter(bytes, mark).find_map(|found| {
            let start = found + mark.len();
            let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            (length > ID_LENGTH).then(|| from + start + ID_LENGTH..from + start + length)
        })
    };
    MARKS.iter().filter_map(|mark| of_mark(mark)).chain(token(bytes, from)).min_by_key(|range| range.start)
}

/// Where the first JWT lies: base64url of an object, and two dots. Its header is no secret.
fn token(bytes: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    memmem::find_iter(bytes, b"eyJ").find_map(|start| {
        let text = &bytes[start..];
        let text = &text[..text.iter().take_while(is_part).count()];
        let mut dots = memchr::memchr_iter(b'.', text);
        let (first, _) = (dots.next()?, dots.next()?);
        Some(from + start + first + 1..from + start + text.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_path_keeps_its_public_part_only() {
        for (path, told) in [
            ("/a/b", "/a/b"),
            ("/tests_live_here/a", "/tests_live_here/a"),
            ("/octroi_live_abcdefghijkl", "/octroi_live_abcdefghijkl"),
            ("/octroi_live_abcdefghijklSECRETSECRET123456/x", "/octroi_live_abcdefghijkl[masked]/x"),
            ("/k_test_abcdefghijklS/k_live_abcdefghijklT", "/k_test_abcdefghijkl[masked]/k_live_abcdefghijkl[masked]"),
            ("/octroi_admin_abcdefghijklSECRET", "/octroi_admin_abcdefghijkl[masked]"),
            ("/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln/x", "/t/eyJhbGciOiJIUzI1NiJ9.[masked]/x"),
            ("/eyJ/a.b", "/eyJ/a.b"),
            ("/a_live_b_live_abcdefghijklS", "/a_live_b_live_abcdefghijkl[masked]"),
        ] {
            assert_eq!(masked(path), told);
        }
    }
}
