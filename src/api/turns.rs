//! Turns at what is costly: so many at once for each who asks. However much somebody asks, it waits
//! behind its own, and no more of it than this stands before others.

use std::sync::Arc;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// For so many who ask their places are remembered; the one that asked longest ago is forgotten, and has
/// all of its places again.
const REMEMBERED: u64 = 10_000;

/// A place that is taken, until it is dropped.
pub(super) type Turn = OwnedSemaphorePermit;

/// The places of each.
pub(super) struct Turns {
    places: usize,
    own: Cache<Uuid, Arc<Semaphore>>,
}

impl Turns {
    pub(super) fn new(places: usize) -> Self {
        Self { places, own: Cache::new(REMEMBERED) }
    }

    /// Waits for a place of this one's.
    pub(super) async fn wait(&self, who: Uuid) -> Option<Turn> {
        self.of(who).acquire_owned().await.ok()
    }

    /// A place of this one's, if one is free.
    pub(super) fn take(&self, who: Uuid) -> Option<Turn> {
        self.of(who).try_acquire_owned().ok()
    }

    fn of(&self, who: Uuid) -> Arc<Semaphore> {
        self.own.get_with(who, || Arc::new(Semaphore::new(self.places)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_places() {
        let (turns, one, other) = (Turns::new(2), Uuid::from_u128(1), Uuid::from_u128(2));
        let (first, second) = (turns.take(one), turns.take(one));
        assert!(first.is_some() && second.is_some() && turns.take(one).is_none());
        assert!(turns.take(other).is_some(), "another waits for nobody");
        drop(first);
        assert!(turns.take(one).is_some());
    }
}
