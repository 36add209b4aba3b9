//! What many ask for at once and is dear to find: asked once, told to all for a while.

use std::sync::Arc;
use std::time::Duration;

use super::fault::Result;
use crate::model::clock::{Monotonic, SharedClock};

/// How long a failure is told to others: a store that does not answer is not asked by each who waits.
const FAILURE_HELD: Duration = Duration::from_secs(5);

/// The last answer to one question.
pub(super) struct Remembered<T> {
    held_for: Duration,
    /// A lock of tokio's, held while the question is asked: those who come meanwhile want that answer,
    /// and whoever asks may leave, which lets the next one ask.
    last: tokio::sync::Mutex<Option<Last<T>>>,
}

struct Last<T> {
    at: Monotonic,
    answer: Result<Arc<T>>,
}

impl<T> Remembered<T> {
    /// Nothing yet; what is found is told for so long.
    pub(super) fn new(held_for: Duration) -> Self {
        Self { held_for, last: tokio::sync::Mutex::new(None) }
    }

    /// The answer of a while ago, or a new one.
    ///
    /// # Errors
    /// What `ask` says, or said a moment ago.
    pub(super) async fn read(&self, clock: &SharedClock, ask: impl AsyncFnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref() {
            let held_for = if last.answer.is_ok() { self.held_for } else { FAILURE_HELD };
            if clock.monotonic().since(last.at) < held_for {
                return last.answer.clone();
            }
        }
        let answer = ask().await.map(Arc::new);
        *last = Some(Last { at: clock.monotonic(), answer: answer.clone() });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::api::fault::Fault;
    use crate::model::clock::ManualClock;

    #[tokio::test]
    async fn of_those_who_ask_at_once_one_asks_the_store() {
        let manual = ManualClock::at("2026-11-22T20:00:00Z".parse().unwrap());
        let clock: SharedClock = manual.clone();
        let (remembered, asked) = (Remembered::new(Duration::from_secs(30)), AtomicU32::new(0));
        let read = async || {
            let ask = async || {
                let number = asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(number)
            };
            *remembered.read(&clock, ask).await.unwrap()
        };
        assert_eq!(tokio::join!(read(), read(), read()), (0, 0, 0));
        manual.advance(Duration::from_secs(29));
        assert_eq!(read().await, 0);
        manual.advance(Duration::from_secs(1));
        assert_eq!(read().await, 1);
    }

    #[tokio::test]
    async fn a_failure_is_told_for_a_moment_and_then_asked_again() {
        let manual = ManualClock::at("2026-11-22T20:00:00Z".parse().unwrap());
        let clock: SharedClock = manual.clone();
        let remembered = Remembered::new(Duration::from_secs(30));
        let failed = remembered.read(&clock, async || Err::<u32, _>(Fault::internal())).await;
        assert!(failed.is_err());
        assert!(remembered.read(&clock, async || Ok(1)).await.is_err(), "not asked again at once");
        manual.advance(FAILURE_HELD);
        assert_eq!(*remembered.read(&clock, async || Ok(1)).await.unwrap(), 1);
    }
}
