//! One load per missing key, however many wait for it.
//!
//! Loads run on the control runtime with a deadline of their own, not inside the first caller's
//! request: a caller that is cancelled, or whose worker is busy, stalls nobody.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::tasks::Tasks;

/// Loads under way, by what they load.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K, V> Flights<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { under_way: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Joins the load of `key`, or starts it. None: the load panicked.
    pub(super) async fn join<F>(&self, key: K, tasks: &Tasks, load: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = self.receiver(key, tasks, load);
        // A load that ended without an answer dropped its sender: `wait_for` says so.
        let answer = answer.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }

    /// Starts the load of `key` unless one is under way; nobody waits for it here.
    pub(super) fn start<F>(&self, key: K, tasks: &Tasks, load: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        drop(self.receiver(key, tasks, load));
    }

    fn receiver<F>(&self, key: K, tasks: &Tasks, load: impl FnOnce() -> F) -> watch::Receiver<Option<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = under_way.get(&key) {
            return answer.clone();
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key, receiver.clone());
        let landing = Landing { key, under_way: Arc::clone(&self.under_way) };
        let load = load();
        tasks.spawn_control(async move {
            let landing = landing;
            let value = load.await;
            // Out of the map first: who comes now starts a load of its own and sees newer facts.
            drop(landing);
            sender.send_replace(Some(value));
        });
        receiver
    }
}

/// Takes the flight out of the map, also when its load panics.
struct Landing<K: Eq + Hash, V> {
    key: K,
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn a_thousand_waiters_are_one_load() {
        let (flights, tasks) = (Arc::new(Flights::<u8, u32>::new()), Tasks::new(Handle::current()));
        let loads = Arc::new(AtomicU32::new(0));
        let waiters: Vec<_> = (0..1000)
            .map(|_| {
                let (flights, tasks, loads) = (Arc::clone(&flights), tasks.clone(), Arc::clone(&loads));
                Tasks::spawn_here(async move {
                    let load = || async move {
                        tokio::task::yield_now().await;
                        loads.fetch_add(1, Ordering::SeqCst)
                    };
                    flights.join(7, &tasks, load).await
                })
            })
            .collect();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Some(0));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_cancelled_first_caller_stalls_nobody_and_a_panic_is_told() {
        let (flights, tasks) = (Flights::<u8, u32>::new(), Tasks::new(Handle::current()));
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        {
            let first = flights.join(7, &tasks, || async move {
                released.await.unwrap();
                5
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), first).await.is_err());
        }
        release.send(()).unwrap();
        assert_eq!(flights.join(7, &tasks, || async { unreachable!("joins the first one's load") }).await, Some(5));
        assert_eq!(flights.join(8, &tasks, || async { panic!("on purpose") }).await, None);
        assert_eq!(flights.join(8, &tasks, || async { 6 }).await, Some(6), "a panic leaves nothing behind");
    }
}
