//! Times as text: RFC 3339, UTC, microseconds, so that the order of the text is that of time.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The form of the columns: `2026-11-22T20:00:00.000000Z`.
pub(super) fn text(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Reads the form of the columns, and what people's SQL leaves there: another offset, or the
/// `YYYY-MM-DD HH:MM:SS` of CURRENT_TIMESTAMP, `datetime()` and `date()`, which is UTC.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse() {
        return Some(moment);
    }
    text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_sql_writes_is_read() {
        for (written, canonical) in [
            ("2026-11-22T20:00:00.123456Z", Some("2026-11-22T20:00:00.123456Z")),
            ("2026-11-22T22:00:00+02:00", Some("2026-11-22T20:00:00.000000Z")),
            ("2026-11-22 20:00:00", Some("2026-11-22T20:00:00.000000Z")),
            ("2026-11-22 20:00:00.5", Some("2026-11-22T20:00:00.500000Z")),
            ("2026-11-22", Some("2026-11-22T00:00:00.000000Z")),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse(written).map(text).as_deref(), canonical, "{written}");
        }
    }
}
