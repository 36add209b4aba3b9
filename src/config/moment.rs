//! Points in time as people name them: RFC 3339, a day (UTC), or how long ago.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::units;

/// A point in time, as an argument names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This one.
    At(Timestamp),
    /// This long before now.
    Ago(Duration),
}

/// Text that names no point in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write a time like 2026-11-22T20:00:00Z, a day like 2026-11-22 (UTC), or how long ago, like -24h")]
pub struct InvalidMoment;

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(ago) = text.strip_prefix('-') {
            return units::parse_duration(ago).map(Self::Ago).ok_or(InvalidMoment);
        }
        // A day has ten characters; the parser would also take the day out of longer text.
        if text.len() == 10 {
            let day = text.parse::<Date>().map_err(|_| InvalidMoment)?;
            return start_of(day).map(Self::At).ok_or(InvalidMoment);
        }
        let at = text.parse::<Timestamp>().map_err(|_| InvalidMoment)?;
        (at >= Timestamp::UNIX_EPOCH).then_some(Self::At(at)).ok_or(InvalidMoment)
    }
}

impl Moment {
    /// The point it names when it is `now`; never before 1970.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH),
        }
    }
}

/// The hour a time lies in.
#[must_use]
pub fn hour_of(time: Timestamp) -> Timestamp {
    let seconds = time.as_second();
    Timestamp::from_second(seconds - seconds.rem_euclid(3600)).unwrap_or(time)
}

/// The first full hour at or after a time.
#[must_use]
pub fn hour_from(time: Timestamp) -> Timestamp {
    let hour = hour_of(time);
    if hour == time { hour } else { Timestamp::from_second(hour.as_second() + 3600).unwrap_or(time) }
}

/// The first moment of a time's month, UTC.
#[must_use]
pub fn month_of(time: Timestamp) -> Timestamp {
    let day = time.to_zoned(TimeZone::UTC).date().first_of_month();
    start_of(day).unwrap_or(time)
}

/// The first moment of the month after a time's, UTC.
#[must_use]
pub fn month_after(time: Timestamp) -> Timestamp {
    let last = time.to_zoned(TimeZone::UTC).date().last_of_month();
    last.tomorrow().ok().and_then(start_of).unwrap_or(time)
}

fn start_of(day: Date) -> Option<Timestamp> {
    let start = day.to_zoned(TimeZone::UTC).ok()?.timestamp();
    (start >= Timestamp::UNIX_EPOCH).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_name_them() {
        let now: Timestamp = "2026-11-22T20:15:30Z".parse().unwrap();
        for (text, at) in [
            ("2026-11-22T20:00:00Z", Some("2026-11-22T20:00:00Z")),
            ("2026-11-22T21:00:00+02:00", Some("2026-11-22T19:00:00Z")),
            ("2026-11-22T20:00:00.5Z", Some("2026-11-22T20:00:00.5Z")),
            ("2026-11-22", Some("2026-11-22T00:00:00Z")),
            ("2028-02-29", Some("2028-02-29T00:00:00Z")),
            ("-24h", Some("2026-11-21T20:15:30Z")),
            ("-7d", Some("2026-11-15T20:15:30Z")),
            ("-90000d", None),
            ("-36500d", Some("1970-01-01T00:00:00Z")),
            ("2026-02-29", None),
            ("2026-11-22T20:00:00", None),
            ("2026-11", None),
            ("1969-12-31", None),
            ("1969-12-31T23:59:59Z", None),
            ("24h", None),
            ("yesterday", None),
            ("-", None),
            ("", None),
        ] {
            let found = text.parse::<Moment>().ok().map(|moment| moment.at(now));
            assert_eq!(found, at.map(|at| at.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn hours_and_months_are_those_of_utc() {
        for (time, hour, next, month, after) in [
            (
                "2026-11-22T20:15:30.25Z",
                "2026-11-22T20:00:00Z",
                "2026-11-22T21:00:00Z",
                "2026-11-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
            (
                "2026-12-31T23:00:00Z",
                "2026-12-31T23:00:00Z",
                "2026-12-31T23:00:00Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                "2026-12-01T00:00:00.000001Z",
                "2026-12-01T00:00:00Z",
                "2026-12-01T01:00:00Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            let time: Timestamp = time.parse().unwrap();
            let found = [hour_of(time), hour_from(time), month_of(time), month_after(time)];
            assert_eq!(found.map(|time| time.to_string()), [hour, next, month, after], "{time}");
        }
    }
}
