//! What is watched of a connection: which deadline runs, and what it has been told.
//!
//! A worker looks at all of its connections a few times a second instead of arming a timer for
//! every request: a deadline may be late by one look, and costs a request nothing but a store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::config::server::TimeoutConfig;
use crate::model::clock::{Monotonic, SharedClock};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Accepted; nothing has come.
    Fresh = 0,
    /// Between two requests.
    Idle = 1,
    /// A part of a head has come.
    Head = 2,
    /// A request is being answered.
    Busy = 3,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Go on.
    None = 0,
    /// Finish what runs, take nothing new.
    Finish = 1,
    /// Close without a word: it is idle.
    Close = 2,
    /// Say that the head took too long, and close.
    TimeOut = 3,
    /// End at once.
    Cut = 4,
}

/// Why we ended a connection in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CutCause {
    /// The gateway stops.
    Shutdown = 1,
    /// A deadline passed.
    Deadline = 2,
}

/// One connection, as its worker and its requests see it.
pub struct Watch {
    clock: SharedClock,
    phase: AtomicU8,
    since: AtomicU64,
    /// Since when writing has made no progress; zero: it makes progress.
    blocked_since: AtomicU64,
    order: AtomicU8,
    cut: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Watch").field("phase", &self.phase()).field("order", &self.order()).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(clock: SharedClock) -> Arc<Self> {
        let since = clock.monotonic().0;
        Arc::new(Self {
            clock,
            phase: AtomicU8::new(Phase::Fresh as u8),
            since: AtomicU64::new(since),
            blocked_since: AtomicU64::new(0),
            order: AtomicU8::new(Order::None as u8),
            cut: AtomicU8::new(0),
            waker: Mutex::new(None),
        })
    }

    /// A watch of no connection: for requests that are made by tests.
    #[must_use]
    pub fn detached(clock: SharedClock) -> Arc<Self> {
        Self::new(clock)
    }

    /// Why this connection was cut; none when it was not.
    #[must_use]
    pub fn cut_cause(&self) -> Option<CutCause> {
        match self.cut.load(Ordering::Acquire) {
            1 => Some(CutCause::Shutdown),
            2 => Some(CutCause::Deadline),
            _ => None,
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Fresh,
            1 => Phase::Idle,
            2 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => Order::Finish,
            2 => Order::Close,
            3 => Order::TimeOut,
            _ => Order::Cut,
        }
    }

    fn enter(&self, phase: Phase) {
        self.since.store(self.clock.monotonic().0, Ordering::Release);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Bytes came in.
    pub(super) fn received(&self) {
        if matches!(self.phase(), Phase::Fresh | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// A whole head is there.
    pub(super) fn begin_request(&self) {
        self.enter(Phase::Busy);
    }

    /// The answer has been handed over whole.
    pub(super) fn end_request(&self) {
        self.enter(Phase::Idle);
    }

    /// The caller does not take what we send.
    pub(super) fn write_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.clock.monotonic().0.max(1), Ordering::Release);
        }
    }

    /// The caller took something.
    pub(super) fn write_moved(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != 0 {
            self.blocked_since.store(0, Ordering::Release);
        }
    }

    /// Remembers the connection's task, to be woken when it is told something.
    pub(super) fn remember(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Tells the connection something; a later order never takes an earlier, harder one back.
    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8
            && let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            waker.wake_by_ref();
        }
    }

    fn cut(&self, cause: CutCause) {
        self.cut.store(cause as u8, Ordering::Release);
        self.tell(Order::Cut);
    }

    fn look(&self, now: Monotonic, timeouts: &TimeoutConfig) {
        let blocked = self.blocked_since.load(Ordering::Acquire);
        if blocked != 0 && now.since(Monotonic(blocked)) > timeouts.write_idle {
            self.cut(CutCause::Deadline);
            return;
        }
        let age = now.since(Monotonic(self.since.load(Ordering::Acquire)));
        match self.phase() {
            Phase::Fresh if age > timeouts.request_head => self.tell(Order::Close),
            Phase::Idle if age > timeouts.keep_alive => self.tell(Order::Close),
            Phase::Head if age > timeouts.request_head => self.tell(Order::TimeOut),
            Phase::Fresh | Phase::Idle | Phase::Head | Phase::Busy => {}
        }
    }
}

/// All connections of one worker. The mutex is taken when a connection comes or goes and at each
/// look, never by a request.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<(u64, HashMap<u64, Arc<Watch>>)>,
}

impl Connections {
    pub(super) fn add(self: &Arc<Self>, watch: Arc<Watch>) -> Registration {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, watch);
        Registration { number, connections: Arc::clone(self) }
    }

    pub(super) fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }

    /// Checks every deadline.
    pub(super) fn look(&self, now: Monotonic, timeouts: &TimeoutConfig) {
        self.each(|watch| watch.look(now, timeouts));
    }

    /// Asks all to finish.
    pub(super) fn finish(&self) {
        self.each(|watch| watch.tell(Order::Finish));
    }

    /// Ends all.
    pub(super) fn cut(&self, cause: CutCause) {
        self.each(|watch| watch.cut(cause));
    }

    fn each(&self, act: impl Fn(&Watch)) {
        for watch in self.open.lock().unwrap_or_else(PoisonError::into_inner).1.values() {
            act(watch);
        }
    }
}

/// A connection's place among those of its worker, until it ends.
pub(super) struct Registration {
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.number);
    }
}

/// How often a worker looks at its connections.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::clock::{Clock as _, ManualClock};

    /// What, how it came about, after how many seconds it is told what.
    type Row = (&'static str, fn(&Watch), u64, Order);

    #[test]
    fn each_phase_has_its_deadline() {
        let seconds = Duration::from_secs;
        let timeouts = TimeoutConfig {
            tls_handshake: seconds(5),
            request_head: seconds(10),
            body_idle: seconds(30),
            write_idle: seconds(30),
            keep_alive: seconds(75),
        };
        let rows: [Row; 5] = [
            ("nothing ever came", |_| {}, 10, Order::Close),
            ("half a head", Watch::received, 10, Order::TimeOut),
            ("idle", Watch::end_request, 75, Order::Close),
            (
                "a blocked writer",
                |watch| {
                    watch.begin_request();
                    watch.write_blocked();
                },
                30,
                Order::Cut,
            ),
            ("a running request has none of these", Watch::begin_request, 100_000, Order::None),
        ];
        for (what, act, deadline, order) in rows {
            let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
            let watch = Watch::new(clock.clone());
            act(&watch);
            clock.advance(seconds(deadline));
            watch.look(clock.monotonic(), &timeouts);
            assert_eq!(watch.order(), Order::None, "{what}: too early");
            clock.advance(seconds(1));
            watch.look(clock.monotonic(), &timeouts);
            assert_eq!(watch.order(), order, "{what}");
        }
    }
}
