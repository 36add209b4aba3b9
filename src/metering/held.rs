//! A segment in a lane's hands: what is written to it, in the order that makes a kill harmless.
//!
//! Every write is noted for `sync`. Whoever calls holds the lane's lock.

use std::sync::Arc;

use super::mapped::Map;
use super::segment::{LiveSegment, Prepared};
use super::slot::{AdmissionHalf, admission_half, moved_half, resealed, settlement_half};
use super::sync::Changes;
use crate::model::usage::{Admission, Settlement};

/// See the file's head.
#[derive(Debug)]
pub(super) struct Held {
    map: Map,
    live: Arc<LiveSegment>,
    /// The slot for the next entry.
    next: u32,
    /// How many of its entries are open.
    open: u32,
    changes: Changes,
}

impl Held {
    pub(super) fn new(Prepared { map, live }: Prepared) -> Self {
        let changes = Changes::none(Arc::clone(&live));
        Self { map, live, next: 0, open: 0, changes }
    }

    pub(super) fn slots(&self) -> u32 {
        self.live.header.slots
    }

    pub(super) fn has_room(&self) -> bool {
        self.next < self.slots()
    }

    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Writes an entry into the next slot, and says which that is.
    pub(super) fn admit(&mut self, admission: &Admission) -> u32 {
        let half = admission_half(self.live.seal, self.next, admission);
        self.write(&half)
    }

    /// Copies an open entry of another segment into the next slot, and says which that is.
    ///
    /// First the copy, then the mark in the old slot: a process killed between the two leaves two
    /// open slots with one id, which count as one. And the copy's sent mark before its first
    /// half: what was sent must not be seen without it.
    pub(super) fn take_over(&mut self, from: &mut Self, old: u32, sent: bool) -> u32 {
        if sent {
            self.map.write_sent(self.next, true);
        }
        let half = resealed(&from.map.admission(old), self.live.seal, self.next);
        let slot = self.write(&half);
        from.map.write_settlement(old, &moved_half(from.live.seal, old));
        from.live.note_moved();
        from.close(old);
        slot
    }

    /// Sets or clears the sent mark.
    pub(super) fn mark(&mut self, slot: u32, sent: bool) {
        self.map.write_sent(slot, sent);
        self.changes.note(slot);
    }

    /// Writes the second half.
    pub(super) fn settle(&mut self, slot: u32, settlement: &Settlement) {
        self.map.write_settlement(slot, &settlement_half(self.live.seal, slot, settlement));
        self.close(slot);
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self) -> Option<Changes> {
        self.changes.take()
    }

    /// Tells whoever reads the file that no slot of it will change again.
    pub(super) fn finish(&self) {
        self.live.finish();
    }

    /// The map, to be undone.
    pub(super) fn into_map(self) -> Map {
        self.map
    }

    fn write(&mut self, half: &AdmissionHalf) -> u32 {
        let slot = self.next;
        self.map.write_admission(slot, half);
        self.next += 1;
        self.open += 1;
        self.live.hand_out(self.next);
        self.changes.note(slot);
        slot
    }

    fn close(&mut self, slot: u32) {
        self.open -= 1;
        self.changes.note(slot);
    }
}
