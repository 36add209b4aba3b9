//! Text as visible ASCII, for headers.

use std::fmt::Write as _;

/// Percent-encoded outside visible ASCII. The percent sign is encoded too, so that decoding
/// always gives the text back.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_as_visible_ascii() {
        for (name, expected) in [
            ("Acme", "Acme"),
            ("Acme GmbH & Co", "Acme%20GmbH%20&%20Co"),
            ("Müller", "M%C3%BCller"),
            ("100%", "100%25"),
            ("a\r\nX-Evil: 1", "a%0D%0AX-Evil:%201"),
        ] {
            assert_eq!(encoded(name), expected);
        }
    }
}
