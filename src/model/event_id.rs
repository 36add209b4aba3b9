//! Makes event ids: UUID v7 (RFC 9562 §5.7), one generator per worker.
//!
//! The `uuid` crate's own generator keeps a counter behind a process-wide lock; a worker must
//! not wait for another, so each has its own. Ids of one generator rise strictly, also when the
//! wall clock steps back: then the last millisecond goes on being used.

use jiff::Timestamp;
use uuid::Uuid;

use super::id::EventId;

/// How many random bytes are fetched from the kernel at a time: one system call per 512 ids.
const POOL_BYTES: usize = 4096;

/// A source of [`EventId`]s. Not shared: every worker owns one.
pub struct EventIdGenerator {
    last_millisecond: u64,
    counter: u16,
    pool: Box<[u8; POOL_BYTES]>,
    used: usize,
}

impl EventIdGenerator {
    /// The largest counter that fits the 12 bits of `rand_a`.
    const COUNTER_MAX: u16 = 0x0FFF;

    /// A generator with an empty pool of randomness.
    #[must_use]
    pub fn new() -> Self {
        Self { last_millisecond: 0, counter: 0, pool: Box::new([0; POOL_BYTES]), used: POOL_BYTES }
    }

    /// The next id, for something that happened at `now`.
    pub fn next(&mut self, now: Timestamp) -> EventId {
        let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
        if now > self.last_millisecond {
            self.last_millisecond = now;
            self.counter = 0;
        } else if self.counter < Self::COUNTER_MAX {
            self.counter += 1;
        } else {
            // 4,096 ids within a millisecond: borrow from the next one (RFC 9562 §6.2).
            self.last_millisecond += 1;
            self.counter = 0;
        }
        let high = (self.last_millisecond << 16) | 0x7000 | u64::from(self.counter);
        let low = 0x8000_0000_0000_0000 | (self.random() >> 2);
        EventId(Uuid::from_u64_pair(high, low))
    }

    fn random(&mut self) -> u64 {
        if self.used + 8 > POOL_BYTES {
            getrandom::fill(&mut self.pool[..]).expect("the kernel gives randomness once it has booted");
            self.used = 0;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.pool[self.used..self.used + 8]);
        self.used += 8;
        u64::from_le_bytes(bytes)
    }
}

impl Default for EventIdGenerator {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_are_version_7_even_when_the_clock_steps_back() {
        let mut ids = EventIdGenerator::new();
        let now = Timestamp::from_millisecond(1_790_000_000_000).unwrap();
        let earlier = Timestamp::from_millisecond(1_789_999_999_000).unwrap();
        let mut last = ids.next(now);
        for step in 0..10_000 {
            let next = ids.next(if step % 3 == 0 { earlier } else { now });
            assert!(next > last);
            assert_eq!(next.0.get_version_num(), 7);
            assert_eq!(next.0.get_variant(), uuid::Variant::RFC4122);
            last = next;
        }
        let millisecond = (last.0.as_u128() >> 80) as u64;
        assert!((1_790_000_000_000..=1_790_000_000_003).contains(&millisecond));
    }
}
