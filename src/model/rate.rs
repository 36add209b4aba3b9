//! Rates as people write them (`100/s`) and the limit made of one.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// So many per unit of time: `100/s`, `3000/m`, `10/h`, `500/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: NonZeroU32,
    unit: RateUnit,
}

/// The unit of time in a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateUnit {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`, 24 hours
    Day,
}

impl RateUnit {
    fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
            Self::Day => 'd',
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// Text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a rate; write a whole number from 1 to 1000000000 and a unit, like `100/s` (units: s, m, h, d)")]
pub struct InvalidRate(String);

impl Rate {
    /// The most a unit may hold: one per nanosecond, the finest step of the limiter.
    pub const MAX_COUNT: u32 = 1_000_000_000;

    /// `count` every `unit`.
    #[must_use]
    pub fn new(count: NonZeroU32, unit: RateUnit) -> Self {
        Self { count, unit }
    }

    /// The time one unit of cost takes to come back.
    #[must_use]
    pub fn interval(self) -> Duration {
        let nanos = self.unit.seconds() * 1_000_000_000 / u64::from(self.count.get());
        Duration::from_nanos(nanos.max(1))
    }

    /// The burst where none is named: one second's worth, at least 1.
    #[must_use]
    pub fn default_burst(self) -> NonZeroU32 {
        let per_second = u64::from(self.count.get()) / self.unit.seconds();
        NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidRate(text.chars().take(64).collect());
        let (count, unit) = text.trim().split_once('/').ok_or_else(invalid)?;
        let unit = match unit.trim() {
            "s" => RateUnit::Second,
            "m" => RateUnit::Minute,
            "h" => RateUnit::Hour,
            "d" => RateUnit::Day,
            _ => return Err(invalid()),
        };
        let count = count.trim();
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let count: NonZeroU32 = count.parse().map_err(|_| invalid())?;
        if count.get() > Self::MAX_COUNT {
            return Err(invalid());
        }
        Ok(Self { count, unit })
    }
}

impl TryFrom<String> for Rate {
    type Error = InvalidRate;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.count, self.unit.letter())
    }
}

/// A rate and how much of it may be spent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// How fast budget comes back.
    pub rate: Rate,
    /// How much budget there is when nothing was spent.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// A limit; without a burst, one second's worth, at least 1.
    #[must_use]
    pub fn new(rate: Rate, burst: Option<NonZeroU32>) -> Self {
        Self { rate, burst: burst.unwrap_or_else(|| rate.default_burst()) }
    }

    /// ⌈burst / rate⌉ in whole seconds, at least 1: the `w` of a `RateLimit-Policy` field.
    #[must_use]
    pub fn window_seconds(self) -> u64 {
        let nanos = u128::from(self.burst.get()) * self.rate.interval().as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_written() {
        for (text, interval, burst) in [
            ("100/s", Some(Duration::from_millis(10)), 100),
            ("1/m", Some(Duration::from_mins(1)), 1),
            ("90/m", Some(Duration::from_nanos(666_666_666)), 1),
            ("10/d", Some(Duration::from_mins(144)), 1),
            ("0/s", None, 0),
            ("-1/s", None, 0),
            ("+1/s", None, 0),
            ("1/week", None, 0),
            ("1000000001/s", None, 0),
            ("fast", None, 0),
        ] {
            let rate = text.parse::<Rate>();
            assert_eq!(rate.as_ref().ok().map(|rate| rate.interval()), interval, "{text}");
            if let Ok(rate) = rate {
                assert_eq!(rate.default_burst().get(), burst, "{text}");
                assert_eq!(rate.to_string(), text);
            }
        }
    }

    #[test]
    fn the_window_is_burst_over_rate_rounded_up() {
        for (rate, burst, window) in [("100/s", 100, 1), ("100/s", 150, 2), ("1/m", 1, 60), ("7/s", 1, 1)] {
            let limit = RateLimit::new(rate.parse().unwrap(), NonZeroU32::new(burst));
            assert_eq!(limit.window_seconds(), window, "{rate} burst {burst}");
        }
    }
}
