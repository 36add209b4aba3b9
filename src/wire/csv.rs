//! Texts in CSV (RFC 4180), which people open in spreadsheets.

/// A text that a spreadsheet does not take for a formula: names are what clients call things.
#[must_use]
pub fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_formula_in_a_spreadsheet() {
        for (text, written) in [("orders", "orders"), ("=1+1", "'=1+1"), ("@x", "'@x"), ("2026-11-01", "2026-11-01")] {
            assert_eq!(harmless(text), written);
        }
    }
}
