//! Interim records: a transfer that goes on is told of as it goes, so that a crash loses no more of
//! it than one interval, and nobody waits for the end of a stream to see it billed.
//!
//! Owns what records have told of one exchange and what is left for the next. Refuses to own when:
//! whoever drives bytes calls `RequestContext::passing` at each turn, and the server's sweep says
//! when it is time (`Peer::take_reminder`). So a short request pays for none of this with more
//! than a look at a flag, and a stream that stands still is looked at all the same. A
//! tunnel (WebSocket) is such an exchange: its bytes are those of a request and of a response.
//!
//! Each byte is told once: by a record or, what none has told, by the request's event. Everything
//! that a request has once (its time, its units, its end) only the event has.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metering::Entry;
use crate::model::usage::{Admission, Outcome, Settlement};

/// Bytes of a request's body and of its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// What interim records have told.
// Atomics, because an exchange under way shares its request; it is one task, so nothing contends.
#[derive(Debug, Default)]
pub(super) struct Told {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Told {
    /// What no record has told.
    pub(super) fn rest_of(&self, passed: Passed) -> Passed {
        Passed {
            bytes_in: passed.bytes_in.saturating_sub(self.bytes_in.load(Relaxed)),
            bytes_out: passed.bytes_out.saturating_sub(self.bytes_out.load(Relaxed)),
        }
    }

    /// Writes a record of what none has told, if there is anything. Without room for it in the
    /// journal that is left to the next one. `part`: its first half.
    pub(super) fn tell(&self, entry: &Entry, part: &Admission, status: Option<u16>, passed: Passed) {
        let rest = self.rest_of(passed);
        if rest == Passed::default() {
            return;
        }
        let settlement = Settlement {
            status,
            // So far.
            outcome: Outcome::Complete,
            reason: None,
            duration_us: 0,
            bytes_in: rest.bytes_in,
            bytes_out: rest.bytes_out,
            units: None,
        };
        if entry.record(part, &settlement) {
            self.bytes_in.store(passed.bytes_in, Relaxed);
            self.bytes_out.store(passed.bytes_out, Relaxed);
        }
    }
}
