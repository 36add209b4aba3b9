//! What was used of a quota in each window of the calendar: one number for each client and period.
//!
//! The ledger is the truth, and this counts what it will say. Two numbers a window:
//!
//! - `used` = what the ledger has committed, by all nodes, as far as this one knows, plus what
//!   this process has admitted and not committed. Requests compare it with the limit and add to it,
//!   in one atomic step, so that no number of them together overspends.
//! - `committed` = the first part of that sum. When the drain commits events of this process it
//!   grows by their units, and `used` stays as it is: they were in it. When the ledger is read,
//!   both move by what the ledger has more or less than `committed`.
//!
//! So nothing is counted twice and nothing is left out, provided that the ledger is not read
//! between a commit and its being told here: both hold the gate of `ledger`. And an event is told
//! here exactly if its request was charged here: both ask [`QuotaCounter::span`] for the request's
//! own time of arrival, which is the event's `occurred_at`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::model::quota::{Period, Window};

/// A client's counter of one period; limits of several policies may look at it.
#[derive(Debug)]
pub struct QuotaCounter {
    period: Period,
    /// Requests that arrived before are none of its.
    born: Timestamp,
    spans: ArcSwapOption<Spans>,
    /// Whether the ledger was read: before that nobody can say what is left.
    read: AtomicBool,
    was_read: Notify,
}

/// The window of now and the one before: requests that arrived before a window's end may be
/// charged, and will be committed, after it.
#[derive(Debug)]
struct Spans {
    current: Arc<Span>,
    previous: Option<Arc<Span>>,
}

/// What is known of the window of a moment.
enum Known {
    Span(Arc<Span>),
    /// It is too long past.
    Past,
    /// Nobody asked for one so late.
    NotYet,
}

/// One window and what was used in it.
#[derive(Debug)]
pub struct Span {
    /// From when to when.
    pub window: Window,
    used: AtomicI64,
    committed: AtomicI64,
}

/// A charge does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// What is used.
    pub used: u64,
    /// Until when.
    pub window: Window,
}

impl Span {
    fn new(window: Window) -> Arc<Self> {
        Arc::new(Self { window, used: AtomicI64::new(0), committed: AtomicI64::new(0) })
    }

    /// What is used by now. Never negative, also while a ledger that lost commits is read.
    #[must_use]
    pub fn used(&self) -> u64 {
        u64::try_from(self.used.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Adds `units` if the sum stays within `most`; the sum, or what is used. Nothing always fits.
    ///
    /// # Errors
    /// It does not fit.
    pub fn charge(&self, units: u32, most: Option<u64>) -> Result<u64, Exhausted> {
        let most = most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX));
        let fits = |used: i64| {
            let sum = used.saturating_add(i64::from(units));
            (units == 0 || sum <= most).then_some(sum)
        };
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(before) => Ok(u64::try_from(before.saturating_add(i64::from(units))).unwrap_or(0)),
            Err(used) => Err(Exhausted { used: u64::try_from(used).unwrap_or(0), window: self.window }),
        }
    }

    /// What was charged turned out to be more, or less.
    pub fn correct(&self, by: i64) {
        self.used.fetch_add(by, Ordering::AcqRel);
    }
}

impl QuotaCounter {
    /// A counter of requests that arrive from `born` on.
    #[must_use]
    pub fn new(period: Period, born: Timestamp) -> Self {
        // Events have microseconds; what is compared with them has no more.
        let born = Timestamp::from_microsecond(born.as_microsecond()).unwrap_or(born);
        Self { period, born, spans: ArcSwapOption::empty(), read: AtomicBool::new(false), was_read: Notify::new() }
    }

    /// What it counts in.
    #[must_use]
    pub fn period(&self) -> &Period {
        &self.period
    }

    /// Whether the ledger was read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.read.load(Ordering::Acquire)
    }

    /// Resolves when the ledger was read.
    pub async fn read(&self) {
        loop {
            let told = self.was_read.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.is_read() {
                return;
            }
            told.await;
        }
    }

    /// The window that a request of `at` counts in; none: it arrived before this counted.
    #[must_use]
    pub fn span(&self, at: Timestamp) -> Option<Arc<Span>> {
        if at < self.born {
            return None;
        }
        match self.known_span(at) {
            Known::Span(span) => Some(span),
            Known::Past => None,
            Known::NotYet => self.turn(at),
        }
    }

    /// The window that this counter began in, for a request that arrived in it before that.
    #[must_use]
    pub fn first_span_of(&self, at: Timestamp) -> Option<Arc<Span>> {
        if at >= self.born {
            return None;
        }
        self.span(self.born).filter(|span| span.window.contains(at))
    }

    fn known_span(&self, at: Timestamp) -> Known {
        let spans = self.spans.load();
        let Some(Spans { current, previous }) = spans.as_deref() else { return Known::NotYet };
        if at >= current.window.end {
            return Known::NotYet;
        }
        let mut spans = [Some(current), previous.as_ref()].into_iter().flatten();
        spans.find(|span| span.window.contains(at)).map_or(Known::Past, |span| Known::Span(Arc::clone(span)))
    }

    /// Begins the window of `at`. Of many who do so at once, one does.
    #[cold]
    fn turn(&self, at: Timestamp) -> Option<Arc<Span>> {
        let fresh = Span::new(self.period.window(at));
        self.spans.rcu(|spans| match spans {
            Some(spans) if at < spans.current.window.end => Some(Arc::clone(spans)),
            older => {
                let previous = older.as_ref().map(|spans| Arc::clone(&spans.current));
                Some(Arc::new(Spans { current: Arc::clone(&fresh), previous }))
            }
        });
        match self.known_span(at) {
            Known::Span(span) => Some(span),
            Known::Past | Known::NotYet => None,
        }
    }

    /// Notes that an event of this process was committed. Under the ledger's gate.
    pub(super) fn committed(&self, at: Timestamp, units: i64) {
        if at >= self.born
            && let Known::Span(span) = self.known_span(at)
        {
            span.committed.fetch_add(units, Ordering::AcqRel);
        }
    }

    /// Takes over what the ledger says of a window. Under the ledger's gate.
    pub(super) fn take_over(&self, span: &Span, ledger: i64) {
        let before = span.committed.swap(ledger, Ordering::AcqRel);
        span.used.fetch_add(ledger - before, Ordering::AcqRel);
        self.read.store(true, Ordering::Release);
        self.was_read.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;
    use crate::model::quota::Quota;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn counter(born: &str) -> QuotaCounter {
        QuotaCounter::new("1/day".parse::<Quota>().unwrap().period, at(born))
    }

    #[test]
    fn requests_count_in_the_window_they_arrived_in() {
        let counter = counter("2026-11-22T12:00:00.0000009Z");
        assert!(counter.span(at("2026-11-22T11:59:59Z")).is_none(), "before it counted");
        let yesterday = counter.span(at("2026-11-22T23:59:59Z")).unwrap();
        let today = counter.span(at("2026-11-23T00:00:00Z")).unwrap();
        yesterday.charge(3, None).unwrap();
        today.charge(5, None).unwrap();
        let late = counter.span(at("2026-11-22T23:59:59.9Z")).unwrap();
        assert!(Arc::ptr_eq(&late, &yesterday), "one that arrived before midnight is yesterday's");
        let tomorrow = counter.span(at("2026-11-24T00:00:00Z")).unwrap();
        assert_eq!([yesterday.used(), today.used(), tomorrow.used()], [3, 5, 0]);
        assert!(counter.span(at("2026-11-22T23:59:59Z")).is_none(), "two windows are kept");
    }

    #[test]
    fn many_at_once_get_exactly_the_limit() {
        let counter = counter("2026-11-22T00:00:00Z");
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let span = counter.span(at("2026-11-22T12:00:00Z")).unwrap();
                        if span.charge(3, Some(10_000)).is_ok() {
                            admitted.fetch_add(3, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.load(Ordering::Relaxed), 9_999);
        let span = counter.span(at("2026-11-22T12:00:00Z")).unwrap();
        assert_eq!(span.charge(3, Some(10_000)).unwrap_err().used, 9_999);
        assert_eq!(span.charge(1, Some(10_000)), Ok(10_000));
        assert!(span.charge(0, Some(5)).is_ok(), "nothing always fits");
    }

    /// What can happen, in any order.
    #[derive(Clone, Debug)]
    enum Step {
        /// A request of so many units.
        Charge(u32),
        /// One of those admitted is settled for so many.
        Settle(usize, u32),
        /// What is settled is committed.
        Drain,
        /// Another node commits.
        Others(u32),
        /// The ledger is read.
        Read,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u32..50).prop_map(Step::Charge),
            3 => (any::<usize>(), 0_u32..80).prop_map(|(which, units)| Step::Settle(which, units)),
            1 => Just(Step::Drain),
            1 => (0_u32..100).prop_map(Step::Others),
            1 => Just(Step::Read),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// A model with a ledger of its own: whatever happens in whatever order, `used` is what is
        /// committed anywhere, as of the last reading, plus what is admitted here and not committed.
        #[test]
        fn used_is_the_ledger_and_what_is_under_way(steps in steps(), limit in 0_u64..2_000) {
            let counter = counter("2026-11-22T00:00:00Z");
            let now = at("2026-11-22T12:00:00Z");
            let span = counter.span(now).unwrap();
            let (mut open, mut settled) = (Vec::new(), Vec::new());
            let (mut ours, mut others, mut others_seen) = (0_i64, 0_i64, 0_i64);
            for step in steps {
                match step {
                    Step::Charge(units) => {
                        let before = span.used();
                        match span.charge(units, Some(limit)) {
                            Ok(sum) => {
                                prop_assert!(units == 0 || sum <= limit, "never overspent");
                                open.push(units);
                            }
                            Err(exhausted) => {
                                prop_assert!(before + u64::from(units) > limit);
                                prop_assert_eq!(exhausted.used, before, "a refusal takes nothing");
                            }
                        }
                    }
                    Step::Settle(which, units) if !open.is_empty() => {
                        let charged = open.swap_remove(which % open.len());
                        span.correct(i64::from(units) - i64::from(charged));
                        settled.push(units);
                    }
                    Step::Settle(..) => {}
                    Step::Drain => {
                        for units in settled.drain(..) {
                            ours += i64::from(units);
                            counter.committed(now - 1.second(), i64::from(units));
                        }
                    }
                    Step::Others(units) => others += i64::from(units),
                    Step::Read => {
                        counter.take_over(&span, ours + others);
                        others_seen = others;
                        prop_assert!(counter.is_read());
                    }
                }
                let under_way: i64 = open.iter().chain(&settled).copied().map(i64::from).sum();
                prop_assert_eq!(i64::try_from(span.used()).unwrap(), ours + others_seen + under_way);
            }
        }
    }
}
