//! Quotas as people write them (`1000000/month`), and the windows of the calendar they count in.
//!
//! A window is a piece of time between two instants, its end not included. Windows of one period
//! follow each other without gap or overlap, whatever the zone's clocks do: each begins where its
//! day begins there, and a day that begins twice begins the first time.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// So many units in each window of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quota {
    /// How many.
    pub units: NonZeroU64,
    /// In each of which windows.
    pub period: Period,
}

/// Which windows: days or months, of which zone, months from which day on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    every: Every,
    zone: TimeZone,
}

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Every {
    Day,
    /// From this day of the month on, or from the month's last day where it is shorter.
    Month(i8),
}

/// A piece of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// It begins here.
    pub start: Timestamp,
    /// The next one begins here.
    pub end: Timestamp,
}

impl Window {
    /// Whether `moment` lies in it.
    #[must_use]
    pub fn contains(&self, moment: Timestamp) -> bool {
        self.start <= moment && moment < self.end
    }

    /// Its length in whole seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        u64::try_from(self.end.as_second() - self.start.as_second()).unwrap_or(0)
    }

    /// Whole seconds from `moment` to its end, rounded up, at least 1.
    #[must_use]
    pub fn seconds_left(&self, moment: Timestamp) -> u64 {
        let whole = self.end.as_second() - moment.as_second();
        let begun = i64::from(self.end.subsec_nanosecond() > moment.subsec_nanosecond());
        u64::try_from(whole + begun).unwrap_or(0).max(1)
    }
}

/// Text that is not a quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a quota; write a whole number and `day` or `month`, like `1000000/month`, and behind an @ the day \
     that months begin on (1 to 31), or a time zone, or both: `1000000/month@15@Europe/Berlin`"
)]
pub struct InvalidQuota(String);

impl Quota {
    /// The most units: the largest integer of RFC 9651, in which callers are told.
    pub const MAX_UNITS: u64 = 999_999_999_999_999;
}

impl Period {
    /// The window that `moment` lies in.
    #[must_use]
    pub fn window(&self, moment: Timestamp) -> Window {
        let mut date = self.first_of(moment.to_zoned(self.zone.clone()).date());
        // At most one step: the date where clocks are set back over midnight is yesterday's again.
        while self.start_of(date) > moment {
            date = self.before(date);
        }
        loop {
            let next = self.after(date);
            let window = Window { start: self.start_of(date), end: self.start_of(next) };
            // Windows may be empty where a zone skipped a day.
            if moment < window.end || next == date {
                return window;
            }
            date = next;
        }
    }

    /// The day on which the window of `date` begins.
    fn first_of(&self, date: Date) -> Date {
        match self.every {
            Every::Day => date,
            Every::Month(day) => {
                let here = on_day(date, day);
                if here <= date { here } else { self.before(here) }
            }
        }
    }

    fn before(&self, first: Date) -> Date {
        match self.every {
            Every::Day => first.yesterday().unwrap_or(first),
            Every::Month(day) => first.first_of_month().yesterday().map_or(first, |earlier| on_day(earlier, day)),
        }
    }

    fn after(&self, first: Date) -> Date {
        match self.every {
            Every::Day => first.tomorrow().unwrap_or(first),
            Every::Month(day) => first.last_of_month().tomorrow().map_or(first, |later| on_day(later, day)),
        }
    }

    /// The first instant of a day there, also where clocks skip its midnight.
    fn start_of(&self, date: Date) -> Timestamp {
        date.to_zoned(self.zone.clone()).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }

    /// The word for it, for the names of policies: `day` or `month`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.every {
            Every::Day => "day",
            Every::Month(_) => "month",
        }
    }
}

/// The day of `date`'s month, or its last one.
fn on_day(date: Date, day: i8) -> Date {
    let day = day.min(date.days_in_month());
    Date::new(date.year(), date.month(), day).expect("a day that its month has")
}

impl FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidQuota(text.chars().take(80).collect());
        let mut parts = text.trim().split('@');
        let (units, word) = parts.next().and_then(|head| head.split_once('/')).ok_or_else(invalid)?;
        let mut every = match word.trim() {
            "day" => Every::Day,
            "month" => Every::Month(1),
            _ => return Err(invalid()),
        };
        let units = units.trim();
        if !units.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let units: NonZeroU64 = units.parse().map_err(|_| invalid())?;
        let mut rest: Vec<&str> = parts.map(str::trim).collect();
        if let (Every::Month(_), Some(Ok(day))) = (every, rest.first().map(|first| first.parse::<i8>())) {
            every = Every::Month(day);
            rest.remove(0);
        }
        let zone = match rest.as_slice() {
            [] => TimeZone::UTC,
            // Names only: an offset would be one that nobody changes when its country does.
            [name] if !name.is_empty() && name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic()) => {
                TimeZone::get(name).map_err(|_| invalid())?
            }
            _ => return Err(invalid()),
        };
        let day_exists = match every {
            Every::Day => true,
            Every::Month(day) => (1..=31).contains(&day),
        };
        if units.get() > Self::MAX_UNITS || !day_exists || zone.iana_name().is_none() {
            return Err(invalid());
        }
        Ok(Self { units, period: Period { every, zone } })
    }
}

impl TryFrom<String> for Quota {
    type Error = InvalidQuota;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Quota> for String {
    fn from(quota: Quota) -> Self {
        quota.to_string()
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.units, self.period.word())?;
        match self.period.every {
            Every::Month(day) if day != 1 => write!(out, "@{day}")?,
            _ => {}
        }
        match self.period.zone.iana_name() {
            Some("UTC") | None => Ok(()),
            Some(name) => write!(out, "@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(period: &str, moment: &str) -> (String, String) {
        let quota: Quota = format!("1/{period}").parse().unwrap();
        let window = quota.period.window(moment.parse().unwrap());
        (window.start.to_string(), window.end.to_string())
    }

    #[test]
    fn quotas_are_read_as_written() {
        for (text, canonical) in [
            ("1000000/month", Some("1000000/month")),
            (" 5 / day ", Some("5/day")),
            ("5/month@1", Some("5/month")),
            ("5/month@31", Some("5/month@31")),
            ("5/day@Europe/Berlin", Some("5/day@Europe/Berlin")),
            ("5/month@15@America/New_York", Some("5/month@15@America/New_York")),
            ("5/month@UTC", Some("5/month")),
            ("0/month", None),
            ("-1/month", None),
            ("5/month@0", None),
            ("5/month@32", None),
            ("5/day@15", None),
            ("5/week", None),
            ("5/month@Nowhere/At_All", None),
            ("5/month@15@Europe/Berlin@3", None),
            ("5/month@+02:00", None),
            ("1000000000000000/day", None),
            ("many", None),
        ] {
            let read = text.parse::<Quota>().ok().map(|quota| quota.to_string());
            assert_eq!(read.as_deref(), canonical, "{text}");
        }
    }

    #[test]
    fn windows_follow_the_calendar_of_their_zone() {
        for (period, moment, start, end) in [
            ("day", "2026-11-23T12:00:00Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            ("month", "2026-02-28T23:59:59.999999Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("month", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            // A day that the month does not have is its last one.
            ("month@31", "2026-02-27T00:00:00Z", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("month@31", "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("month@30", "2028-02-29T10:00:00Z", "2028-02-29T00:00:00Z", "2028-03-30T00:00:00Z"),
            ("month@15", "2026-01-01T00:00:00Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"),
            // Summer time begins and ends within the window.
            ("day@Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            ("day@Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            ("month@Asia/Kathmandu", "2026-11-23T00:00:00Z", "2026-10-31T18:15:00Z", "2026-11-30T18:15:00Z"),
            // Clocks skip midnight: the day begins at one.
            ("day@America/Asuncion", "2023-10-01T12:00:00Z", "2023-10-01T04:00:00Z", "2023-10-02T03:00:00Z"),
            // Midnight comes twice in Havana: the day begins the first time.
            ("day@America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
            ("day@America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
            // Samoa had no 30 December 2011.
            ("day@Pacific/Apia", "2011-12-30T12:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ] {
            assert_eq!(window(period, moment), (start.to_owned(), end.to_owned()), "{period} {moment}");
        }
    }

    #[test]
    fn what_is_left_of_a_window_is_rounded_up() {
        let window =
            Window { start: "2026-11-01T00:00:00Z".parse().unwrap(), end: "2026-12-01T00:00:00Z".parse().unwrap() };
        for (moment, left) in [
            ("2026-11-30T23:59:59Z", 1),
            ("2026-11-30T23:59:58.000001Z", 2),
            ("2026-11-30T23:59:59.999999Z", 1),
            ("2026-11-30T00:00:00Z", 86_400),
        ] {
            assert_eq!(window.seconds_left(moment.parse().unwrap()), left, "{moment}");
        }
        assert_eq!(window.seconds(), 30 * 86_400);
    }

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",
        "America/Asuncion",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Cairo",
    ];

    proptest! {
        #[test]
        fn windows_tile_time(
            second in 0_i64..4_000_000_000,
            zone in prop::sample::select(ZONES.to_vec()),
            day in 0_i8..=31,
        ) {
            let text = if day == 0 { format!("1/day@{zone}") } else { format!("1/month@{day}@{zone}") };
            let period = text.parse::<Quota>().unwrap().period;
            let moment = Timestamp::from_second(second).unwrap();
            let window = period.window(moment);
            prop_assert!(window.contains(moment), "{window:?}");
            prop_assert_eq!(period.window(window.start), window, "its first moment is its own");
            let nano = jiff::SignedDuration::from_nanos(1);
            prop_assert_eq!(period.window(window.end - nano), window, "and so is its last");
            prop_assert_eq!(period.window(window.end).start, window.end, "the next begins where it ends");
            prop_assert_eq!(period.window(window.start - nano).end, window.start);
            let days = window.seconds() / 3_600;
            if day == 0 {
                prop_assert!((22..=26).contains(&days), "{days} hours");
            } else {
                prop_assert!((27 * 24..=32 * 24).contains(&days), "{days} hours");
            }
        }
    }
}
