//! Look-ups under way: one for each key, however many wait.
//!
//! A look-up is a task of the control runtime, not a part of the first request that asked: that
//! request may be cancelled, or its worker stalled, and nobody else notices.
//!
//! Only so many are under way at once; beyond that the store is not helped by more. What nobody
//! waits for gets a small part of them: thousands of identities come to their refresh at the same
//! moment, and a caller who needs an answer must not be turned away for that.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::tasks::Tasks;

/// Look-ups under way at once.
const FLIGHTS_MAX: usize = 1024;

/// Of these, while nobody waits for the answer. More would only stand before callers in the queue
/// for the store's few connections.
const BACKGROUND_MAX: usize = 32;

/// Who wants a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A caller, who waits.
    Request,
    /// Upkeep: what is known would do a while longer.
    Background,
}

impl Errand {
    fn limit(self) -> usize {
        match self {
            Self::Request => FLIGHTS_MAX,
            Self::Background => BACKGROUND_MAX,
        }
    }
}

/// Look-ups under way. The lock is held for a look into a map, never across an await.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    waiting: Mutex<HashMap<K, watch::Receiver<Option<V>>>>,
    /// How many, to be read without the lock.
    count: AtomicUsize,
}

/// What [`Flights::join`] gives.
#[derive(Debug)]
pub(super) enum Joined<V> {
    /// A look-up is under way.
    Flight(Flight<V>),
    /// One landed a moment ago: this is what it found.
    Landed(V),
    /// Too many are.
    Full,
}

/// A look-up that can be waited for.
#[derive(Debug)]
pub(super) struct Flight<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Flight<V> {
    /// What it found; none: its task ended without an answer.
    pub(super) async fn landed(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None under way.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), count: AtomicUsize::new(0) })
    }

    /// Whether one more may start that nobody waits for. Takes no lock.
    pub(super) fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < BACKGROUND_MAX
    }

    /// The look-up under way for `key`, or a new one by `look_up`. `landed` looks for the answer of
    /// one that ended between the caller's look into a cache and this one.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: K,
        errand: Errand,
        tasks: &Tasks,
        landed: impl FnOnce() -> Option<V>,
        look_up: impl FnOnce() -> F,
    ) -> Joined<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut waiting = self.lock();
        if let Some(flight) = waiting.get(&key) {
            return Joined::Flight(Flight(flight.clone()));
        }
        if let Some(found) = landed() {
            return Joined::Landed(found);
        }
        if waiting.len() >= errand.limit() {
            return Joined::Full;
        }
        let (announce, flight) = watch::channel(None);
        waiting.insert(key.clone(), flight.clone());
        self.count.store(waiting.len(), Ordering::Relaxed);
        drop(waiting);
        let (landing, look_up) = (Landing { flights: Arc::clone(self), key }, look_up());
        tasks.spawn_control(async move {
            let found = look_up.await;
            // Out of the map first: who comes now finds the caches filled.
            drop(landing);
            let _ = announce.send(Some(found));
        });
        Joined::Flight(Flight(flight))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        // No code that can panic runs under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight when its task ends, also by a panic or because the runtime went away.
struct Landing<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut waiting = self.flights.lock();
        waiting.remove(&self.key);
        self.flights.count.store(waiting.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn all_who_want_the_same_share_one_flight() {
        let (flights, tasks) = (Flights::<u8, u8>::new(), Tasks::new(Handle::current()));
        let (answer, look_up) = oneshot::channel::<u8>();
        let first = flights.join(1, Errand::Request, &tasks, || None, || async { look_up.await.unwrap() });
        let second =
            flights.join(1, Errand::Background, &tasks, || None, || async { unreachable!("one is under way") });
        answer.send(7).unwrap();
        for joined in [first, second] {
            let Joined::Flight(flight) = joined else { panic!("{joined:?}") };
            assert_eq!(flight.landed().await, Some(7));
        }
        let third = flights.join(1, Errand::Request, &tasks, || Some(7), || async { unreachable!("it landed") });
        assert!(matches!(third, Joined::Landed(7)));
    }

    #[tokio::test]
    async fn a_flight_that_breaks_off_leaves_the_way_free() {
        let (flights, tasks) = (Flights::<u8, u8>::new(), Tasks::new(Handle::current()));
        let broken = flights.join(1, Errand::Request, &tasks, || None, || async { panic!("on purpose") });
        let Joined::Flight(flight) = broken else { panic!("{broken:?}") };
        assert_eq!(flight.landed().await, None);
        let again = flights.join(1, Errand::Request, &tasks, || None, || async { 2 });
        let Joined::Flight(flight) = again else { panic!("{again:?}") };
        assert_eq!(flight.landed().await, Some(2));
    }

    #[tokio::test]
    async fn refreshes_never_turn_a_caller_away() {
        let (flights, tasks) = (Flights::<usize, u8>::new(), Tasks::new(Handle::current()));
        let ask =
            |key, errand| matches!(flights.join(key, errand, &tasks, || None, std::future::pending), Joined::Flight(_));
        let refreshed = (0..5_000).filter(|key| ask(*key, Errand::Background)).count();
        assert_eq!((refreshed, flights.has_room()), (BACKGROUND_MAX, false));
        let answered = (10_000..15_000).filter(|key| ask(*key, Errand::Request)).count();
        assert_eq!(answered, FLIGHTS_MAX - BACKGROUND_MAX);
    }
}
