//! One worker's side of the journal: which slot is next, which entries are open and where.
//!
//! Owns the worker's segments, rotation, and the copying of entries that stay open for long.
//! Refuses to own files (`prepare` makes them, `drain` reads and retires them).
//!
//! The lock is a std mutex, held for some tens of nanoseconds by the worker that the lane belongs
//! to. Others take it seldom: `prepare` to hand over a segment, `sync` to ask what changed, and
//! a task of another thread that happens to end a request. So it is uncontended, an uncontended
//! lock is two atomic operations on the worker's own cache line, and it is what makes the map's
//! single writer a fact and not a hope. No system call is made under it, but for the wake-up of
//! `prepare` at a rotation, once in thousands of entries.
//!
//! Segments are known by a *sequence*, counted per lane. An entry is known by a *ticket*, so that
//! it can be moved while its owner holds on to it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::held::Held;
use super::mapped::Map;
use super::segment::{LiveSegment, Prepared};
use super::sync::{Changes, Gate};
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::usage::{Admission, Outcome, Settlement};

/// Entries are moved out of segments that are so far behind the current one.
const BEHIND: u64 = 2;
/// A rotation moves entries into at most this share of the new segment.
const MOVED_SHARE: u32 = 4;
/// How many segments should wait to be used.
pub(super) const READY: usize = 2;

/// See the file's head.
pub(super) struct Lane {
    state: Mutex<State>,
    /// Whether an entry was refused and nothing has come since.
    full: AtomicBool,
    /// Asks `prepare` for another segment.
    wanted: Arc<Notify>,
    gate: Option<Arc<Gate>>,
    clock: SharedClock,
}

/// Which open entry; meaningless to other lanes, and once the entry is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u32);

/// What a lane has counted since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) admitted: u64,
    pub(super) settled: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Segments with entries that may still be written; the last is the current one.
    held: VecDeque<Held>,
    /// The sequence of the first of them.
    first: u64,
    ready: VecDeque<Prepared>,
    open: Vec<Open>,
    free: Vec<u32>,
    /// Maps that nobody writes to any more: undone by `prepare`, since that is work.
    worn: Vec<Map>,
    /// What changed in segments that are held no more and is not synced yet.
    changes: Vec<Changes>,
    counts: Counts,
    /// Whether its segments were removed under it.
    suspended: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// None: the ticket is free.
    place: Option<Place>,
    sent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    slot: u32,
}

impl Lane {
    /// A lane that begins with `first`. `gate`: whom to tell what changed; none when nothing
    /// is synced.
    pub(super) fn new(first: Prepared, wanted: Arc<Notify>, gate: Option<Arc<Gate>>, clock: SharedClock) -> Self {
        let mut state = State::default();
        state.held.push_back(Held::new(first));
        Self { state: Mutex::new(state), full: AtomicBool::new(false), wanted, gate, clock }
    }

    /// Writes a first half; none when there is no room for it.
    pub(super) fn admit(&self, admission: &Admission) -> Option<Ticket> {
        let mut state = self.lock();
        if !state.has_room() {
            let rotated = state.rotate();
            self.wanted.notify_one();
            if !rotated {
                drop(state);
                self.full.store(true, Ordering::Release);
                return None;
            }
        }
        state.counts.admitted += 1;
        Some(state.write(admission))
    }

    /// Sets or clears the sent mark.
    pub(super) fn mark(&self, ticket: Ticket, sent: bool) {
        let mut state = self.lock();
        let state = &mut *state;
        let open = &mut state.open[ticket.0 as usize];
        if open.sent == sent {
            return;
        }
        open.sent = sent;
        let place = open.place.expect("a ticket is good until its entry is settled");
        state.held[place.index(state.first)].mark(place.slot, sent);
    }

    /// Writes the second half and takes the ticket back.
    pub(super) fn settle(&self, ticket: Ticket, settlement: &Settlement) {
        self.lock().settle(ticket, |_| *settlement);
    }

    /// Settles an entry, admitted at `since`, that its owner dropped: it knows no more than
    /// whether something left.
    pub(super) fn abandon(&self, ticket: Ticket, since: Monotonic) {
        let lasted = self.clock.monotonic().since(since);
        let duration_us = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
        self.lock().settle(ticket, |sent| Settlement {
            status: None,
            outcome: if sent { Outcome::ClientGone } else { Outcome::NotSent },
            reason: None,
            duration_us,
            bytes_in: 0,
            bytes_out: 0,
            units: None,
        });
    }

    /// How many segments `prepare` should bring.
    pub(super) fn wants(&self) -> usize {
        let state = self.lock();
        if state.closed { 0 } else { READY.saturating_sub(state.ready.len()) }
    }

    /// Takes a segment that is ready.
    pub(super) fn supply(&self, prepared: Prepared) {
        let mut state = self.lock();
        state.ready.push_back(prepared);
        self.full.store(state.suspended, Ordering::Release);
    }

    /// Takes no more entries until [`Lane::begin_anew`]: what it has room in is not on the disk any
    /// more. Those that are open can still be settled. Gives back what was ready.
    pub(super) fn suspend(&self) -> Vec<Arc<LiveSegment>> {
        let mut state = self.lock();
        state.suspended = true;
        self.full.store(true, Ordering::Release);
        state.ready.drain(..).map(|prepared| prepared.live).collect()
    }

    /// Whether it was suspended.
    pub(super) fn is_suspended(&self) -> bool {
        self.lock().suspended
    }

    /// Goes on, with this segment.
    pub(super) fn begin_anew(&self, next: Prepared) {
        let mut state = self.lock();
        state.suspended = false;
        state.ready.push_front(next);
        state.rotate();
        self.full.store(false, Ordering::Release);
    }

    /// Whether entries are being turned away.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes what was counted.
    pub(super) fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.lock().counts)
    }

    /// Takes the maps that are used no more.
    pub(super) fn take_worn(&self) -> Vec<Map> {
        std::mem::take(&mut self.lock().worn)
    }

    /// Takes what changed since the last call, into `changes`.
    pub(super) fn take_changes(&self, changes: &mut Vec<Changes>) {
        let mut state = self.lock();
        changes.append(&mut state.changes);
        changes.extend(state.held.iter_mut().filter_map(Held::take_changes));
    }

    /// Takes no more entries; those that are open can still be settled. Gives back the segments
    /// that were never used.
    pub(super) fn close(&self) -> Vec<Arc<LiveSegment>> {
        let mut state = self.lock();
        state.closed = true;
        let unused = state.ready.drain(..).map(|prepared| prepared.live).collect();
        state.let_go();
        unused
    }

    /// What entries are timed with: here, so that an entry holds one reference and not two.
    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// How durable entries become; none when they are not made so.
    pub(super) fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// A panic under the lock leaves at worst a slot that is never settled: going on is better
    /// than taking every later request down.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        !self.closed && !self.suspended && self.held.back().is_some_and(Held::has_room)
    }

    /// Makes the next segment the current one.
    fn rotate(&mut self) -> bool {
        if self.closed || self.suspended {
            return false;
        }
        let Some(next) = self.ready.pop_front() else { return false };
        self.held.push_back(Held::new(next));
        self.relocate();
        self.let_go();
        true
    }

    fn write(&mut self, admission: &Admission) -> Ticket {
        let ticket = self.free.pop().unwrap_or_else(|| {
            self.open.push(Open { place: None, sent: false });
            u32::try_from(self.open.len() - 1).expect("fewer entries are open than memory has bytes")
        });
        let sequence = self.first + self.held.len() as u64 - 1;
        let slot = self.held.back_mut().expect("there is a current segment").admit(admission);
        self.open[ticket as usize] = Open { place: Some(Place { sequence, slot }), sent: false };
        Ticket(ticket)
    }

    fn settle(&mut self, ticket: Ticket, settlement: impl FnOnce(bool) -> Settlement) {
        let open = &mut self.open[ticket.0 as usize];
        let place = open.place.take().expect("a ticket is good until its entry is settled");
        let settlement = settlement(open.sent);
        self.free.push(ticket.0);
        self.counts.settled += 1;
        let index = place.index(self.first);
        let held = &mut self.held[index];
        held.settle(place.slot, &settlement);
        if held.open() == 0 && (self.closed || index + 1 < self.held.len()) {
            self.let_go();
        }
    }

    /// Moves entries that are still open in old segments into the current one, the oldest first.
    fn relocate(&mut self) {
        let newest = self.first + self.held.len() as u64 - 1;
        let Some(last) = newest.checked_sub(BEHIND) else { return };
        let Some(mut current) = self.held.pop_back() else { return };
        let mut budget = current.slots() / MOVED_SHARE;
        for (sequence, from) in (self.first..=last).zip(&mut self.held) {
            for open in &mut self.open {
                if from.open() == 0 || budget == 0 {
                    break;
                }
                let Some(place) = open.place.filter(|place| place.sequence == sequence) else { continue };
                let slot = current.take_over(from, place.slot, open.sent);
                open.place = Some(Place { sequence: newest, slot });
                budget -= 1;
            }
        }
        self.held.push_back(current);
    }

    /// Lets go of segments in which nothing is open, except for the current one.
    fn let_go(&mut self) {
        let keep = usize::from(!self.closed);
        while self.held.len() > keep && self.held[0].open() == 0 {
            let Some(mut held) = self.held.pop_front() else { break };
            self.first += 1;
            self.changes.extend(held.take_changes());
            held.finish();
            self.worn.push(held.into_map());
        }
        // One further back that is done can be retired already; its map goes with its turn.
        let others = self.held.len().saturating_sub(keep);
        self.held.iter().take(others).filter(|held| held.open() == 0).for_each(Held::finish);
    }
}

impl Place {
    /// Where its segment stands among those held.
    fn index(self, first: u64) -> usize {
        usize::try_from(self.sequence - first).expect("a lane holds few segments")
    }
}

#[cfg(test)]
mod tests;
