//! Up to when a journal owes nothing.

use std::sync::Arc;

use jiff::Timestamp;

use super::Drain;
use crate::metering::segment::{CHUNK_SLOTS, LiveSegment};
use crate::metering::slot::{SLOT_BYTES, Slot};
use crate::tasks::blocking;

/// What is to be looked at of a segment.
struct Look {
    live: Arc<LiveSegment>,
    done: Vec<u64>,
    low: u32,
}

impl Drain {
    /// When the oldest entry arrived that the store does not have, open ones included; none: it
    /// has all.
    pub(in crate::metering) async fn oldest_owed(&mut self) -> Option<Timestamp> {
        self.segments.extend(self.shared.take_made().into_iter().map(super::Draining::new));
        let looks: Vec<Look> = self
            .segments
            .iter()
            .map(|segment| Look { live: Arc::clone(&segment.live), done: segment.done.clone(), low: segment.low })
            .collect();
        blocking(move || looks.iter().filter_map(Look::oldest).min()).await
    }
}

impl Look {
    fn oldest(&self) -> Option<Timestamp> {
        let end = self.live.handed_out();
        let (mut from, mut oldest) = (self.low, None::<Timestamp>);
        let mut buffer = Vec::new();
        while from < end {
            let count = CHUNK_SLOTS.min(end - from);
            if let Err(error) = self.live.read(from, count, &mut buffer) {
                // Nothing is known of it: it may owe everything.
                tracing::error!(segment = %self.live.path.display(), %error, "a segment could not be read");
                return Some(Timestamp::UNIX_EPOCH);
            }
            for (slot, bytes) in (from..).zip(buffer.as_chunks::<SLOT_BYTES>().0) {
                let done = self.done[(slot / 64) as usize] & (1 << (slot % 64)) != 0;
                if done {
                    continue;
                }
                if let Slot::Open(admission, _) | Slot::Settled(admission, _) = Slot::read(self.live.seal, slot, bytes)
                {
                    let at = admission.occurred_at;
                    oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
                }
            }
            from += count;
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::super::super::double::{Rig, admission, settlement};
    use crate::model::usage::{Admission, Outcome};

    #[tokio::test]
    async fn the_oldest_that_the_store_lacks_is_owed_open_or_settled() {
        let rig = Rig::new();
        let journal = rig.open();
        let first = admission(1).occurred_at;
        let at = |number: u128| {
            let later = i64::try_from(number).unwrap().seconds();
            Admission { occurred_at: first.checked_add(later).unwrap(), ..admission(number) }
        };
        let owed = async || journal.drain.lock().await.oldest_owed().await;
        assert_eq!(owed().await, None);
        let meter = journal.meter(0);
        meter.admit(&at(1)).unwrap().settle(&settlement(Outcome::Complete));
        let open = meter.admit(&at(2)).unwrap();
        meter.admit(&at(3)).unwrap().settle(&settlement(Outcome::Complete));
        assert_eq!(owed().await, Some(at(1).occurred_at));
        rig.drain(&journal).await;
        assert_eq!(owed().await, Some(at(2).occurred_at), "it is under way");
        // Also when its segment is full and it was moved to the next.
        let slots = u128::from(journal.shared.blueprint.slots());
        Rig::supply(&journal);
        for number in 4..4 + 2 * slots {
            if let Ok(entry) = meter.admit(&at(number)) {
                entry.settle(&settlement(Outcome::Complete));
            }
            rig.drain(&journal).await;
            Rig::supply(&journal);
        }
        assert_eq!(owed().await, Some(at(2).occurred_at));
        open.settle(&settlement(Outcome::Complete));
        rig.drain(&journal).await;
        assert_eq!(owed().await, None);
    }
}
