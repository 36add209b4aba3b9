//! One client in use: its limits, and what is used of them.
//!
//! Refuses to know who attaches it and who spends.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::counters::LimitCounters;
use super::limiter::{Limiter, Policy, PolicyName};
use super::registry::lock;
use super::terms::{CurrentTerms, Open, ReachedMarks, Terms};
use crate::model::client::{Client, ClientStatus};
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::rate::{Rate, RateLimit, RateUnit};

/// So often may a client ask how its limits stand at once, and then once a second.
const LOOKS: u32 = 10;

/// A client in use.
#[derive(Debug)]
pub struct LiveClient {
    /// Whose it is.
    pub id: ClientId,
    pub(super) generation: AtomicU64,
    suspended: AtomicBool,
    limiter: Option<Limiter>,
    /// Keys with a rate of their own. Locked only when one of them is looked up in the store;
    /// a request has its key's limiter in the principal.
    keys: Mutex<Vec<(ApiKeyId, Arc<Limiter>)>>,
    /// Limits how often it asks how its limits stand; made when it first does.
    looks: OnceLock<Limiter>,
    terms: ArcSwapOption<Terms>,
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
    pub fn terms(&self) -> CurrentTerms {
        CurrentTerms::of(self.terms.load_full())
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

    /// The limiter of a key that spent of its own rate here; none: it did not, or has none.
    #[must_use]
    pub fn known_key_limiter(&self, key: ApiKeyId) -> Option<Arc<Limiter>> {
        lock(&self.keys).iter().find(|(id, _)| *id == key).map(|(_, limiter)| Arc::clone(limiter))
    }

    pub(super) fn new(
        id: ClientId,
        policy: Option<Policy>,
        counters: Arc<LimitCounters>,
        marks: Arc<ReachedMarks>,
    ) -> Self {
        Self {
            looks: OnceLock::new(),
            terms: ArcSwapOption::default(),
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

    /// Takes over what was read of it. Whether a quota came that was not read yet.
    pub(super) fn update(&self, client: &Client, policy: Policy, born: Timestamp, now: Monotonic) -> bool {
        self.suspended.store(client.status == ClientStatus::Suspended, Ordering::Release);
        if let Some(limiter) = &self.limiter {
            limiter.change(policy, now);
        }
        let older = self.terms();
        if older.are_of(&client.allowance) {
            return false;
        }
        let terms = Arc::new(Terms::new(&client.allowance, &older, born, now));
        self.terms.store(Some(Arc::clone(&terms)));
        !terms.are_read()
    }

    /// Forgets key limiters that nobody holds and that are full; whether all limits are full.
    pub(super) fn sweep(&self, now: Monotonic) -> bool {
        let mut keys = lock(&self.keys);
        keys.retain(|(_, limiter)| Arc::strong_count(limiter) > 1 || !limiter.is_full(now));
        keys.is_empty()
            && self.limiter.as_ref().is_none_or(|limiter| limiter.is_full(now))
            && self.terms().are_idle(now)
    }
}
