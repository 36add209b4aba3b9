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
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use super::limiter::{Limiter, Policy, PolicyName};
use super::terms::{Open, ReachedMarks, Terms};
use crate::model::client::{Client, ClientStatus};
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::rate::{Rate, RateLimit, RateUnit};
use crate::model::usage::UsageEvent;
use crate::telemetry::metrics::Metrics;

/// A client in use.
#[derive(Debug)]
pub struct LiveClient {
    /// Whose it is.
    pub id: ClientId,
    generation: AtomicU64,
    suspended: AtomicBool,
    limiter: Option<Limiter>,
    /// Keys with a rate of their own. Locked only when one of them is looked up in the store;
    /// a request has its key's limiter in the principal.
    keys: Mutex<Vec<(ApiKeyId, Arc<Limiter>)>>,
    /// Limits how often it asks how its limits stand; made when it first does.
    looks: OnceLock<Limiter>,
    terms: ArcSwap<Terms>,
    open: Open,
    counters: Arc<LimitCounters>,
    marks: Arc<ReachedMarks>,
}

impl LiveClient {
    /// Whether it may not call, as far as is known.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// What it spends from; none for the nil client of open routes, which has no limit.
    #[must_use]
    pub fn limiter(&self) -> Option<&Limiter> {
        self.limiter.as_ref()
    }

    /// What it may besides.
    #[must_use]
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// How often it may ask how its limits stand.
    #[must_use]
    pub fn looks(&self) -> &Limiter {
        self.looks.get_or_init(|| {
            let rate = Rate::new(NonZeroU32::MIN, RateUnit::Second);
            let limit = RateLimit::new(rate, NonZeroU32::new(LOOKS));
            Limiter::new(Policy { name: PolicyName::Client, limit })
        })
    }

    /// How many of its requests are open, as far as they are counted.
    #[must_use]
    pub fn open_requests(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> &Open {
        &self.open
    }

    /// Where marks of quotas go that it reached.
    #[must_use]
    pub fn marks(&self) -> &ReachedMarks {
        &self.marks
    }

    /// Counters of what was admitted and refused.
    #[must_use]
    pub fn counters(&self) -> &LimitCounters {
        &self.counters
    }

    /// The limiter of a key with a rate of its own, with what is used of it.
    #[must_use]
    pub fn key_limiter(&self, key: ApiKeyId, limit: RateLimit, now: Monotonic) -> Arc<Limiter> {
        let policy = Policy { name: PolicyName::Key, limit };
        let mut keys = lock(&self.keys);
        if let Some((_, limiter)) = keys.iter().find(|(id, _)| *id == key) {
            limiter.change(policy, now);
            return Arc::clone(limiter);
        }
        let limiter = Arc::new(Limiter::new(policy));
        keys.push((key, Arc::clone(&limiter)));
        limiter
    }

    fn new(id: ClientId, policy: Option<Policy>, counters: Arc<LimitCounters>, marks: Arc<ReachedMarks>) -> Self {
        Self {
            looks: OnceLock::new(),
            terms: ArcSwap::default(),
            open: Open::new(0),
            marks,
            id,
            generation: AtomicU64::new(0),
            suspended: AtomicBool::new(false),
            limiter: policy.map(Limiter::new),
            keys: Mutex::default(),
            counters,
        }
    }

    /// Whether a quota came that was not read yet.
    fn update(&self, client: &Client, policy: Policy, born: Timestamp, now: Monotonic) -> bool {
        self.suspended.store(client.status == ClientStatus::Suspended, Ordering::Release);
        if let Some(limiter) = &self.limiter {
            limiter.change(policy, now);
        }
        let older = self.terms.load();
        if older.are_of(&client.allowance) {
            return false;
        }
        let terms = Arc::new(Terms::new(&client.allowance, &older, born, now));
        self.terms.store(Arc::clone(&terms));
        !terms.are_read()
    }

    /// Forgets key limiters that nobody holds and that are full; whether all limits are full.
    fn sweep(&self, now: Monotonic) -> bool {
        let mut keys = lock(&self.keys);
        keys.retain(|(_, limiter)| Arc::strong_count(limiter) > 1 || !limiter.is_full(now));
        keys.is_empty()
            && self.limiter.as_ref().is_none_or(|limiter| limiter.is_full(now))
            && self.terms.load().are_idle(now)
    }
}

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
            for quotas in &live.terms.load().quotas {
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
        clients.values().filter(|live| !live.terms.load().quotas.is_empty()).cloned().collect()
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

/// How often each policy admitted and refused.
#[derive(Debug)]
pub struct LimitCounters {
    default: (Counter, Counter),
    client: (Counter, Counter),
    key: (Counter, Counter),
    plan: (Counter, Counter),
    quota: (Counter, Counter),
    concurrency: Counter,
    shadow_rate: Counter,
    shadow_quota: Counter,
}

impl LimitCounters {
    fn new(metrics: &Metrics) -> Self {
        let counters = |name: PolicyName| metrics.limit_counters(name.as_str());
        Self {
            default: counters(PolicyName::Default),
            client: counters(PolicyName::Client),
            key: counters(PolicyName::Key),
            plan: counters(PolicyName::Plan),
            quota: metrics.limit_counters("quota"),
            concurrency: metrics.limit_counters("concurrency").1,
            shadow_rate: metrics.limit_counter("plan", "would_refuse"),
            shadow_quota: metrics.limit_counter("quota", "would_refuse"),
        }
    }

    /// Counts a charge that every policy admitted, under one of them.
    pub fn admitted(&self, policy: PolicyName) {
        self.of(policy).0.inc();
    }

    /// Counts a charge that this policy refused.
    pub fn refused(&self, policy: PolicyName) {
        self.of(policy).1.inc();
    }

    /// Counts a charge that the quotas admitted.
    pub fn quota_admitted(&self) {
        self.quota.0.inc();
    }

    /// Counts a charge that a quota refused.
    pub fn quota_refused(&self) {
        self.quota.1.inc();
    }

    /// Counts a request that came while too many were open.
    pub fn concurrency_refused(&self) {
        self.concurrency.inc();
    }

    /// Counts a charge that a rate in the shadow would have refused.
    pub fn rate_would_refuse(&self) {
        self.shadow_rate.inc();
    }

    /// Counts a charge that a quota in the shadow would have refused.
    pub fn quota_would_refuse(&self) {
        self.shadow_quota.inc();
    }

    fn of(&self, policy: PolicyName) -> &(Counter, Counter) {
        match policy {
            PolicyName::Default => &self.default,
            PolicyName::Client => &self.client,
            PolicyName::Key => &self.key,
            PolicyName::Plan => &self.plan,
        }
    }
}

/// So often may a client ask how its limits stand at once, and then once a second.
const LOOKS: u32 = 10;

/// No request waits longer for its caller to be looked up.
const WAITED_AT_MOST: SignedDuration = SignedDuration::from_secs(60);

/// Nothing that runs under these locks can panic half-way, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

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
