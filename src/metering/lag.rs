//! How old the oldest entry is that the store does not have.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::telemetry::metrics::Metrics;

/// When the oldest settled entry ended that is not committed; none: all are.
#[derive(Debug, Default)]
pub(super) struct Lag {
    oldest: Mutex<[Option<Timestamp>; 2]>,
}

/// Whose entries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    /// This process's.
    Ours,
    /// Those of a folder that was adopted.
    Adopted,
}

impl Lag {
    /// Notes the oldest entry that is on its way.
    pub(super) fn note(&self, whose: Whose, oldest: Option<Timestamp>) {
        self.lock()[whose as usize] = oldest;
    }

    /// Tells the metric.
    pub(super) fn publish(&self, now: Timestamp, metrics: &Metrics) {
        let oldest = self.lock().iter().flatten().min().copied();
        let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
        metrics.metering_lag_seconds.set(age);
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Timestamp>; 2]> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_all_counts() {
        let metrics = Metrics::new(&[], &[]);
        let lag = Lag::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let published = |now| {
            lag.publish(at(now), &metrics);
            metrics.metering_lag_seconds.get()
        };
        let expect = |now, expected: f64| assert!((published(now) - expected).abs() < 1e-9);
        expect(100, 0.0);
        lag.note(Whose::Ours, Some(at(90)));
        expect(100, 10.0);
        lag.note(Whose::Adopted, Some(at(40)));
        expect(100, 60.0);
        lag.note(Whose::Adopted, None);
        expect(101, 11.0);
        expect(80, 0.0);
    }
}
