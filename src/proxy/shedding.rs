//! What a worker refuses when it cannot keep up, and whose.
//!
//! The sign is how long a task waits for its turn: the worker's tick comes late by as much as any
//! request's work does. As in CoDel (RFC 8289) one late tick says nothing, a burst or a machine
//! that stood still; when each of several comes late, the queue stands and would only grow.
//!
//! Then every client, and on open routes every address, has the same share of requests in a tick,
//! which falls while the queue stands and grows when it does not. Whoever sends less than the share
//! is not refused anything: who loses are those who send most (max-min fairness, with one number
//! for all). Refusing costs a part of serving, so that the queue shrinks; callers that come back at
//! once, whatever they are told, must not have the worker do nothing else: of so many refusals one
//! request passes, however full it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::addresses::network_of;
use crate::model::id::ClientId;
use crate::telemetry::metrics::Metrics;

/// So many ticks in a row have to come late before anybody is refused anything.
const LATE_TICKS: u32 = 4;

/// For each request that passes, so many are refused at most: a refusal costs a seventh to a quarter of
/// a request, which leaves two thirds of what the worker can do.
const REFUSED_FOR_EACH: u32 = 2;

/// So many more: a tick does not begin with who sends most.
const REFUSED_AT_ONCE: u32 = 32;

/// No share: everybody passes.
const EVERYTHING: u32 = u32::MAX;

/// One worker's. All its counters are written by that worker's thread alone, which makes loads and
/// stores of their own enough.
#[derive(Debug)]
pub(super) struct Shedder {
    /// From how late a tick on the queue stands; none: nothing is ever refused.
    bound: Option<Duration>,
    /// Of each, in a tick; [`EVERYTHING`]: nobody is refused.
    share: AtomicU32,
    /// Since the last tick.
    passed: AtomicU32,
    refused: AtomicU32,
    late_ticks: AtomicU32,
    // A std mutex, because handlers are shared by reference; the worker is one thread, and asks
    // only while it cannot keep up.
    sent: Mutex<HashMap<Sender, u32>>,
    metrics: Arc<Metrics>,
}

/// Among whom the worker is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sender {
    Client(ClientId),
    /// Of requests that are nobody's.
    Address(IpAddr),
}

impl Shedder {
    pub(super) fn new(bound: Option<Duration>, metrics: Arc<Metrics>) -> Self {
        Self {
            bound,
            share: AtomicU32::new(EVERYTHING),
            passed: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            late_ticks: AtomicU32::new(0),
            sent: Mutex::default(),
            metrics,
        }
    }

    /// Whether a request of this client, from this address, may pass now.
    pub(super) fn admits(&self, client: ClientId, address: IpAddr) -> bool {
        let share = self.share.load(Relaxed);
        if share != EVERYTHING && !self.is_within(share, client, address) && self.may_refuse() {
            return false;
        }
        self.passed.store(self.passed.load(Relaxed).saturating_add(1), Relaxed);
        true
    }

    #[cold]
    fn is_within(&self, share: u32, client: ClientId, address: IpAddr) -> bool {
        let sender = if client.is_nil() { Sender::Address(network_of(address)) } else { Sender::Client(client) };
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sent.entry(sender).or_default();
        *sent = sent.saturating_add(1);
        *sent <= share
    }

    #[cold]
    fn may_refuse(&self) -> bool {
        let refused = self.refused.load(Relaxed);
        let most = self.passed.load(Relaxed).saturating_mul(REFUSED_FOR_EACH).saturating_add(REFUSED_AT_ONCE);
        self.refused.store(refused.saturating_add(u32::from(refused < most)), Relaxed);
        refused < most
    }

    /// The worker's tick, which came so late.
    pub(super) fn tick(&self, late: Duration) {
        self.metrics.worker_delay.observe(late.as_secs_f64());
        let Some(bound) = self.bound else { return };
        let passed = self.passed.swap(0, Relaxed);
        self.refused.store(0, Relaxed);
        let late_ticks = if late > bound { self.late_ticks.load(Relaxed).saturating_add(1) } else { 0 };
        self.late_ticks.store(late_ticks, Relaxed);
        let share = self.share.load(Relaxed);
        let next = match (share, late_ticks) {
            (EVERYTHING, LATE_TICKS..) => smaller(passed),
            (EVERYTHING, _) => return,
            (_, 0) => larger(share, passed),
            _ => smaller(share),
        };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.share.store(next, Relaxed);
        self.tell(share, next, late);
    }

    fn tell(&self, before: u32, now: u32, late: Duration) {
        let late = late.as_millis();
        match (before, now) {
            (EVERYTHING, EVERYTHING) => {}
            (EVERYTHING, _) => {
                self.metrics.workers_shedding.inc();
                tracing::warn!(late, "a worker cannot keep up: clients that send most are refused with 503");
            }
            (_, EVERYTHING) => {
                self.metrics.workers_shedding.dec();
                tracing::info!(late, "a worker keeps up again: nobody is refused for its sake");
            }
            _ => {}
        }
    }
}

/// Nobody's share is nothing: who sends little gets through however bad it is.
fn smaller(share: u32) -> u32 {
    (share - share.div_ceil(4).min(share)).max(1)
}

/// Grows slower than it falls; a share of far more than all that comes is none.
fn larger(share: u32, passed: u32) -> u32 {
    let grown = share.saturating_add(share / 8).saturating_add(1);
    if grown / 4 > passed { EVERYTHING } else { grown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const BOUND: Duration = Duration::from_millis(250);
    const LATE: Duration = Duration::from_millis(300);
    const SOON: Duration = Duration::from_millis(2);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn shedder() -> Shedder {
        Shedder::new(Some(BOUND), Metrics::new(&[], &[]))
    }

    fn client(number: u128) -> ClientId {
        ClientId(Uuid::from_u128(number))
    }

    /// How many of `count` requests pass.
    fn send(shedder: &Shedder, client: ClientId, count: u32) -> u32 {
        (0..count).map(|_| u32::from(shedder.admits(client, HERE))).sum()
    }

    #[test]
    fn a_burst_and_a_machine_that_stood_still_cost_nobody_anything() {
        let shedder = shedder();
        for late in [LATE, LATE, LATE, SOON, Duration::from_secs(30), SOON, LATE, LATE, LATE, SOON] {
            assert_eq!(send(&shedder, client(1), 500), 500);
            shedder.tick(late);
        }
        let never = Shedder::new(None, Metrics::new(&[], &[]));
        (0..100).for_each(|_| never.tick(LATE));
        assert_eq!(send(&never, client(1), 500), 500);
    }

    #[test]
    fn while_the_queue_stands_those_who_send_most_are_refused_and_the_others_nothing() {
        let shedder = shedder();
        for _ in 0..20 {
            send(&shedder, client(1), 1_000);
            send(&shedder, client(2), 300);
            assert_eq!(send(&shedder, client(3), 1), 1, "who sends little is never refused");
            shedder.tick(LATE);
        }
        let passed = [send(&shedder, client(1), 1_000), send(&shedder, client(2), 300), send(&shedder, client(3), 1)];
        // The share is one; what passes besides are the third that always do.
        assert!((250..350).contains(&passed[0]) && passed[1] < 110 && passed[2] == 1, "{passed:?}");
    }

    #[test]
    fn the_share_comes_to_rest_where_the_worker_keeps_up() {
        let shedder = shedder();
        let mut totals = Vec::new();
        for _ in 0..400 {
            let total =
                send(&shedder, client(1), 1_200) + send(&shedder, client(2), 1_200) + send(&shedder, client(3), 40);
            // What this worker can do in a tick.
            shedder.tick(if total > 1_000 { LATE } else { SOON });
            totals.push(total);
        }
        let settled = &totals[100..];
        let mean = settled.iter().sum::<u32>() / u32::try_from(settled.len()).unwrap();
        assert!((700..1_100).contains(&mean), "{mean}");
    }

    #[test]
    fn when_less_comes_everybody_passes_again() {
        let shedder = shedder();
        for _ in 0..30 {
            send(&shedder, client(1), 1_000);
            shedder.tick(LATE);
        }
        assert!(send(&shedder, client(1), 1_000) < 350);
        for _ in 0..60 {
            send(&shedder, client(1), 10);
            shedder.tick(SOON);
        }
        assert_eq!(send(&shedder, client(1), 1_000), 1_000);
        assert_eq!(shedder.metrics.workers_shedding.get(), 0);
    }

    #[test]
    fn on_open_routes_the_worker_is_shared_among_addresses() {
        let shedder = shedder();
        let loud: IpAddr = "2001:db8::1".parse().unwrap();
        let same_network: IpAddr = "2001:db8::2".parse().unwrap();
        for _ in 0..40 {
            (0..1_000).for_each(|_| _ = shedder.admits(ClientId::NIL, loud));
            shedder.tick(LATE);
        }
        let passed = (0..1_000).filter(|_| shedder.admits(ClientId::NIL, loud)).count();
        let of_the_same = (0..100).filter(|_| shedder.admits(ClientId::NIL, same_network)).count();
        assert!(passed < 350 && of_the_same < 40, "{passed} {of_the_same}");
        assert!(shedder.admits(ClientId::NIL, HERE));
    }
}
