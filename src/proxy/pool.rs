//! Idle connections to one endpoint, on one worker.
//!
//! Last in, first out: the connection used last is the one most likely still open and warm, and
//! those that are not needed grow old at the bottom. No socket is probed before use: that is a
//! system call for every request to learn what the failed write says anyway.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;

use super::heard::Heard;
use super::intake::OutgoingBody;
use crate::model::clock::Monotonic;

/// The sending half of an upstream connection, and whether the other half has heard an answer.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) half: SendRequest<OutgoingBody>,
    pub(super) heard: Heard,
}

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
    idle: VecDeque<(Sender, Monotonic)>,
}

impl Pool {
    pub(super) fn new(keep_alive: Duration, limit: usize) -> Arc<Self> {
        Arc::new(Self { keep_alive, limit, state: Mutex::default() })
    }

    /// A connection that seems open, and is this caller's alone until given back.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut state = self.state();
        loop {
            let (sender, _) = state.idle.pop_back()?;
            if sender.half.is_ready() {
                return Some(sender);
            }
        }
    }

    /// Sets the time, and closes what is too old or was closed by the other side.
    pub(super) fn tick(&self, now: Monotonic) {
        let mut state = self.state();
        state.now = now;
        state.idle.retain(|(sender, since)| !sender.half.is_closed() && now.since(*since) < self.keep_alive);
    }

    /// Keeps a connection for the next request. One that cannot take another (the upstream
    /// closes it, or is still being sent to) is dropped, which closes it when it is done.
    fn give_back(&self, sender: Sender) {
        if !sender.half.is_ready() {
            return;
        }
        let mut state = self.state();
        let now = state.now;
        state.idle.push_back((sender, now));
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

/// A connection in use, and where it belongs.
#[derive(Debug)]
pub(super) struct Lease {
    sender: Sender,
    home: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(sender: Sender, home: Arc<Pool>) -> Self {
        Self { sender, home }
    }

    /// Called when the response was read to its end.
    pub(super) fn give_back(self) {
        self.home.give_back(self.sender);
    }
}
