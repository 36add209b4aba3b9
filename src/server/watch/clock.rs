//! The worker's coarse time, read by every connection and set once a tick.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// No time: nothing is waited for.
pub(super) const NEVER: u64 = 0;

/// The worker's coarse time, in milliseconds; starts at 1, because 0 is [`NEVER`]. And the date.
#[derive(Debug)]
pub(in crate::server) struct CoarseClock {
    pub(super) millis: AtomicU64,
    // A std mutex, held for a copy: one thread, so never contended.
    date: Mutex<Date>,
}

/// A second and its text.
#[derive(Debug)]
struct Date {
    second: i64,
    text: DateText,
}

/// As a `Date` header writes it (RFC 9110 §5.6.7).
pub(in crate::server) type DateText = [u8; 29];

impl Date {
    fn of(second: i64) -> Self {
        let text = Timestamp::from_second(second)
            .and_then(|at| DateTimePrinter::new().timestamp_to_rfc9110_string(&at))
            .ok()
            .and_then(|text| text.into_bytes().try_into().ok());
        // Years beyond 9999 have no date; nobody reads this one.
        Self { second, text: text.unwrap_or(*b"Thu, 01 Jan 1970 00:00:00 GMT") }
    }
}

impl CoarseClock {
    pub(in crate::server) fn new() -> Arc<Self> {
        Arc::new(Self { millis: AtomicU64::new(1), date: Mutex::new(Date::of(0)) })
    }

    /// Sets how long the worker has run.
    pub(in crate::server) fn set(&self, since_start: Duration) {
        self.millis.store(millis(since_start) + 1, Relaxed);
    }

    /// Sets the date.
    pub(in crate::server) fn set_date(&self, now: Timestamp) {
        let mut date = self.date.lock().unwrap_or_else(PoisonError::into_inner);
        if date.second != now.as_second() {
            *date = Date::of(now.as_second());
        }
    }

    pub(super) fn date(&self) -> DateText {
        self.date.lock().unwrap_or_else(PoisonError::into_inner).text
    }

    pub(super) fn now(&self) -> u64 {
        self.millis.load(Relaxed)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
