//! Clients in use, and what is known to have changed about them.
//!
//! Two questions are answered here without asking the store. *Is this cached identity still what
//! the store last said?* Each client has a generation and all have an epoch; a cached identity
//! carries both as a [`Stamp`] and is void when either has moved. *Did anything change while a
//! row was being read?* A [`ChangeMark`] taken before the read says so, and [`LiveClients::attach`]
//! lets an old read overwrite nothing.
//!
//! Refuses to know of stores, feeds and credentials: `auth` tells it what changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::counters::LimitCounters;
use super::limiter::{Policy, PolicyName};
use super::live_client::LiveClient;
use super::terms::ReachedMarks;
use crate::model::client::Client;
use crate::model::clock::Monotonic;
use crate::model::id::ClientId;
use crate::model::rate::RateLimit;
use crate::model::usage::UsageEvent;
use crate::telemetry::metrics::Metrics;

/// What a cached identity was made from. Void when the client's generation or the epoch moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    generation: u64,
    epoch: u64,
}

/// How many changes were known at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeMark(u64);

/// A client attached to what was read of it.
#[derive(Debug)]
pub struct Attachment {
    /// The client.
    pub client: Arc<LiveClient>,
    /// For the cached identity.
    pub stamp: Stamp,
    /// Whether nothing changed since the mark. If something did, the row that was read may be
    /// older than what is known: it changed nothing here, and the identity may not be cached.
    pub current: bool,
}

/// All of them.
#[derive(Debug)]
pub struct LiveClients {
    /// Locked at loads and changes only, never by a request that finds its principal cached.
    clients: Mutex<HashMap<ClientId, Arc<LiveClient>>>,
    /// Every change that was told. Moves under the lock of `clients`.
    changes: AtomicU64,
    /// Changes that may concern everyone. Moves under the lock of `clients`.
    epoch: AtomicU64,
    nobody: Arc<LiveClient>,
    counters: Arc<LimitCounters>,
    marks: Arc<ReachedMarks>,
    /// Whether any client ever had a quota: while none has, commits need not be looked at.
    with_quotas: AtomicBool,
    asked: Arc<Notify>,
}

impl LiveClients {
    /// None yet.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        let counters = Arc::new(LimitCounters::new(metrics));
        let marks = Arc::<ReachedMarks>::default();
        Arc::new(Self {
            clients: Mutex::default(),
            changes: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            nobody: Arc::new(LiveClient::new(ClientId::NIL, None, Arc::clone(&counters), Arc::clone(&marks))),
            counters,
            marks,
            with_quotas: AtomicBool::new(false),
            asked: Arc::default(),
        })
    }

    /// The nil client, of routes that ask for nothing.
    #[must_use]
    pub fn nobody(&self) -> Arc<LiveClient> {
        Arc::clone(&self.nobody)
    }

    /// A client that is in use, or was lately.
    #[must_use]
    pub fn find(&self, client: ClientId) -> Option<Arc<LiveClient>> {
        lock(&self.clients).get(&client).cloned()
    }

    /// To be taken before a row is read.
    #[must_use]
    pub fn mark(&self) -> ChangeMark {
        ChangeMark(self.changes.load(Ordering::Acquire))
    }

    /// Attaches to a client that was read after `mark` was taken. If nothing changed since, what
    /// was read is taken over: status and limits, what was used of older ones kept. `now` and `at`
    /// are the same moment.
    pub fn attach(
        &self,
        client: &Client,
        default: RateLimit,
        mark: ChangeMark,
        now: Monotonic,
        at: Timestamp,
    ) -> Attachment {
        let policy = match client.limit() {
            Some(limit) => Policy { name: PolicyName::Client, limit },
            None => Policy { name: PolicyName::Default, limit: default },
        };
        let mut clients = lock(&self.clients);
        let current = self.mark() == mark;
        let mut is_new = false;
        let live = clients.entry(client.id).or_insert_with(|| {
            is_new = true;
            let (counters, marks) = (Arc::clone(&self.counters), Arc::clone(&self.marks));
            Arc::new(LiveClient::new(client.id, Some(policy), counters, marks))
        });
        // One that was not known takes even an old row: there is nothing newer to overwrite.
        if current || is_new {
            // Requests that waited for this look-up are charged, and arrived before it; of a client
            // that was known before, those that arrived earlier were not charged to new quotas.
            let waited = if is_new { WAITED_AT_MOST } else { SignedDuration::ZERO };
            let born = at.saturating_sub(waited).unwrap_or(Timestamp::MIN);
            if live.update(client, policy, born, now) {
                self.with_quotas.store(true, Ordering::Release);
                self.asked.notify_one();
            }
        }
        let stamp =
            Stamp { generation: live.generation.load(Ordering::Acquire), epoch: self.epoch.load(Ordering::Acquire) };
        Attachment { client: Arc::clone(live), stamp, current }
    }

    /// Whether nothing is known to have changed about `client` since `stamp`. Two atomic loads.
    #[must_use]
    pub fn confirm(&self, client: &LiveClient, stamp: Stamp) -> bool {
        client.generation.load(Ordering::Acquire) == stamp.generation
            && self.epoch.load(Ordering::Acquire) == stamp.epoch
    }

    /// Notes that something about a client changed: what was cached of it is void.
    pub fn bump(&self, client: ClientId) {
        let clients = lock(&self.clients);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(live) = clients.get(&client) {
            live.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Notes that anything may have changed: what was cached of anyone is void.
    pub fn bump_all(&self) {
        let _clients = lock(&self.clients);
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes events that were committed.
    pub(super) fn committed(&self, events: &[UsageEvent]) {
        if !self.with_quotas.load(Ordering::Acquire) {
            return;
        }
        let clients = lock(&self.clients);
        for event in events.iter().filter(|event| !event.client_id.is_nil()) {
            let Some(live) = clients.get(&event.client_id) else { continue };
            for quotas in &live.terms().quotas {
                quotas.counter.committed(event.occurred_at, i64::from(event.units));
            }
        }
    }

    /// Clients with quotas.
    #[must_use]
    pub fn with_quotas(&self) -> Vec<Arc<LiveClient>> {
        if !self.with_quotas.load(Ordering::Acquire) {
            return Vec::new();
        }
        let clients = lock(&self.clients);
        clients.values().filter(|live| !live.terms().quotas.is_empty()).cloned().collect()
    }

    /// Marks of quotas that were reached and wait to be written.
    #[must_use]
    pub fn marks(&self) -> &ReachedMarks {
        &self.marks
    }

    pub(super) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Forgets clients that nobody holds and whose limits are full: who comes back finds what it
    /// would have found. Returns how many remain.
    pub fn sweep(&self, now: Monotonic) -> usize {
        let mut clients = lock(&self.clients);
        // A count of one is the registry's own, and only this lock hands out another.
        clients.retain(|_, live| !live.sweep(now) || Arc::strong_count(live) > 1);
        if clients.capacity() > 4 * clients.len().max(256) {
            clients.shrink_to_fit();
        }
        clients.len()
    }
}

/// No request waits longer for its caller to be looked up.
const WAITED_AT_MOST: SignedDuration = SignedDuration::from_secs(60);

/// Nothing that runs under these locks can panic half-way, so a poisoned one is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::model::client::ClientStatus;
    use crate::model::id::ApiKeyId;
    use crate::telemetry::metrics::Metrics;

    const NOW: Monotonic = Monotonic(3_600_000_000_000);

    fn registry() -> Arc<LiveClients> {
        LiveClients::new(&Metrics::new(&[], &[]))
    }

    fn client(id: u128, rate: Option<&str>) -> Client {
        Client {
            id: ClientId(Uuid::from_u128(id)),
            name: "acme".into(),
            status: ClientStatus::Active,
            rate: rate.map(|rate| rate.parse().unwrap()),
            burst: None,
            plan_id: None,
            allowance: crate::model::client::Allowance::default(),
            metadata: serde_json::json!({}),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn default_limit() -> RateLimit {
        RateLimit::new("100/s".parse().unwrap(), NonZeroU32::new(100))
    }

    fn attach(registry: &LiveClients, client: &Client) -> Attachment {
        registry.attach(client, default_limit(), registry.mark(), NOW, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_limit_of_its_own_has_its_own_name_and_carries_over() {
        let registry = registry();
        let live = attach(&registry, &client(1, None)).client;
        let limiter = live.limiter().unwrap();
        assert_eq!(limiter.policy().name, PolicyName::Default);
        limiter.check(50, NOW).unwrap();
        let again = attach(&registry, &client(1, Some("10/s"))).client;
        assert!(Arc::ptr_eq(&live, &again), "one live client each");
        assert_eq!(limiter.policy().name, PolicyName::Client);
        assert_eq!(limiter.check(0, NOW).unwrap().snapshot.remaining, 5, "half was used, half is left");
    }

    #[test]
    fn a_change_voids_the_stamps_of_whom_it_concerns() {
        let registry = registry();
        let (first, second) = (attach(&registry, &client(1, None)), attach(&registry, &client(2, None)));
        let confirmed =
            || (registry.confirm(&first.client, first.stamp), registry.confirm(&second.client, second.stamp));
        assert_eq!(confirmed(), (true, true));
        registry.bump(ClientId(Uuid::from_u128(3)));
        assert_eq!(confirmed(), (true, true), "a stranger's change");
        registry.bump(first.client.id);
        assert_eq!(confirmed(), (false, true));
        registry.bump_all();
        assert_eq!(confirmed(), (false, false));
        let again = attach(&registry, &client(1, None));
        assert!(registry.confirm(&again.client, again.stamp));
    }

    #[test]
    fn a_row_read_before_a_change_overwrites_nothing() {
        let registry = registry();
        let live = attach(&registry, &client(1, None)).client;
        let mark = registry.mark();
        let old_row = client(1, Some("1/s"));
        registry.bump(live.id);
        let mut suspended = client(1, None);
        suspended.status = ClientStatus::Suspended;
        attach(&registry, &suspended);
        let late = registry.attach(&old_row, default_limit(), mark, NOW, Timestamp::UNIX_EPOCH);
        assert!(!late.current);
        assert!(live.is_suspended());
        assert_eq!(live.limiter().unwrap().policy().limit, default_limit());
    }

    #[test]
    fn forgotten_are_only_those_nobody_holds_with_full_limits() {
        let registry = registry();
        let held = attach(&registry, &client(1, None));
        drop(attach(&registry, &client(2, None)));
        attach(&registry, &client(3, None)).client.limiter().unwrap().check(100, NOW).unwrap();
        let with_key = attach(&registry, &client(4, None)).client;
        let key = with_key.key_limiter(ApiKeyId(Uuid::from_u128(9)), default_limit(), NOW);
        key.check(50, NOW).unwrap();
        drop((with_key, key));
        assert_eq!(registry.sweep(NOW), 3, "the full one that nobody holds is gone");
        let later = NOW.after(Duration::from_secs(1));
        assert_eq!(registry.sweep(later), 1, "time filled the others");
        drop(held);
        assert_eq!(registry.sweep(later), 0);
        assert!(registry.nobody().limiter().is_none());
    }

    #[test]
    fn a_key_keeps_its_own_limiter() {
        let registry = registry();
        let live = attach(&registry, &client(1, None)).client;
        let id = ApiKeyId(Uuid::from_u128(7));
        let first = live.key_limiter(id, default_limit(), NOW);
        first.check(60, NOW).unwrap();
        let again = live.key_limiter(id, RateLimit::new("10/s".parse().unwrap(), None), NOW);
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(again.check(0, NOW).unwrap().snapshot.remaining, 4);
    }
}
