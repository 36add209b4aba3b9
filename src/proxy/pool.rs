//! Idle connections to one endpoint, on one worker.
//!
//! Last in, first out: the connection used last is the one most likely still open and warm, and
//! those that are not needed grow old at the bottom. No socket is probed before use: whether
//! something happened on it, the runtime knows without a system call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::upstream::Connection;
use crate::model::clock::Monotonic;

/// The connections of one endpoint that are not in use.
#[derive(Debug)]
pub(super) struct Pool {
    keep_alive: Duration,
    limit: usize,
    // A std mutex: a worker's own, so nobody waits; held for a push or a pop.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time of the last tick; exact enough for ages of seconds.
    now: Monotonic,
    idle: VecDeque<(Box<Connection>, Monotonic)>,
}

impl Pool {
    pub(super) fn new(keep_alive: Duration, limit: usize) -> Arc<Self> {
        Arc::new(Self { keep_alive, limit, state: Mutex::default() })
    }

    /// A connection that seems open, and is this caller's alone until given back.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut state = self.state();
        loop {
            let (mut connection, _) = state.idle.pop_back()?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Sets the time, and closes what is too old or was closed by the other side.
    pub(super) fn tick(&self, now: Monotonic) {
        let mut state = self.state();
        state.now = now;
        state.idle.retain_mut(|(connection, since)| now.since(*since) < self.keep_alive && connection.is_quiet());
    }

    /// Keeps a connection for the next request.
    pub(super) fn give_back(&self, mut connection: Box<Connection>) {
        connection.rest();
        let mut state = self.state();
        let now = state.now;
        state.idle.push_back((connection, now));
        if state.idle.len() > self.limit {
            state.idle.pop_front();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state().idle.len()
    }
}
