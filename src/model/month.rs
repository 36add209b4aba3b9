//! A calendar month of UTC: what a bill is for.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

/// A month, written `2026-10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    first: Date,
    starts: Timestamp,
    ends: Timestamp,
}

/// Text that names no month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("write a month like 2026-10, from 1970-01 on")]
pub struct InvalidMonth;

impl Month {
    /// The month of a moment; none outside of the calendar.
    #[must_use]
    pub fn of(moment: Timestamp) -> Option<Self> {
        Self::beginning(moment.to_zoned(TimeZone::UTC).date().first_of_month())
    }

    /// Its first moment.
    #[must_use]
    pub fn starts(self) -> Timestamp {
        self.starts
    }

    /// The first moment of the next one.
    #[must_use]
    pub fn ends(self) -> Timestamp {
        self.ends
    }

    fn beginning(first: Date) -> Option<Self> {
        let at = |day: Date| day.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let (starts, ends) = (at(first)?, at(first.last_of_month().tomorrow().ok()?)?);
        (starts >= Timestamp::UNIX_EPOCH).then_some(Self { first, starts, ends })
    }
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let (year, month) = text.split_once('-').ok_or(InvalidMonth)?;
        if year.len() != 4 || month.len() != 2 || !digits(year) || !digits(month) {
            return Err(InvalidMonth);
        }
        let (year, month) = (year.parse().map_err(|_| InvalidMonth)?, month.parse().map_err(|_| InvalidMonth)?);
        Date::new(year, month, 1).ok().and_then(Self::beginning).ok_or(InvalidMonth)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_read_and_written_and_end_where_the_next_begins() {
        for (text, ends) in [
            ("2026-10", Some("2026-11-01T00:00:00Z")),
            ("2026-12", Some("2027-01-01T00:00:00Z")),
            ("2028-02", Some("2028-03-01T00:00:00Z")),
            ("1970-01", Some("1970-02-01T00:00:00Z")),
            ("1969-12", None),
            ("2026-13", None),
            ("2026-00", None),
            ("2026-1", None),
            ("26-10", None),
            ("2026-10-01", None),
            ("2026-+1", None),
            ("", None),
        ] {
            let month = text.parse::<Month>().ok();
            assert_eq!(month.map(|month| month.ends().to_string()).as_deref(), ends, "{text}");
            let Some(month) = month else { continue };
            assert_eq!(month.to_string(), text);
            assert_eq!(Month::of(month.starts()), Some(month));
            assert_eq!(Month::of(month.ends()).map(Month::starts), Some(month.ends()));
        }
    }
}
