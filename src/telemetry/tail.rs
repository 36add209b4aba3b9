//! What goes on, as it goes on: ended and refused requests, for those who watch (`octroi tail`).
//!
//! While nobody watches, a request costs one load of an atomic here. Who watches too slowly misses
//! some, and is told how many; no request ever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::model::id::ClientId;

/// How many are kept for one who watches.
const KEPT: usize = 1_024;

/// The most who watch at a time: each is sent everything.
const MOST: usize = 16;

/// A request that ended.
#[derive(Clone, Debug, Serialize)]
pub struct Tailed {
    /// When it came.
    pub at: Timestamp,
    /// As the caller was told.
    pub request_id: String,
    /// Whose; nil: not known.
    pub client_id: ClientId,
    /// The route; empty: none.
    pub route: String,
    /// As sent.
    pub method: String,
    /// Without the query, secrets masked.
    pub path: String,
    /// What the caller was sent.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: &'static str,
    /// Why, in truth.
    pub reason: String,
    /// From the caller.
    pub bytes_in: u64,
    /// To the caller.
    pub bytes_out: u64,
    /// From its head to its end, in microseconds.
    pub duration_us: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Tail {
    watchers: AtomicUsize,
    sender: broadcast::Sender<Arc<Tailed>>,
}

/// One who watches.
#[derive(Debug)]
pub struct Watcher {
    tail: Arc<Tail>,
    receiver: broadcast::Receiver<Arc<Tailed>>,
}

/// What one who watches is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A request.
    Request(Arc<Tailed>),
    /// So many were missed.
    Missed(u64),
}

impl Tail {
    /// Nobody watches.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { watchers: AtomicUsize::new(0), sender: broadcast::channel(KEPT).0 })
    }

    /// Whether anybody watches: else nothing need be told.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Relaxed) > 0
    }

    /// Tells those who watch.
    pub fn tell(&self, tailed: Tailed) {
        // Whoever has just gone needs no answer.
        let _ = self.sender.send(Arc::new(tailed));
    }

    /// Watches from now on; none: enough do already. Half of the places are for who sees all clients.
    #[must_use]
    pub fn watch(self: &Arc<Self>, sees_all: bool) -> Option<Watcher> {
        let most = if sees_all { MOST } else { MOST / 2 };
        let added = self.watchers.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1));
        added.ok().map(|_| Watcher { tail: Arc::clone(self), receiver: self.sender.subscribe() })
    }
}

impl Watcher {
    /// The next one; none: the gateway ends.
    pub async fn next(&mut self) -> Option<Told> {
        match self.receiver.recv().await {
            Ok(tailed) => Some(Told::Request(tailed)),
            Err(RecvError::Lagged(missed)) => Some(Told::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tail.watchers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tailed(number: u64) -> Tailed {
        Tailed {
            at: Timestamp::UNIX_EPOCH,
            request_id: number.to_string(),
            client_id: ClientId::NIL,
            route: String::new(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            status: Some(200),
            outcome: "complete",
            reason: String::new(),
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 1,
        }
    }

    #[tokio::test]
    async fn who_is_slow_misses_some_and_is_told() {
        let tail = Tail::new();
        assert!(!tail.is_watched());
        let mut watcher = tail.watch(true).unwrap();
        assert!(tail.is_watched());
        let sent = KEPT as u64 + 10;
        (0..sent).for_each(|number| tail.tell(tailed(number)));
        assert!(matches!(watcher.next().await, Some(Told::Missed(10))));
        assert!(matches!(watcher.next().await, Some(Told::Request(first)) if first.request_id == "10"));
        drop(watcher);
        assert!(!tail.is_watched());
    }

    #[test]
    fn only_so_many_watch() {
        let tail = Tail::new();
        let mut watchers: Vec<_> = (0..MOST / 2).map(|_| tail.watch(false).unwrap()).collect();
        assert!(tail.watch(false).is_none());
        watchers.extend((0..MOST / 2).map(|_| tail.watch(true).unwrap()));
        assert!(tail.watch(true).is_none());
        drop(watchers);
        assert!(tail.watch(false).is_some());
    }
}
