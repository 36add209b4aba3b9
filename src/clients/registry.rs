//! Live clients: one record for each client in use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::limiter::Limiter;
use crate::model::client::{Client, ClientStatus};
use crate::model::clock::Monotonic;
use crate::model::id::ClientId;
use crate::model::rate::RateLimit;

/// Where a client's limit comes from: the name its policy bears on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// `limits.default`
    Default,
    /// The client's own.
    Client,
}

impl LimitSource {
    /// The policy's name.
    #[must_use]
    pub fn policy(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Client => "client",
        }
    }
}

/// A client in use: its status, its limiter, and the generation that voids cached principals.
#[derive(Debug)]
pub struct LiveClient {
    /// Whose it is; nil for the open routes' nobody.
    pub id: ClientId,
    generation: AtomicU64,
    suspended: AtomicBool,
    own_limit: AtomicBool,
    limiter: Option<Limiter>,
}

impl LiveClient {
    fn new(client: &Client, default: RateLimit) -> Self {
        let live = Self {
            id: client.id,
            generation: AtomicU64::new(0),
            suspended: AtomicBool::new(false),
            own_limit: AtomicBool::new(false),
            limiter: Some(Limiter::new(client.limit().unwrap_or(default))),
        };
        live.note(client);
        live
    }

    /// The client of open routes: no limit, never suspended.
    #[must_use]
    pub fn nobody() -> Arc<Self> {
        Arc::new(Self {
            id: ClientId::NIL,
            generation: AtomicU64::new(0),
            suspended: AtomicBool::new(false),
            own_limit: AtomicBool::new(false),
            limiter: None,
        })
    }

    fn note(&self, client: &Client) {
        self.suspended.store(client.status == ClientStatus::Suspended, Ordering::Release);
        self.own_limit.store(client.limit().is_some(), Ordering::Release);
    }

    /// The number that a change raises: a principal made under a lower one is void.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it is suspended, as far as this process knows.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Its rate limit and where that comes from; none for nobody.
    #[must_use]
    pub fn limiter(&self) -> Option<(&Limiter, LimitSource)> {
        let source = if self.own_limit.load(Ordering::Acquire) { LimitSource::Client } else { LimitSource::Default };
        self.limiter.as_ref().map(|limiter| (limiter, source))
    }
}

/// All live clients.
///
/// A std mutex around a map: it is taken when a principal is loaded and when a change arrives,
/// never by a request that hits the cache.
#[derive(Debug, Default)]
pub struct LiveClients {
    live: Mutex<HashMap<ClientId, Arc<LiveClient>>>,
}

impl LiveClients {
    /// The record of `client`, brought up to date. Its limiter's state survives.
    pub fn attach(&self, client: &Client, default: RateLimit, now: Monotonic) -> Arc<LiveClient> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = live.entry(client.id).or_insert_with(|| Arc::new(LiveClient::new(client, default)));
        entry.note(client);
        if let Some(limiter) = &entry.limiter {
            limiter.change(client.limit().unwrap_or(default), now);
        }
        Arc::clone(entry)
    }

    /// Voids every principal of this client that was made before.
    pub fn bump(&self, client: ClientId) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = live.get(&client) {
            client.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Voids every principal.
    pub fn bump_all(&self) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        for client in live.values() {
            client.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Forgets clients that nobody holds and that owe nothing; returns how many stay.
    pub fn sweep(&self, now: Monotonic) -> usize {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, client| {
            let held = Arc::strong_count(client) > 1;
            held || client.limiter.as_ref().is_some_and(|limiter| !limiter.is_full(now))
        });
        live.len()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use jiff::Timestamp;

    use super::*;

    fn client(rate: Option<&str>) -> Client {
        Client {
            id: ClientId(uuid::Uuid::from_u128(1)),
            name: "acme".into(),
            status: ClientStatus::Active,
            rate: rate.map(|rate| rate.parse().unwrap()),
            burst: None,
            plan_id: None,
            metadata: serde_json::json!({}),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_client_that_owes_stays_though_nobody_holds_it() {
        let clients = LiveClients::default();
        let default = RateLimit::new("1/s".parse().unwrap(), NonZeroU32::new(5));
        let now = Monotonic(1_000_000_000);
        let live = clients.attach(&client(None), default, now);
        live.limiter().unwrap().0.check(NonZeroU32::new(5).unwrap(), now).unwrap();
        drop(live);
        assert_eq!(clients.sweep(now), 1);
        let again = clients.attach(&client(None), default, now);
        assert_eq!(again.limiter().unwrap().0.stand(now).remaining, 0, "eviction must not give budget away");
        drop(again);
        assert_eq!(clients.sweep(now.after(std::time::Duration::from_secs(6))), 0);
    }

    #[test]
    fn a_change_bumps_the_generation_and_swaps_the_limit() {
        let clients = LiveClients::default();
        let default = RateLimit::new("1/s".parse().unwrap(), None);
        let now = Monotonic(1);
        let live = clients.attach(&client(None), default, now);
        assert_eq!(live.limiter().unwrap().1, LimitSource::Default);
        let before = live.generation();
        clients.bump(live.id);
        assert!(live.generation() > before);
        clients.attach(&client(Some("7/s")), default, now);
        let (limiter, source) = live.limiter().unwrap();
        assert_eq!((limiter.stand(now).limit.burst.get(), source), (7, LimitSource::Client));
    }
}
