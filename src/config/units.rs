//! Spans of time and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units of time, in milliseconds.
const TIME: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of size, in bytes.
const SIZE: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Reads `250ms`, `5s`, `10m`, `24h`, `90d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a span of time");
    let (number, unit) = split(text).ok_or_else(invalid)?;
    let unit = TIME.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1;
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(invalid)
}

/// Writes a span of time in the largest unit that divides it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = TIME.iter().rev().find(|(_, unit)| millis.is_multiple_of(*unit) && millis > 0);
    unit.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not a size; write a number and a unit, like `8KiB` or `4MiB`");
        if text == "0" {
            return Ok(Self(0));
        }
        let (number, unit) = split(text).ok_or_else(invalid)?;
        let unit = SIZE.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1;
        number.checked_mul(unit).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE[..4].iter().rev().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match unit {
            Some((name, unit)) => write!(out, "{}{name}", self.0 / unit),
            None => write!(out, "{}B", self.0),
        }
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("10m", Some(600_000)),
            ("90d", Some(7_776_000_000)),
            ("0s", Some(0)),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("1.5s", None),
            ("5 weeks", None),
            ("99999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
        for text in ["250ms", "5s", "10m", "24h", "90d", "0s"] {
            let written = format_duration(parse_duration(text).unwrap());
            assert_eq!(parse_duration(&written), parse_duration(text), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("8KiB", Some(8192)),
            ("4MiB", Some(4 << 20)),
            ("1kB", Some(1000)),
            ("0", Some(0)),
            ("7B", Some(7)),
            ("8", None),
            ("8kb", None),
            ("KiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok(), bytes.map(ByteSize), "{text}");
        }
        assert_eq!(ByteSize(4 << 20).to_string(), "4MiB");
        assert_eq!(ByteSize(1001).to_string(), "1001B");
    }
}
