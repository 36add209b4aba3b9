//! What a connection is doing and since when, and the sweep that finds out who is too slow.
//!
//! No timer per request: every connection writes coarse times into its [`Watch`], and once a
//! tick the worker's [`Sweeper`] looks at all of them. Whatever it finds becomes a *verdict*,
//! and the connection's task is woken to carry it out. Deadlines therefore end up to two ticks
//! late and never early.
//!
//! The atomics are for `Send` only: a connection, its handler and the sweep live on one thread,
//! so all of it is relaxed and nothing contends.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use http::HeaderValue;

pub(super) use self::clock::CoarseClock;
use self::clock::{DateText, NEVER, millis};
pub(super) use self::phase::{Phase, Verdict};
use super::{Grant, Secured};
use crate::config::server::TimeoutConfig;

mod clock;
mod phase;

/// How often a worker looks at its connections.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// How long a closed connection is read on, so that the caller gets to see its answer: a socket
/// closed with unread bytes in it is reset, and the reset overtakes the answer.
const LINGER: u64 = 5_000;

/// How long an idle connection keeps what serving takes: callers that ask one thing after the other find
/// it there, and of a crowd that connects only the last fifth of a second has it at once.
const REST_AFTER: Duration = Duration::from_millis(200);

/// From this age on an exchange is asked after: whatever is shorter was judged a moment ago.
const LONG: Duration = Duration::from_secs(2);

/// Between two looks at what a long exchange rests on.
const REVIEW_EACH: Duration = Duration::from_secs(1);

/// One connection, as the sweep sees it.
#[derive(Debug)]
pub(super) struct Watch {
    address: IpAddr,
    address_value: HeaderValue,
    clock: Arc<CoarseClock>,
    timeouts: TimeoutConfig,
    phase: AtomicU8,
    since: AtomicU64,
    write_blocked_since: AtomicU64,
    body_wanted_since: AtomicU64,
    handler_deadline: AtomicU64,
    verdict: AtomicU8,
    draining: AtomicBool,
    body_late: AtomicBool,
    response_ended: AtomicBool,
    close_by_reset: AtomicBool,
    unread: AtomicBool,
    fragment: AtomicBool,
    secured: Option<Secured>,
    // Std mutexes around wakers, held for a copy: one thread, so never contended.
    connection: Mutex<Option<Waker>>,
    body_reader: Mutex<Option<Waker>>,
    grant: Mutex<Option<Grant>>,
    reviewed_at: AtomicU64,
    reminded_at: AtomicU64,
    reminder: AtomicBool,
}

impl Watch {
    /// Of a connection without TLS.
    pub(super) fn new(address: SocketAddr, clock: Arc<CoarseClock>, timeouts: TimeoutConfig) -> Arc<Self> {
        Self::of(address, None, clock, timeouts)
    }

    /// Of any. `secured`: what TLS told, if there is TLS.
    pub(super) fn of(
        address: SocketAddr,
        secured: Option<Secured>,
        clock: Arc<CoarseClock>,
        timeouts: TimeoutConfig,
    ) -> Arc<Self> {
        let address = address.ip().to_canonical();
        let value = HeaderValue::from_str(&address.to_string()).expect("an address is visible ASCII");
        Self::with(address, value, secured, clock, timeouts)
    }

    fn with(
        address: IpAddr,
        address_value: HeaderValue,
        secured: Option<Secured>,
        clock: Arc<CoarseClock>,
        timeouts: TimeoutConfig,
    ) -> Arc<Self> {
        let now = clock.now();
        Arc::new(Self {
            address,
            address_value,
            clock,
            timeouts,
            phase: AtomicU8::new(Phase::Fresh as u8),
            since: AtomicU64::new(now),
            write_blocked_since: AtomicU64::new(NEVER),
            body_wanted_since: AtomicU64::new(NEVER),
            handler_deadline: AtomicU64::new(NEVER),
            verdict: AtomicU8::new(Verdict::None as u8),
            draining: AtomicBool::new(false),
            body_late: AtomicBool::new(false),
            response_ended: AtomicBool::new(false),
            close_by_reset: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            fragment: AtomicBool::new(false),
            secured,
            connection: Mutex::new(None),
            body_reader: Mutex::new(None),
            grant: Mutex::new(None),
            reviewed_at: AtomicU64::new(NEVER),
            reminded_at: AtomicU64::new(NEVER),
            reminder: AtomicBool::new(false),
        })
    }

    /// A watch of its own for a stream of this connection.
    pub(super) fn beside(&self) -> Arc<Self> {
        let value = self.address_value.clone();
        Self::with(self.address, value, self.secured.clone(), Arc::clone(&self.clock), self.timeouts)
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address
    }

    pub(super) fn secured(&self) -> Option<&Secured> {
        self.secured.as_ref()
    }

    pub(super) fn ip_value(&self) -> &HeaderValue {
        &self.address_value
    }

    /// Now, for a `Date` header.
    pub(super) fn date(&self) -> DateText {
        self.clock.date()
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.since.store(self.clock.now(), Relaxed);
    }

    /// Bytes came: outside of a request they are the beginning of a head.
    pub(super) fn received(&self) {
        if self.phase().is_idle() {
            self.enter(Phase::Head);
        }
    }

    /// A head is complete and is being handled.
    pub(super) fn request_began(&self) {
        self.enter(Phase::Request);
        self.response_ended.store(false, Relaxed);
        self.handler_deadline.store(NEVER, Relaxed);
        self.reminder.store(false, Relaxed);
    }

    /// The exchange rests on this, until its response has ended.
    pub(super) fn rests_on(&self, grant: Grant) {
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
    }

    /// Nothing more is added to the response; when it is flushed, the connection is idle.
    pub(super) fn response_ended(&self) {
        // Given back now: an idle connection keeps nobody's identity alive.
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.response_ended.store(true, Relaxed);
        self.handler_deadline.store(NEVER, Relaxed);
    }

    /// Everything written is with the kernel.
    pub(super) fn flushed(&self) {
        self.write_blocked_since.store(NEVER, Relaxed);
        if self.response_ended.load(Relaxed) && self.phase() == Phase::Request {
            self.response_ended.store(false, Relaxed);
            self.enter(Phase::Idle);
        }
    }

    /// The caller's side took no byte.
    pub(super) fn write_blocked(&self) {
        if self.write_blocked_since.load(Relaxed) == NEVER {
            self.write_blocked_since.store(self.clock.now(), Relaxed);
        }
    }

    /// The caller's side took bytes.
    pub(super) fn written(&self) {
        self.write_blocked_since.store(NEVER, Relaxed);
    }

    /// Somebody waits for more of the request's body; woken when it is too late.
    pub(super) fn body_wanted(&self, reader: &Waker) {
        self.body_wanted_since.store(self.clock.now(), Relaxed);
        let mut slot = self.body_reader.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|waker| !waker.will_wake(reader)) {
            *slot = Some(reader.clone());
        }
    }

    /// Nobody waits for it (any more).
    pub(super) fn body_not_wanted(&self) {
        self.body_wanted_since.store(NEVER, Relaxed);
    }

    /// Whether the request's body stood still for too long.
    pub(super) fn body_late(&self) -> bool {
        self.body_late.load(Relaxed)
    }

    /// Bytes of the request will stay unread: the close must wait for the caller.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// Whether bytes of the caller will stay unread.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// The response ends with the connection: to break it off, a reset is needed, because a
    /// close would look like its end.
    pub(super) fn close_is_the_end(&self, is: bool) {
        self.close_by_reset.store(is, Relaxed);
    }

    /// Whether breaking off now must be a reset.
    pub(super) fn must_reset(&self) -> bool {
        self.close_by_reset.load(Relaxed) && self.phase() == Phase::Request && !self.response_ended.load(Relaxed)
    }

    /// The request line had a `#` in it, which the parser drops.
    pub(super) fn saw_fragment(&self) {
        self.fragment.store(true, Relaxed);
    }

    /// Whether it had; asking forgets.
    pub(super) fn take_fragment(&self) -> bool {
        self.fragment.load(Relaxed) && self.fragment.swap(false, Relaxed)
    }

    /// Has the connection's task woken when `after` has passed.
    pub(super) fn arm(&self, after: Duration) {
        // The coarse time lags behind by up to a tick: one tick more, and it never fires early.
        let deadline = self.clock.now().saturating_add(millis(after)).saturating_add(millis(TICK));
        self.handler_deadline.store(deadline, Relaxed);
    }

    /// Forgets it.
    pub(super) fn disarm(&self) {
        self.handler_deadline.store(NEVER, Relaxed);
    }

    /// Whether it has passed.
    pub(super) fn is_late(&self) -> bool {
        let deadline = self.handler_deadline.load(Relaxed);
        deadline != NEVER && self.clock.now() > deadline
    }

    /// Whether the handler is to be reminded; asking forgets.
    pub(super) fn take_reminder(&self) -> bool {
        self.reminder.load(Relaxed) && self.reminder.swap(false, Relaxed)
    }

    pub(super) fn verdict(&self) -> Verdict {
        Verdict::ALL[usize::from(self.verdict.load(Relaxed))]
    }

    /// Whether the connection is to end after what it is doing.
    pub(super) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Notes the task to be woken for a verdict.
    pub(super) fn runs_in(&self, task: &Waker) {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|waker| !waker.will_wake(task)) {
            *slot = Some(task.clone());
        }
    }

    fn wake(&self) {
        let waker = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn judge(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Relaxed);
        self.wake();
    }

    /// Looks once; `now` is the worker's coarse time.
    fn sweep(&self, now: u64, remind_each: Option<Duration>, stands: &impl Fn(&Grant) -> bool) {
        let over = |since: u64, limit: Duration| since != NEVER && now > since.saturating_add(millis(limit));
        let since = self.since.load(Relaxed);
        if over(self.write_blocked_since.load(Relaxed), self.timeouts.write_idle) {
            return self.judge(Verdict::Stalled);
        }
        match self.phase() {
            Phase::Fresh if over(since, self.timeouts.request_head) => self.judge(Verdict::Close),
            Phase::Head if over(since, self.timeouts.request_head) => self.judge(Verdict::HeadTimeout),
            Phase::Idle | Phase::Resting if over(since, self.timeouts.keep_alive) => self.judge(Verdict::Close),
            Phase::Idle if over(since, REST_AFTER) => {
                self.phase.store(Phase::Resting as u8, Relaxed);
                self.wake();
            }
            Phase::Linger if over(since, Duration::from_millis(LINGER)) => self.judge(Verdict::Close),
            Phase::Request if over(since, LONG) && !self.review(now, &over, stands) => self.judge(Verdict::Revoked),
            Phase::Request => {
                self.sweep_request(now, &over);
                self.remind(now, since, remind_each);
            }
            _ => {}
        }
    }

    /// Has the connection's task polled and reminded when this exchange, begun at `since`, has
    /// gone on for another `each`.
    fn remind(&self, now: u64, since: u64, each: Option<Duration>) {
        let Some(each) = each else { return };
        if now > self.reminded_at.load(Relaxed).max(since).saturating_add(millis(each)) {
            self.reminded_at.store(now, Relaxed);
            self.reminder.store(true, Relaxed);
            self.wake();
        }
    }

    /// Whether what the exchange rests on still stands, as far as was asked.
    fn review(&self, now: u64, over: &impl Fn(u64, Duration) -> bool, stands: &impl Fn(&Grant) -> bool) -> bool {
        let reviewed_at = self.reviewed_at.load(Relaxed);
        if reviewed_at != NEVER && !over(reviewed_at, REVIEW_EACH) {
            return true;
        }
        self.reviewed_at.store(now, Relaxed);
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(stands)
    }

    fn sweep_request(&self, now: u64, over: &impl Fn(u64, Duration) -> bool) {
        if over(self.body_wanted_since.load(Relaxed), self.timeouts.body_idle) {
            self.body_wanted_since.store(NEVER, Relaxed);
            self.body_late.store(true, Relaxed);
            let reader = self.body_reader.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(reader) = reader {
                reader.wake();
            }
        }
        let deadline = self.handler_deadline.load(Relaxed);
        if deadline != NEVER && now > deadline {
            self.wake();
        }
    }
}

/// All connections of a worker.
#[derive(Debug)]
pub(super) struct Sweeper {
    clock: Arc<CoarseClock>,
    draining: AtomicBool,
    // A std mutex: held to add one or to walk the list, on one thread.
    watches: Mutex<Vec<Weak<Watch>>>,
}

impl Sweeper {
    pub(super) fn new() -> Arc<Self> {
        let draining = AtomicBool::new(false);
        Arc::new(Self { clock: CoarseClock::new(), draining, watches: Mutex::new(Vec::new()) })
    }

    pub(super) fn clock(&self) -> &Arc<CoarseClock> {
        &self.clock
    }

    pub(super) fn add(&self, watch: &Arc<Watch>) {
        watch.draining.store(self.draining.load(Relaxed), Relaxed);
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(watch));
    }

    /// Looks at all; forgets those that are gone. `remind_each`: how often a long exchange is
    /// reminded; `stands` answers for what an exchange rests on.
    pub(super) fn sweep(&self, remind_each: Option<Duration>, stands: impl Fn(&Grant) -> bool) {
        let now = self.clock.now();
        self.each(|watch| watch.sweep(now, remind_each, &stands));
    }

    /// Has every connection end after what it is doing, and all that are still to come.
    pub(super) fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.each(|watch| {
            watch.draining.store(true, Relaxed);
            watch.wake();
        });
    }

    /// Has every connection end now.
    pub(super) fn cut(&self) {
        self.each(|watch| watch.judge(Verdict::Shutdown));
    }

    fn each(&self, act: impl Fn(&Watch)) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.upgrade().inspect(|watch| act(watch)).is_some());
    }
}

#[cfg(test)]
mod tests;
