//! What a look-up refused is told at the end of a slot, counted from the request: how long the
//! look-up took within it cannot be seen from outside.
//!
//! A thread waits for the ends of slots, because a runtime's timer will not do. Its thread sleeps
//! whole milliseconds from whenever it last had something to do, here from the end of the look-up:
//! it would wake up on time but for a fraction of a millisecond, and that fraction is what was to
//! be hidden. It was measured so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::clock::{Monotonic, SharedClock, SystemClock};

/// Ends of slots that are waited for.
pub(super) struct Slots {
    queue: Arc<Queue>,
    /// The machine's, also where a test moves another.
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The earliest on top.
    ends: BinaryHeap<Reverse<End>>,
    over: bool,
}

/// Ordered by time alone.
#[derive(Debug)]
struct End {
    at: Monotonic,
    tell: oneshot::Sender<()>,
}

impl Slots {
    /// Starts the thread. Without one nobody waits, and the log says so.
    pub(super) fn new() -> Self {
        let clock = SystemClock::shared();
        let queue = Arc::new(Queue::default());
        let (of_thread, time) = (Arc::clone(&queue), Arc::clone(&clock));
        let thread = thread::Builder::new().name("refusals".to_owned()).spawn(move || of_thread.serve(&time));
        if let Err(error) = thread {
            tracing::error!(%error, "no thread for refusals; how long they take shows what was looked up");
            queue.lock().over = true;
        }
        Self { queue, clock }
    }

    /// Resolves at the end of a slot of which `taken` has passed, or of the last of several.
    pub(super) async fn end(&self, taken: Duration) {
        let at = self.clock.monotonic().after(rest(taken));
        let (tell, told) = oneshot::channel();
        {
            let mut waiting = self.queue.lock();
            if waiting.over {
                return;
            }
            waiting.ends.push(Reverse(End { at, tell }));
        }
        self.queue.more.notify_one();
        // An error: the thread is gone, and nobody waits any more.
        let _ = told.await;
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.queue.lock().over = true;
        self.queue.more.notify_one();
    }
}

impl Queue {
    /// The thread: tells whose slot has ended, and sleeps until the next one does.
    fn serve(&self, clock: &SharedClock) {
        let mut waiting = self.lock();
        while !waiting.over {
            let now = clock.monotonic();
            let left = waiting.ends.peek().map(|Reverse(end)| end.at.since(now));
            waiting = match left {
                None => self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(left) if !left.is_zero() => {
                    self.more.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    if let Some(Reverse(end)) = waiting.ends.pop() {
                        // An error: the caller is gone.
                        let _ = end.tell.send(());
                    }
                    waiting
                }
            };
        }
        waiting.ends.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that can panic runs under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for End {}

/// What is left of a slot when so much of it, and of those before it, has passed.
fn rest(taken: Duration) -> Duration {
    let slot = SLOT.as_nanos();
    u64::try_from(slot - taken.as_nanos() % slot).map_or(SLOT, Duration::from_nanos)
}

/// Many times what a look-up takes, and nothing to a caller who will not get in anyway.
const SLOT: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn slots_end_where_the_next_one_begins() {
        for (taken, left) in [(0, 5_000), (1, 4_999), (4_999, 1), (5_000, 5_000), (7_500, 2_500), (60_000_001, 4_999)] {
            let (taken, left) = (Duration::from_micros(taken), Duration::from_micros(left));
            assert_eq!(rest(taken), left, "after {taken:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_told_early_or_forgotten_whatever_the_order() {
        let slots = Arc::new(Slots::new());
        let mut callers = JoinSet::new();
        for taken in [0, 4_900, 2_000, 14_000, 1_000, 4_000] {
            let slots = Arc::clone(&slots);
            callers.spawn(async move {
                let (taken, began) = (Duration::from_micros(taken), slots.clock.monotonic());
                slots.end(taken).await;
                (slots.clock.monotonic().since(began), rest(taken))
            });
        }
        while let Some(told) = callers.join_next().await {
            let (waited, wanted) = told.unwrap();
            assert!(waited >= wanted && waited < wanted + Duration::from_secs(5), "{waited:?}, not {wanted:?}");
        }
        let (queue, waiting) = (Arc::clone(&slots.queue), slots.end(Duration::ZERO));
        queue.lock().over = true;
        waiting.await;
    }
}
