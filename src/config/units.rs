//! Durations and sizes as people write them: `5s`, `1h30m`, `250ms`, `90d`; `8KiB`, `4MiB`, `0`.

use std::time::Duration;

/// What a duration looks like, for messages.
pub const DURATION_FORM: &str = "a whole number and a unit, like \"30s\" (units: ms, s, m, h, d)";

/// What a size looks like, for messages.
pub const SIZE_FORM: &str = "a whole number of bytes and a unit, like \"8KiB\" (units: B, KiB, MiB, GiB, TiB)";

/// The longest duration that is accepted. Deadlines are sums of these and must not overflow.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Reads a duration: one or more numbers, each with a unit; or a lone `0`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_digits(rest);
        let unit_length = after.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let milliseconds = number.parse::<u64>().ok()?.checked_mul(milliseconds_of(unit)?)?;
        total = total.checked_add(Duration::from_millis(milliseconds))?;
        rest = after;
    }
    (!text.is_empty() && total <= LONGEST).then_some(total)
}

/// Reads a size in bytes; a number without a unit is bytes.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_digits(text.trim());
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len()))
}

fn milliseconds_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, milliseconds) in [
            ("5s", Some(5_000)),
            ("250ms", Some(250)),
            ("10m", Some(600_000)),
            ("2h", Some(7_200_000)),
            ("90d", Some(7_776_000_000)),
            ("1h30m", Some(5_400_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            (" 5s ", Some(5_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("+5s", None),
            ("1.5s", None),
            ("5 s", None),
            ("5w", None),
            ("5S", None),
            ("36501d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("17B", Some(17)),
            ("8KiB", Some(8_192)),
            ("4MiB", Some(4_194_304)),
            ("4 GiB", Some(4_294_967_296)),
            ("1TiB", Some(1_099_511_627_776)),
            ("", None),
            ("KiB", None),
            ("8K", None),
            ("8KB", None),
            ("-1", None),
            ("1.5MiB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }
}
