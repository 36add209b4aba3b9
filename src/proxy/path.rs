//! One canonical path: what is matched is what is forwarded.
//!
//! Percent-encoded unreserved characters (RFC 3986 §2.3) are decoded and hex digits upper-cased;
//! nothing else is changed. What is still ambiguous afterwards, because the upstream might read
//! it otherwise than we do, is refused: encoded slashes, backslashes and NUL, dot segments,
//! backslashes, doubled slashes, broken escapes, anything that is not ASCII.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// `%` without two hex digits.
    #[error("the path has a broken percent-encoding")]
    BrokenEscape,
    /// `%2F` or `%5C` on a route that does not take them.
    #[error("the path has an encoded slash or backslash")]
    EncodedSlash,
    /// `%00`.
    #[error("the path has an encoded NUL")]
    EncodedNul,
    /// `.` or `..` as a segment, also encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `//` on a route that does not merge them.
    #[error("the path has an empty segment (two slashes)")]
    DoubleSlash,
    /// `\`, a control character, anything beyond ASCII.
    #[error("the path has a character that must be percent-encoded")]
    Character,
}

/// A path in its one form. Borrowed where it had that form already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    text: Cow<'a, str>,
    encoded_slash: bool,
    double_slash: bool,
}

impl<'a> CanonicalPath<'a> {
    /// Brings a path into its form, or refuses it.
    pub fn of(path: &'a str) -> Result<Self, PathError> {
        let (text, encoded_slash) = if path.bytes().all(is_plain) {
            (Cow::Borrowed(path), false)
        } else {
            let (text, encoded_slash) = decode(path.as_bytes())?;
            (if text == path { Cow::Borrowed(path) } else { Cow::Owned(text) }, encoded_slash)
        };
        let mut segments = text.split('/').skip(1).peekable();
        let mut double_slash = false;
        while let Some(segment) = segments.next() {
            if segment == "." || segment == ".." {
                return Err(PathError::DotSegment);
            }
            double_slash |= segment.is_empty() && segments.peek().is_some();
        }
        Ok(Self { text, encoded_slash, double_slash })
    }

    /// The form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the caller's own bytes had this form already.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        matches!(self.text, Cow::Borrowed(_))
    }

    /// Applies a route's two switches. Merging may lead to another route: whoever merges must
    /// look the route up again and refuse when it differs.
    pub fn for_route(self, merge_slashes: bool, encoded_slash: bool) -> Result<Self, PathError> {
        if self.encoded_slash && !encoded_slash {
            return Err(PathError::EncodedSlash);
        }
        if !self.double_slash {
            return Ok(self);
        }
        if !merge_slashes {
            return Err(PathError::DoubleSlash);
        }
        let mut merged = String::with_capacity(self.text.len());
        for letter in self.text.chars() {
            if letter != '/' || !merged.ends_with('/') {
                merged.push(letter);
            }
        }
        Ok(Self { text: Cow::Owned(merged), encoded_slash: self.encoded_slash, double_slash: false })
    }

    /// Whether slashes stand together.
    #[must_use]
    pub fn has_double_slash(&self) -> bool {
        self.double_slash
    }
}

/// Characters that stand for themselves: visible ASCII but `%` and `\`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%' && byte != b'\\' && byte != b'#'
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn decode(path: &[u8]) -> Result<(String, bool), PathError> {
    let mut text = String::with_capacity(path.len());
    let mut encoded_slash = false;
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            if !is_plain(*byte) {
                return Err(PathError::Character);
            }
            text.push(char::from(*byte));
            continue;
        }
        let Some((digits, after)) = rest.split_first_chunk::<2>() else { return Err(PathError::BrokenEscape) };
        rest = after;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (high, low) else { return Err(PathError::BrokenEscape) };
        match u8::try_from(high * 16 + low).map_err(|_| PathError::BrokenEscape)? {
            0 => return Err(PathError::EncodedNul),
            decoded if is_unreserved(decoded) => text.push(char::from(decoded)),
            decoded => {
                encoded_slash |= decoded == b'/' || decoded == b'\\';
                text.push('%');
                text.extend(digits.map(|digit| char::from(digit.to_ascii_uppercase())));
            }
        }
    }
    Ok((text, encoded_slash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(path: &str, merge: bool, encoded: bool) -> Result<String, PathError> {
        CanonicalPath::of(path)?.for_route(merge, encoded).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn one_form_or_none() {
        use PathError::{BrokenEscape, Character, DotSegment, DoubleSlash, EncodedNul, EncodedSlash};
        for (path, expected) in [
            ("/", Ok("/")),
            ("/a/b/", Ok("/a/b/")),
            ("/%61%2D%7e", Ok("/a-~")),
            ("/caf%c3%a9", Ok("/caf%C3%A9")),
            ("/a;b=c/d:e@f", Ok("/a;b=c/d:e@f")),
            ("/%25", Ok("/%25")),
            ("/...", Ok("/...")),
            ("/.well-known", Ok("/.well-known")),
            ("/a/../b", Err(DotSegment)),
            ("/a/.", Err(DotSegment)),
            ("/%2e%2E/b", Err(DotSegment)),
            ("/.%2e", Err(DotSegment)),
            ("/a%2Fb", Err(EncodedSlash)),
            ("/a%5cb", Err(EncodedSlash)),
            ("/a%00", Err(EncodedNul)),
            ("/a%zz", Err(BrokenEscape)),
            ("/a%2", Err(BrokenEscape)),
            ("/a\\b", Err(Character)),
            ("/a//b", Err(DoubleSlash)),
            ("//", Err(DoubleSlash)),
            ("/é", Err(Character)),
        ] {
            assert_eq!(canonical(path, false, false), expected.map(str::to_owned), "{path}");
        }
        assert_eq!(canonical("//a///b//", true, false).as_deref(), Ok("/a/b/"));
        assert_eq!(canonical("/a%2fb", false, true).as_deref(), Ok("/a%2Fb"));
    }

    #[test]
    fn what_has_its_form_is_borrowed() {
        assert!(CanonicalPath::of("/orders/7").unwrap().is_unchanged());
        assert!(CanonicalPath::of("/caf%C3%A9").unwrap().is_unchanged());
        assert!(!CanonicalPath::of("/%61").unwrap().is_unchanged());
    }

    proptest! {
        #[test]
        fn the_form_of_a_form_is_itself(path in "/[ -~]{0,40}") {
            if let Ok(once) = canonical(&path, true, true) {
                prop_assert_eq!(canonical(&once, false, true), Ok(once.clone()));
                prop_assert!(!once.contains("//") && !once.split('/').any(|segment| segment == ".."));
            }
        }
    }
}
