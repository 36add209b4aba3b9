//! From this process's segments to the store.
//!
//! Owns what is known of each segment: which slots are done, that is, committed, set aside or
//! moved. Reads segments as files and never touches their maps. Refuses to own what to do when
//! the store does not take a batch (`delivery`).
//!
//! A segment is retired when its lane has finished with it, every slot is done, and what moved out
//! of it is durable where it is now; a process killed before sends some events again, which
//! changes nothing.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

use super::delivery::{BATCH, Delivery};
use super::event;
use super::lag::Whose;
use super::segment::{self, CHUNK_SLOTS, LiveSegment};
use super::shared::Shared;
use super::slot::{SLOT_BYTES, Slot};
use crate::model::clock::Monotonic;
use crate::model::usage::UsageEvent;
use crate::tasks::blocking;

/// How often committed segments are looked at for their age.
const PRUNE_INTERVAL: Duration = Duration::from_mins(1);

/// The drain's memory.
pub(super) struct Drain {
    shared: Arc<Shared>,
    segments: Vec<Draining>,
    pruned: Option<Monotonic>,
}

/// What is known of one segment.
#[derive(Debug)]
struct Draining {
    live: Arc<LiveSegment>,
    /// A bit a slot: whether it is done.
    done: Vec<u64>,
    /// How many bits are set.
    count: u32,
    /// All slots below are done.
    low: u32,
}

/// Events on their way, and where they are from.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<UsageEvent>,
    /// Which segment (by its place in the list) and which slot.
    places: Vec<(usize, u32)>,
    oldest: Option<Timestamp>,
}

/// How far a pass has come.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    segment: usize,
    slot: u32,
}

/// The task: a pass each interval, until the process is stopping.
pub(super) async fn run(drain: Arc<Mutex<Drain>>, delivery: Arc<Delivery>, shared: Arc<Shared>) {
    loop {
        drain.lock().await.pass(&delivery).await;
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            () = tokio::time::sleep(shared.config.drain_interval) => {}
        }
    }
}

impl Drain {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, segments: Vec::new(), pruned: None }
    }

    /// Delivers all that is settled, with the counts of refusals, and retires what is done.
    pub(super) async fn pass(&mut self, delivery: &Delivery) {
        let mut position = Position::default();
        self.segments.extend(self.shared.take_made().into_iter().map(Draining::new));
        self.note_segments(delivery);
        loop {
            let batch;
            (batch, position) = self.collect(position).await;
            if batch.events.is_empty() {
                break;
            }
            self.shared.lag.note(Whose::Ours, batch.oldest);
            // Held from before the commit until quotas know of it, so that nobody who reads the store
            // sees the one without the other.
            let ledger = self.shared.ledger.get().cloned();
            let held = match &ledger {
                Some(ledger) => Some(ledger.hold().await),
                None => None,
            };
            if !delivery.deliver(&batch.events).await {
                return;
            }
            if let Some(held) = held {
                held.committed(&batch.events);
            }
            batch.places.iter().for_each(|(segment, slot)| self.segments[*segment].finish(*slot));
            // What was committed shows in the age at once, also while further batches follow.
            self.shared.lag.note(Whose::Ours, None);
        }
        self.flush_rejected(delivery).await;
        self.retire().await;
        self.note_segments(delivery);
    }

    /// Tells the outbox whose events an heir could find in segments again.
    fn note_segments(&self, delivery: &Delivery) {
        let Some(outbox) = delivery.outbox() else { return };
        let used = self.segments.iter().filter(|segment| segment.live.handed_out() > 0);
        let (oldest, newest) = used.map(|segment| segment.live.number).fold((None, 0), |(oldest, newest), number| {
            (Some(oldest.map_or(number, |oldest: u64| oldest.min(number))), newest.max(number))
        });
        outbox.note_segments(oldest, newest);
    }

    /// Entries that the store does not have: settled ones and open ones.
    pub(super) fn left(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.live.handed_out() - segment.count)).sum()
    }

    /// Reads on from `position`, until a batch is full or all segments were read.
    async fn collect(&mut self, mut position: Position) -> (Batch, Position) {
        let mut segments = mem::take(&mut self.segments);
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let mut batch = Batch::default();
            while let Some(segment) = segments.get_mut(position.segment) {
                match segment.read(position, &mut batch, &shared) {
                    Some(slot) => {
                        position.slot = slot;
                        break;
                    }
                    None => position = Position { segment: position.segment + 1, slot: 0 },
                }
            }
            (segments, batch, position)
        };
        let batch;
        (self.segments, batch, position) = blocking(work).await;
        (batch, position)
    }

    async fn flush_rejected(&self, delivery: &Delivery) {
        let mut counts = self.shared.rejected.take();
        while !counts.is_empty() {
            let rest = counts.split_off(counts.len().min(BATCH));
            if !delivery.add_rejected(&counts).await {
                counts.extend(rest);
                self.shared.rejected.restore(counts);
                return;
            }
            counts = rest;
        }
    }

    /// Takes segments that are done out of the way, and committed ones that are too old.
    async fn retire(&mut self) {
        let now = self.shared.clock.monotonic();
        let prune = self.pruned.is_none_or(|pruned| now.since(pruned) >= PRUNE_INTERVAL);
        if prune {
            self.pruned = Some(now);
        }
        // At the end, when nothing is open any more, nothing that moved is needed.
        let over = self.shared.closing.is_cancelled() && self.left() == 0;
        let mut segments = mem::take(&mut self.segments);
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let may_go = |segment: &Draining| segment.is_done() && (over || !segment.live.has_last_copy());
            segments.retain(|segment| !may_go(segment) || !retire(&segment.live, &shared));
            if prune {
                prune_committed(&shared);
            }
            segments
        };
        self.segments = blocking(work).await;
    }
}

impl Draining {
    fn new(live: Arc<LiveSegment>) -> Self {
        let words = live.header.slots.div_ceil(64) as usize;
        Self { live, done: vec![0; words], count: 0, low: 0 }
    }

    /// Adds what is settled from `position` on. The slot at which to go on; none at the end.
    fn read(&mut self, position: Position, batch: &mut Batch, shared: &Shared) -> Option<u32> {
        // Asked before the slots are read: whoever is finished had written all before it said so.
        let finished = self.live.is_finished();
        let end = self.live.handed_out();
        let mut from = position.slot.max(self.low);
        let mut buffer = Vec::new();
        while from < end {
            let count = CHUNK_SLOTS.min(end - from);
            if let Err(error) = self.live.read(from, count, &mut buffer) {
                tracing::error!(segment = %self.live.path.display(), %error, "a segment could not be read");
                return None;
            }
            for (slot, bytes) in (from..).zip(buffer.as_chunks::<SLOT_BYTES>().0) {
                if batch.events.len() >= BATCH {
                    return Some(slot);
                }
                if !self.is_finished(slot) {
                    self.look_at(slot, bytes, finished, position.segment, batch, shared);
                }
            }
            from += count;
        }
        None
    }

    fn look_at(
        &mut self,
        slot: u32,
        bytes: &[u8; SLOT_BYTES],
        finished: bool,
        segment: usize,
        batch: &mut Batch,
        shared: &Shared,
    ) {
        match Slot::read(self.live.seal, slot, bytes) {
            Slot::Settled(admission, settlement) => {
                let lasted = SignedDuration::from_micros(i64::try_from(settlement.duration_us).unwrap_or(i64::MAX));
                let ended = admission.occurred_at.saturating_add(lasted).unwrap_or(admission.occurred_at);
                batch.push(event::settled(&admission, &settlement, &self.live.header), ended, (segment, slot));
            }
            Slot::Moved(..) => self.finish(slot),
            // What is open, or caught while it was being written, is read again next time.
            Slot::Open(..) | Slot::Empty | Slot::Torn if !finished => {}
            Slot::Open(admission, sent) => {
                // Its lane settled it, so its second half is damaged.
                note_damage(&self.live, slot, shared);
                let event = event::unsettled(&admission, sent, &self.live.header);
                batch.push(event, admission.occurred_at, (segment, slot));
            }
            Slot::Empty | Slot::Torn => {
                note_damage(&self.live, slot, shared);
                self.finish(slot);
            }
        }
    }

    fn is_finished(&self, slot: u32) -> bool {
        self.done[(slot / 64) as usize] & (1 << (slot % 64)) != 0
    }

    fn finish(&mut self, slot: u32) {
        self.done[(slot / 64) as usize] |= 1 << (slot % 64);
        self.count += 1;
        while self.low < self.live.header.slots && self.is_finished(self.low) {
            self.low += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.live.is_finished() && self.count == self.live.handed_out()
    }
}

impl Batch {
    fn push(&mut self, event: UsageEvent, ended: Timestamp, place: (usize, u32)) {
        self.oldest = Some(self.oldest.map_or(ended, |oldest| oldest.min(ended)));
        self.events.push(event);
        self.places.push(place);
    }
}

fn note_damage(live: &LiveSegment, slot: u32, shared: &Shared) {
    shared.metrics.metering_damaged.inc();
    tracing::error!(segment = %live.path.display(), slot, "an entry is damaged");
}

/// Moves a segment to the committed ones; whether that worked.
fn retire(live: &LiveSegment, shared: &Shared) -> bool {
    let used = live.handed_out();
    if used > 0 && !shared.config.keep.is_zero() {
        let taken = shared.folder.committed().take(&live.path, &live.header, used, shared.clock.wall());
        // Somebody removed it: there is nothing to keep.
        if let Err(error) = taken
            && live.path.exists()
        {
            tracing::warn!(segment = %live.path.display(), %error, "a committed segment could not be retired");
            return false;
        }
    }
    segment::remove(shared.folder.path(), live.number);
    true
}

fn prune_committed(shared: &Shared) {
    let keep = SignedDuration::try_from(shared.config.keep).unwrap_or(SignedDuration::MAX);
    let before = shared.clock.wall().saturating_sub(keep).unwrap_or(Timestamp::MIN);
    if let Err(error) = shared.folder.committed().prune(before) {
        tracing::warn!(%error, "old committed segments could not be removed");
    }
}

mod owed;
#[cfg(test)]
mod tests;
