//! Header lines: from parsed bytes into a map, from a map into bytes; lengths; the end of a head.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most lines that a head or a trailer section may have.
pub const LINES_MAX: usize = 100;

/// Where the head in `bytes` ends, behind its empty line, by whatever line ends; the first `seen`
/// bytes were looked at before and have no such end.
#[must_use]
pub fn head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3).min(bytes.len());
    let mut before = None;
    for end in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let end = from + end;
        let is_empty = |before: usize| matches!(&bytes[before + 1..end], b"" | b"\r");
        if before.is_some_and(is_empty) {
            return Some(end + 1);
        }
        before = Some(end);
    }
    None
}

/// Whether every line of `head` ends with CR LF. A bare LF ends a line for some readers and is a
/// part of it for others.
#[must_use]
pub fn has_whole_line_ends(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|end| end > 0 && head[end - 1] == b'\r')
}

/// What the lines of a head say about its message and its connection, noted while they are read:
/// asking the map afterwards costs a look-up for each question.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a head that have nothing to do with each other")]
pub(super) struct Facts {
    /// Lines of `Content-Length`.
    pub(super) lengths: usize,
    /// Lines of `Transfer-Encoding`.
    pub(super) codings: usize,
    /// One of those was nothing but `chunked`.
    pub(super) chunked: bool,
    /// `Connection: close`
    pub(super) close: bool,
    /// `Connection: keep-alive`
    pub(super) keep_alive: bool,
    /// `Expect: 100-continue`
    pub(super) expects: bool,
    /// Another `Expect`.
    pub(super) expects_more: bool,
    /// Lines of `Upgrade`.
    pub(super) upgrades: usize,
    /// One of those was nothing but `websocket`.
    pub(super) websocket: bool,
    /// `Connection: upgrade`
    pub(super) upgrade: bool,
    /// `TE: trailers`
    pub(super) takes_trailers: bool,
}

impl Facts {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match *name {
            CONTENT_LENGTH => self.lengths += 1,
            TRANSFER_ENCODING => {
                self.codings += 1;
                self.chunked |= value.as_bytes().eq_ignore_ascii_case(b"chunked");
            }
            CONNECTION => {
                self.close |= has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
                self.upgrade |= has_token(value, b"upgrade");
            }
            EXPECT if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => self.expects = true,
            EXPECT => self.expects_more = true,
            UPGRADE => {
                self.upgrades += 1;
                self.websocket |= value.as_bytes().eq_ignore_ascii_case(b"websocket");
            }
            TE => self.takes_trailers |= has_token(value, b"trailers"),
            _ => {}
        }
    }

    /// Whether both sides may go on with WebSocket behind this head (RFC 6455 §4.1): its only
    /// `Upgrade`, meant for the next hop.
    pub(super) fn upgrades_to_websocket(&self) -> bool {
        self.upgrades == 1 && self.websocket && self.upgrade
    }
}

/// The lines of a head as a map, and what they say; the values share `head`, which the lines were
/// parsed from. `None`: a line is none after all, which the parser has ruled out.
pub(super) fn to_map(head: &Bytes, lines: &[httparse::Header<'_>]) -> Option<(HeaderMap, Facts)> {
    let mut headers = HeaderMap::with_capacity(lines.len() + SPARE);
    let mut facts = Facts::default();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value)).ok()?;
        facts.note(&name, &value);
        headers.append(name, value);
    }
    Some((headers, facts))
}

/// Room for the headers that are added on the way, so that the map is allocated once.
const SPARE: usize = 8;

/// The length that `Content-Length` announces: one, or several that say the same (RFC 9112 §6.3).
///
/// # Errors
/// Something else stands there.
pub fn length(headers: &HeaderMap) -> Result<Option<u64>, BadLength> {
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        for number in line.as_bytes().split(|byte| *byte == b',') {
            let number = decimal(number.trim_ascii()).ok_or(BadLength)?;
            if length.is_some_and(|length| length != number) {
                return Err(BadLength);
            }
            length = Some(number);
        }
    }
    Ok(length)
}

/// A `Content-Length` that is none, or two that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength;

/// Digits only: no sign, no spaces, no overflow.
#[must_use]
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a comma-separated list has `token`, in whichever case.
#[must_use]
pub fn has_token(value: &HeaderValue, token: &[u8]) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// Writes a line.
pub fn write_line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes a decimal number.
pub fn write_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line_however_it_comes() {
        for (bytes, rest) in [
            ("A\r\nB: c\r\n\r\n", Some("")),
            ("A\r\nB: c\r\n\r\nrest", Some("rest")),
            ("A\nB: c\n\nrest\n\n", Some("rest\n\n")),
            ("A\r\nB: c\n\r\n", Some("")),
            ("A\r\nB: c\r\n", None),
            ("A\r\nB: c\r\n\r", None),
            ("\r\n", None),
            ("", None),
        ] {
            let end = head_end(bytes.as_bytes(), 0);
            assert_eq!(end.map(|end| &bytes[end..]), rest, "{bytes:?}");
            let fed = (0..=bytes.len()).find_map(|end| head_end(&bytes.as_bytes()[..end], end.saturating_sub(1)));
            assert_eq!(end, fed, "{bytes:?} byte by byte");
        }
    }

    #[test]
    fn lengths_are_digits_that_agree() {
        for (lines, expected) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["5", "5"], Ok(Some(5))),
            (&["5, 5"], Ok(Some(5))),
            (&["18446744073709551615"], Ok(Some(u64::MAX))),
            (&["18446744073709551616"], Err(BadLength)),
            (&["5", "6"], Err(BadLength)),
            (&["5,6"], Err(BadLength)),
            (&["5,"], Err(BadLength)),
            (&[""], Err(BadLength)),
            (&["+5"], Err(BadLength)),
            (&["-5"], Err(BadLength)),
            (&["0x5"], Err(BadLength)),
            (&["5 5"], Err(BadLength)),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_LENGTH, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(length(&headers), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_written_as_it_is_read(number: u64) {
            let mut out = BytesMut::new();
            write_decimal(&mut out, number);
            prop_assert_eq!(decimal(&out), Some(number));
            let text = number.to_string();
            prop_assert_eq!(&out[..], text.as_bytes());
        }
    }
}
