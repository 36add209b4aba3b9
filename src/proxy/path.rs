//! The canonical form of a path: what is matched, authorised and forwarded is one string.
//!
//! Percent-encoded unreserved characters are decoded and hex digits upper-cased (RFC 3986 §6.2.2).
//! What is still ambiguous afterwards is refused, because the upstream might read it otherwise
//! than we matched it: encoded NUL, dot segments in any spelling, backslashes, control and
//! non-ASCII bytes, broken escapes.
//!
//! Two ambiguities can be allowed by a route, and a route is found only by the path. The rule
//! that keeps this sound: the route is found on the form *as it would be forwarded if allowed*,
//! and then asked.
//! - `//` is merged to `/` before matching. A route without `merge_slashes` refuses the request.
//! - `%2F` and `%5C` stay as they are. Where they occur, the route is also looked up on the form
//!   with plain slashes in their place; only if both readings find the same route, and that has
//!   `encoded_slash`, does the request pass. So no reading of the path reaches a route with
//!   other rules.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathFault {
    /// Not two hex digits after `%`.
    #[error("a broken percent-escape")]
    BrokenEscape,
    /// `%00`
    #[error("an encoded NUL")]
    EncodedNul,
    /// `.` or `..`, plain, encoded, with parameters (`..;`), or with blanks behind (`..%20`).
    #[error("a dot segment")]
    DotSegment,
    /// A backslash, `#`, a control character or a byte outside ASCII, unencoded.
    #[error("a character that may not stand in a path")]
    IllegalCharacter,
    /// Not beginning with `/`.
    #[error("no leading slash")]
    NoLeadingSlash,
    /// `//`, and the route does not merge.
    #[error("an empty segment")]
    DoubleSlash,
    /// `%2F` or `%5C`, and the route does not take it.
    #[error("an encoded slash or backslash")]
    EncodedSlash,
    /// `;`, and without what follows it another route would serve.
    #[error("parameters that lead past a route")]
    Parameters,
}

/// A path in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    path: Cow<'a, str>,
    merged: bool,
    readings: Readings,
}

/// What some upstream may read in another way than it stands there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Readings {
    encoded_slash: bool,
    /// A `;`, plain or encoded.
    parameters: bool,
}

impl CanonicalPath<'_> {
    /// The path; borrowed when nothing had to be changed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Whether this is, byte for byte, what was sent.
    #[must_use]
    pub fn is_as_sent(&self) -> bool {
        matches!(self.path, Cow::Borrowed(_))
    }

    /// Whether empty segments were merged.
    #[must_use]
    pub fn was_merged(&self) -> bool {
        self.merged
    }

    /// The other reading of a path with `;` in it: without what follows in each segment, which Java's
    /// servers take for parameters and drop (`/admin;x` is `/admin` there).
    #[must_use]
    pub fn without_parameters(&self) -> Option<String> {
        self.readings.parameters.then(|| {
            let plain = self.with_plain_slashes();
            let path = plain.as_deref().unwrap_or(&self.path).replace("%3B", ";");
            let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
            let mut without = String::with_capacity(path.len());
            for name in names.filter(|name| !name.is_empty()) {
                without.extend(["/", name]);
            }
            if without.is_empty() || path.ends_with('/') {
                without.push('/');
            }
            without
        })
    }

    /// The other reading of a path with encoded slashes: as if they were plain.
    #[must_use]
    pub fn with_plain_slashes(&self) -> Option<String> {
        self.readings.encoded_slash.then(|| {
            let mut plain = self.path.replace("%2F", "/").replace("%5C", "/");
            while plain.contains("//") {
                plain = plain.replace("//", "/");
            }
            plain
        })
    }
}

/// Brings `path` (without its query) into its canonical form.
///
/// # Errors
/// What makes it ambiguous whatever the route allows.
pub fn canonicalise(path: &str) -> Result<CanonicalPath<'_>, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::NoLeadingSlash);
    }
    let bytes = path.as_bytes();
    let Some(first) = bytes.iter().position(|byte| CLASS[usize::from(*byte)] != PLAIN) else {
        if bytes.windows(2).any(|pair| pair == b"//") {
            return Ok(merge(path, Readings::default()));
        }
        return Ok(CanonicalPath { path: Cow::Borrowed(path), merged: false, readings: Readings::default() });
    };
    let (decoded, readings) = decode(path, first)?;
    if has_dot_segment(&decoded) {
        return Err(PathFault::DotSegment);
    }
    if decoded.contains("//") {
        return Ok(merge(&decoded, readings));
    }
    Ok(CanonicalPath { path: decoded, merged: false, readings })
}

/// Decodes what may be decoded; `first`: where the first byte stands that is not plain.
fn decode(path: &str, first: usize) -> Result<(Cow<'_, str>, Readings), PathFault> {
    let bytes = path.as_bytes();
    let mut readings = Readings::default();
    // Nothing is copied before the first change.
    let mut changed: Option<Vec<u8>> = None;
    let mut at = first;
    while at < bytes.len() {
        let byte = bytes[at];
        match CLASS[usize::from(byte)] {
            ILLEGAL => return Err(PathFault::IllegalCharacter),
            ESCAPE => {
                let value = escaped(bytes.get(at + 1..at + 3))?;
                readings.encoded_slash |= matches!(value, b'/' | b'\\');
                readings.parameters |= value == b';';
                let form = [b'%', HEX[usize::from(value >> 4)], HEX[usize::from(value & 15)]];
                let form = if is_unreserved(value) { &[value] as &[u8] } else { &form };
                if changed.is_none() && form != &bytes[at..at + 3] {
                    changed = Some(bytes[..at].to_vec());
                }
                if let Some(changed) = &mut changed {
                    changed.extend_from_slice(form);
                }
                at += 3;
            }
            class => {
                readings.parameters |= class == PARAMETER;
                if let Some(changed) = &mut changed {
                    changed.push(byte);
                }
                at += 1;
            }
        }
    }
    let decoded = match changed {
        None => Cow::Borrowed(path),
        Some(changed) => Cow::Owned(String::from_utf8(changed).map_err(|_| PathFault::IllegalCharacter)?),
    };
    Ok((decoded, readings))
}

fn escaped(digits: Option<&[u8]>) -> Result<u8, PathFault> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let value = match digits {
        Some(&[high, low]) => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
        _ => None,
    };
    match value {
        Some(0) => Err(PathFault::EncodedNul),
        Some(value) => Ok(value),
        None => Err(PathFault::BrokenEscape),
    }
}

/// Segments are looked for between all that an upstream might take for a slash.
fn has_dot_segment(path: &str) -> bool {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'.') {
        let before = &path.as_bytes()[..path.len() - rest.len() + at];
        let begins = before.ends_with(b"/") || before.ends_with(b"%2F") || before.ends_with(b"%5C");
        let after = &rest[at + 1..];
        let after = if after.first() == Some(&b'.') { &after[1..] } else { after };
        let after = without_blanks(after);
        let ends = matches!(after.first(), None | Some(b'/' | b';'))
            || after.starts_with(b"%2F")
            || after.starts_with(b"%5C")
            || after.starts_with(b"%3B");
        if begins && ends {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Without encoded blanks and control characters in front: some file systems ignore them at the
/// end of a name, so that `..%20` is `..` there.
fn without_blanks(mut text: &[u8]) -> &[u8] {
    while let [b'%', high, low, rest @ ..] = text
        && (matches!((high, low), (b'0' | b'1', _) | (b'2', b'0') | (b'7', b'F')))
    {
        text = rest;
    }
    text
}

fn merge(path: &str, readings: Readings) -> CanonicalPath<'static> {
    let mut merged = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    CanonicalPath { path: Cow::Owned(merged), merged: true, readings }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const HEX: [u8; 16] = *b"0123456789ABCDEF";

/// Needs no second look.
const PLAIN: u8 = 0;
/// `.`: may make a dot segment.
const DOT: u8 = 1;
/// `%`
const ESCAPE: u8 = 2;
/// May not stand in a path.
const ILLEGAL: u8 = 3;
/// `;`: some take what follows for parameters.
const PARAMETER: u8 = 4;

static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte <= 0x20 || byte >= 0x7F {
            class[byte] = ILLEGAL;
        }
        byte += 1;
    }
    class[b'.' as usize] = DOT;
    class[b'%' as usize] = ESCAPE;
    class[b';' as usize] = PARAMETER;
    class[b'\\' as usize] = ILLEGAL;
    class[b'#' as usize] = ILLEGAL;
    class[b'?' as usize] = ILLEGAL;
    class
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_form_for_all_spellings() {
        for (sent, form) in [
            ("/", "/"),
            ("/orders/7", "/orders/7"),
            ("/%6frders/%7Euser", "/orders/~user"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a.b/.c/..d/e..", "/a.b/.c/..d/e.."),
            ("/..%20d/e%20..", "/..%20d/e%20.."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%61%2Db%2e.txt", "/a-b..txt"),
            ("/sum=a+b,c@d:e!$&'()*", "/sum=a+b,c@d:e!$&'()*"),
            ("/%25%32%66", "/%252f"),
        ] {
            let canonical = canonicalise(sent).unwrap();
            assert_eq!(canonical.as_str(), form, "{sent}");
            assert_eq!(canonical.is_as_sent(), sent == form, "nothing is copied unless something changes");
            assert_eq!((canonical.was_merged(), canonical.with_plain_slashes()), (false, None));
        }
    }

    #[test]
    fn what_stays_ambiguous_is_refused() {
        use PathFault::{BrokenEscape, DotSegment, EncodedNul, IllegalCharacter, NoLeadingSlash};
        for (sent, fault) in [
            ("", NoLeadingSlash),
            ("a", NoLeadingSlash),
            ("*", NoLeadingSlash),
            ("/a%00b", EncodedNul),
            ("/%", BrokenEscape),
            ("/%2", BrokenEscape),
            ("/%zz", BrokenEscape),
            ("/%+1", BrokenEscape),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a/..;/b", DotSegment),
            ("/a/..%3B/b", DotSegment),
            ("/a/..%2fb", DotSegment),
            ("/a%5c..%5Cb", DotSegment),
            ("/a/..%20/b", DotSegment),
            ("/a/.%09%0d", DotSegment),
            ("/a/..%20;/b", DotSegment),
            ("/a//../b", DotSegment),
            ("/a\\b", IllegalCharacter),
            ("/a#b", IllegalCharacter),
            ("/caf\u{e9}", IllegalCharacter),
            ("/a b", IllegalCharacter),
            ("/a\u{7f}", IllegalCharacter),
        ] {
            assert_eq!(canonicalise(sent), Err(fault), "{sent:?}");
        }
    }

    #[test]
    fn what_a_route_may_allow_is_marked() {
        for (sent, form, merged, plain) in [
            ("/a//b", "/a/b", true, None),
            ("//a///b//", "/a/b/", true, None),
            ("/%61//b.c", "/a/b.c", true, None),
            ("/a%2fb", "/a%2Fb", false, Some("/a/b")),
            ("/a%5cb", "/a%5Cb", false, Some("/a/b")),
            ("/a%2f%2F/b", "/a%2F%2F/b", false, Some("/a/b")),
        ] {
            let canonical = canonicalise(sent).unwrap();
            assert_eq!(canonical.as_str(), form, "{sent}");
            assert_eq!(canonical.was_merged(), merged, "{sent}");
            assert_eq!(canonical.with_plain_slashes().as_deref(), plain, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_stable_and_legal(tail in "[a-zA-Z0-9%./;\\\\~_-]{0,40}") {
            let sent = format!("/{tail}");
            if let Ok(first) = canonicalise(&sent) {
                let again = canonicalise(first.as_str()).expect("a canonical path is accepted");
                prop_assert!(again.is_as_sent());
                prop_assert_eq!(again.as_str(), first.as_str());
                prop_assert!(!first.as_str().contains("//"));
                let plain = first.with_plain_slashes().unwrap_or_else(|| first.as_str().to_owned());
                prop_assert!(plain.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }
    }
}
