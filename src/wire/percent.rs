//! Text as visible ASCII, for headers.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What is encoded besides everything that is not ASCII. The percent sign too, so that decoding
/// always gives the text back.
const NOT_VISIBLE: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Percent-encoded outside visible ASCII.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NOT_VISIBLE).to_string()
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
