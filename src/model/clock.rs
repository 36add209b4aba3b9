//! Time as a parameter: everything that asks "when" is handed a [`Clock`].
//!
//! Two kinds of time, because they answer two questions. *Wall* time says what to write in a
//! table and steps when an operator or NTP sets it; *monotonic* time measures ages and budgets
//! and never steps. Limits, cache ages and deadlines use the monotonic one only.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Nanoseconds since an arbitrary point in the life of this process.
///
/// A number and not an [`Instant`], so that it fits an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point, `later` on.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        let nanos = u64::try_from(later.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Wall time, UTC.
    fn wall(&self) -> Timestamp;

    /// Monotonic time.
    fn monotonic(&self) -> Monotonic;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// The same, shared.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A clock that moves only when told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    wall_micros: AtomicI64,
    monotonic_nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `wall`.
    #[must_use]
    pub fn at(wall: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            wall_micros: AtomicI64::new(wall.as_microsecond()),
            // Not zero: code that subtracts an age from "now" must not be flattered by a clamp.
            monotonic_nanos: AtomicU64::new(3_600_000_000_000),
        })
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.wall_micros.fetch_add(micros, Ordering::SeqCst);
        self.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Steps the wall clock alone, as an operator would.
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall_micros.store(wall.as_microsecond(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp::from_microsecond(self.wall_micros.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.monotonic_nanos.load(Ordering::SeqCst))
    }
}
