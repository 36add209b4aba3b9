//! Idle connections to one endpoint, on one worker.
//!
//! Last in, first out: the connection used last is the one most likely still open and warm, and
//! those that are not needed grow old at the bottom. No socket is probed before use: whether
//! something happened on it, the runtime knows without a system call.
//!
//! A connection is not kept for ever: an endpoint that is a balancer or a name would never be
//! asked again where its connections should lead. Nor beyond the address that it leads to.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::upstream::Connection;
use crate::config::upstream::UpstreamConfig;
use crate::model::clock::Monotonic;
use crate::server::names::{Addresses, Name};

/// The connections of one endpoint that are not in use.
#[derive(Debug)]
pub(super) struct Pool {
    keep_alive: Duration,
    lifetime: Option<Duration>,
    limit: usize,
    /// Of the endpoint, if it is one.
    name: Option<Arc<Name>>,
    // A std mutex: a worker's own, so nobody waits; held for a push or a pop.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time of the last tick; exact enough for ages of seconds.
    now: Monotonic,
    /// What the name stood for then.
    known: Option<Arc<Addresses>>,
    idle: VecDeque<(Box<Connection>, Monotonic)>,
}

impl State {
    /// Whether a connection may serve on.
    fn keeps(&self, connection: &Connection) -> bool {
        let is_known = |(known, address): (&Arc<Addresses>, IpAddr)| known.has(address);
        let is_young = connection.expires.is_none_or(|expires| self.now < expires);
        is_young && self.known.as_ref().zip(connection.address).is_none_or(is_known)
    }
}

impl Pool {
    /// `name`: the endpoint's, if it is not an address.
    pub(super) fn new(config: &UpstreamConfig, name: Option<&Arc<Name>>) -> Arc<Self> {
        Arc::new(Self {
            keep_alive: config.keep_alive,
            lifetime: config.connection_lifetime,
            limit: config.keep_alive_connections,
            name: name.cloned(),
            state: Mutex::default(),
        })
    }

    /// A connection that seems open, and is this caller's alone until given back. `towards`: one
    /// that leads there.
    pub(super) fn take(&self, towards: Option<IpAddr>) -> Option<Box<Connection>> {
        let mut state = self.state();
        loop {
            let place = match towards {
                None => state.idle.len().checked_sub(1)?,
                Some(_) => state.idle.iter().rposition(|(connection, _)| connection.address == towards)?,
            };
            let (mut connection, _) = state.idle.remove(place)?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Sets the time, and closes what is too old, leads where the name no longer does, or was
    /// closed by the other side.
    pub(super) fn tick(&self, now: Monotonic) {
        let mut state = self.state();
        state.now = now;
        if let Some(name) = &self.name {
            let known = name.known();
            if state.known.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &known)) {
                state.known = Some(Arc::clone(&known)).filter(|known| known.count() > 0);
            }
        }
        let mut idle = std::mem::take(&mut state.idle);
        idle.retain_mut(|(connection, since)| {
            now.since(*since) < self.keep_alive && state.keeps(connection) && connection.is_quiet()
        });
        state.idle = idle;
    }

    /// Keeps a connection for the next request.
    pub(super) fn give_back(&self, mut connection: Box<Connection>) {
        connection.rest();
        let mut state = self.state();
        let now = state.now;
        if let Some(lifetime) = self.lifetime {
            connection.expires.get_or_insert(now.after(lifetime));
        }
        if !state.keeps(&connection) {
            return;
        }
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
