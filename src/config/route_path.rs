//! The canonical form of a route's path: the form requests are brought to before they are
//! matched. A path in another form would never match, so it is refused here.

/// Why a path is not canonical.
#[derive(Debug)]
pub(super) struct PathDefect {
    pub(super) message: &'static str,
    pub(super) remedy: &'static str,
}

/// Whether `path` starts with `/` and has the one form that is matched and forwarded.
pub(super) fn check(path: &str) -> Result<(), PathDefect> {
    let defect = |message, remedy| Err(PathDefect { message, remedy });
    if !path.starts_with('/') {
        return defect("does not start with a slash", "write a path like \"/orders\"; \"/\" takes everything");
    }
    if path.len() > 1024 {
        return defect("is too long", "write at most 1024 characters");
    }
    if path.contains("//") {
        return defect("has an empty segment", "write single slashes");
    }
    if path != "/" && path.ends_with('/') {
        return defect("ends with a slash", "leave it out: a prefix matches whole segments, with and without one");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return defect("has a dot segment", "write the path it leads to");
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            check_escape(bytes.next(), bytes.next())?;
        } else if !is_path_byte(byte) {
            return defect("has a character that a path cannot hold", "percent-encode it, like \"%20\" for a blank");
        }
    }
    Ok(())
}

fn check_escape(high: Option<u8>, low: Option<u8>) -> Result<(), PathDefect> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let (Some(high_digit), Some(low_digit)) = (digit(high), digit(low)) else {
        return Err(PathDefect {
            message: "has a broken escape",
            remedy: "write two hex digits after each percent sign",
        });
    };
    let value = u8::try_from(high_digit * 16 + low_digit).unwrap_or(0);
    if matches!(value, b'/' | b'\\' | 0) {
        return Err(PathDefect {
            message: "has an encoded slash, backslash or zero byte",
            remedy: "write a prefix without it; `routes[].encoded_slash` lets requests carry one below it",
        });
    }
    if is_unreserved(value) {
        return Err(PathDefect {
            message: "escapes a character that needs none",
            remedy: "write letters, digits, `-`, `.`, `_` and `~` as they are",
        });
    }
    if [high, low].iter().flatten().any(u8::is_ascii_lowercase) {
        return Err(PathDefect { message: "has an escape in small letters", remedy: "write hex digits in capitals" });
    }
    Ok(())
}

/// RFC 3986 §2.3
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What stands in a path unescaped: `pchar` of RFC 3986 §3.3, and the slash.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"/!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_passes() {
        for path in ["/", "/orders", "/v1/orders", "/a.b/c~d", "/caf%C3%A9", "/a:b@c", "/..a", "/%20"] {
            assert!(check(path).is_ok(), "{path}");
        }
        for path in [
            "", "orders", "//", "/a//b", "/a/", "/a/.", "/./a", "/a/../b", "/..", "/a b", "/a?b", "/a#b", "/a\\b",
            "/{id}", "/café", "/%41", "/%7e", "/%c3%A9", "/%2F", "/%5C", "/%00", "/%", "/%2", "/%zz", "/\u{7f}",
        ] {
            assert!(check(path).is_err(), "{path}");
        }
    }
}
