//! The limit that a client or a key has of its own, and how it changes: a burst needs a rate, and goes
//! with it.

use std::num::NonZeroU32;

use thiserror::Error;

use super::rate::{Rate, RateLimit};

/// The longest time an empty limit may take to be full again. The limiter counts in nanoseconds,
/// of which 64 bits hold centuries; a limit nobody lives to see refilled is a typing error.
const LONGEST_REFILL_SECONDS: u64 = 366 * 86_400;

/// What to say of a limit that takes longer.
pub const REFILL_TOO_LONG: &str = "spent at once, it would take more than a year to come back";

/// Whether an empty limit is full again within a year.
#[must_use]
pub fn refills_within_a_year(limit: RateLimit) -> bool {
    limit.window_seconds() <= LONGEST_REFILL_SECONDS
}

/// Why a rate and a burst are no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidLimit {
    /// A burst alone means nothing: without a rate of its own, one has another's whole.
    #[error("a burst needs a rate, like 100/s")]
    BurstAlone,
    /// More than any rate has in a second.
    #[error("a burst is a whole number from 1 to {}", Rate::MAX_COUNT)]
    Burst,
    /// It hardly ever comes back whole.
    #[error("a burst of {} at {}: {}", .0.burst, .0.rate, REFILL_TOO_LONG)]
    Refill(RateLimit),
}

/// Whether rate and burst are a limit, or none at all.
///
/// # Errors
/// See [`InvalidLimit`].
pub fn check(rate: Option<Rate>, burst: Option<NonZeroU32>) -> Result<(), InvalidLimit> {
    let Some(rate) = rate else {
        return if burst.is_some() { Err(InvalidLimit::BurstAlone) } else { Ok(()) };
    };
    if burst.is_some_and(|burst| burst.get() > Rate::MAX_COUNT) {
        return Err(InvalidLimit::Burst);
    }
    let limit = RateLimit::new(rate, burst);
    if refills_within_a_year(limit) { Ok(()) } else { Err(InvalidLimit::Refill(limit)) }
}

/// A change of such a limit: each `Some` replaces, an inner `None` clears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// Another rate, or none.
    pub rate: Option<Option<Rate>>,
    /// Another burst, or its rate's default.
    pub burst: Option<Option<NonZeroU32>>,
}

impl LimitChange {
    /// The change as it is made to what is there: a burst goes with its rate.
    ///
    /// # Errors
    /// What would come of it is no limit.
    pub fn of(self, rate: Option<Rate>, burst: Option<NonZeroU32>) -> Result<Self, InvalidLimit> {
        let rate = self.rate.unwrap_or(rate);
        if rate.is_none() && self.burst.flatten().is_some() {
            return Err(InvalidLimit::BurstAlone);
        }
        let change = if rate.is_some() { self.burst } else { Some(None) };
        check(rate, change.unwrap_or(burst))?;
        Ok(Self { burst: change, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_needs_a_rate_and_goes_with_it() {
        let (rate, burst) = ("5/s".parse::<Rate>().ok(), NonZeroU32::new(9));
        let slow = "1/d".parse::<Rate>().ok();
        let many = NonZeroU32::new(1_000);
        let limit = |rate, burst| RateLimit::new(rate, burst);
        for (change, there, becomes) in [
            ((None, None), (None, None), Ok((None, Some(None)))),
            ((None, None), (rate, burst), Ok((None, None))),
            ((Some(rate), Some(burst)), (None, None), Ok((Some(rate), Some(burst)))),
            ((None, Some(burst)), (rate, None), Ok((None, Some(burst)))),
            ((None, Some(burst)), (None, None), Err(InvalidLimit::BurstAlone)),
            ((Some(None), Some(burst)), (rate, None), Err(InvalidLimit::BurstAlone)),
            ((Some(None), None), (rate, burst), Ok((Some(None), Some(None)))),
            ((None, Some(None)), (rate, burst), Ok((None, Some(None)))),
            ((None, Some(NonZeroU32::new(u32::MAX))), (rate, None), Err(InvalidLimit::Burst)),
            ((Some(slow), None), (rate, many), Err(InvalidLimit::Refill(limit(slow.unwrap(), many)))),
        ] {
            let change = LimitChange { rate: change.0, burst: change.1 };
            let made = change.of(there.0, there.1).map(|made| (made.rate, made.burst));
            assert_eq!(made, becomes, "{change:?} of {there:?}");
        }
    }
}
