//! What a client may, besides its rate: its plan's policies, its own quota, requests at once.
//!
//! Terms never change; a client whose plan or quota changed gets others, which take over what was
//! used of the old ones: the limiter of a rate of the same name, the counter of a quota of the
//! same period.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::limiter::{Limiter, Policy, PolicyName};
use super::live_client::LiveClient;
use super::quota::{QuotaCounter, Span};
use crate::model::client::{Allowance, own_policy};
use crate::model::clock::Monotonic;
use crate::model::id::ClientId;
use crate::model::plan::{Allowed, PolicyMode, QuotaMark};
use crate::model::quota::Quota;

/// See the module.
#[derive(Debug, Default)]
pub struct Terms {
    made_of: Allowance,
    /// The plan's rates.
    pub rates: Vec<PlanRate>,
    /// All quotas, by period.
    pub quotas: Vec<Quotas>,
    /// The most requests at once.
    pub concurrency: Option<u32>,
    /// Whether the plan has a rate, which stands in for the default's.
    pub has_rate: bool,
}

/// The terms of a client now. Most have none, and then these take no room.
#[derive(Clone, Debug, Default)]
pub struct CurrentTerms(Option<Arc<Terms>>);

/// No plan, no quota, any number of requests at once.
static NONE: Terms = Terms {
    made_of: Allowance { quota: None, concurrency: None, plan: None },
    rates: Vec::new(),
    quotas: Vec::new(),
    concurrency: None,
    has_rate: false,
};

impl CurrentTerms {
    pub(super) fn of(terms: Option<Arc<Terms>>) -> Self {
        Self(terms)
    }
}

impl Deref for CurrentTerms {
    type Target = Terms;

    fn deref(&self) -> &Terms {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// A rate of a plan.
#[derive(Debug)]
pub struct PlanRate {
    /// As callers see it.
    pub name: Arc<str>,
    /// Whether it refuses.
    pub mode: PolicyMode,
    /// What is left of it.
    pub limiter: Arc<Limiter>,
}

/// The quotas of one period.
#[derive(Debug)]
pub struct Quotas {
    /// What is used.
    pub counter: Arc<QuotaCounter>,
    /// What may be, the least first.
    pub limits: Vec<QuotaLimit>,
}

/// How much may be used.
#[derive(Debug)]
pub struct QuotaLimit {
    /// As callers see it.
    pub name: Arc<str>,
    /// So much.
    pub units: u64,
    /// Whether it refuses more.
    pub mode: PolicyMode,
    /// Which marks were told of the window that began in this second: the second, times four, and a
    /// bit a mark.
    told: AtomicU64,
}

impl Quotas {
    /// The least limit that refuses.
    #[must_use]
    pub fn enforced(&self) -> Option<&QuotaLimit> {
        self.limits.iter().find(|limit| limit.mode == PolicyMode::Enforce)
    }
}

impl QuotaLimit {
    fn new(name: &str, quota: &Quota, mode: PolicyMode) -> Self {
        Self { name: name.into(), units: quota.units.get(), mode, told: AtomicU64::new(0) }
    }

    /// Whether `used` may have reached a mark: two comparisons, for every request.
    #[must_use]
    pub fn is_near(&self, used: u64) -> bool {
        used >= self.units - self.units / 5
    }

    /// The mark that `used` has reached and that nobody told of; the higher one of two.
    fn reached(&self, span: &Span, used: u64) -> Option<u8> {
        let (bits, percent) = if used >= self.units { (0b11, 100) } else { (0b01, 80) };
        let window = u64::try_from(span.window.start.as_second()).unwrap_or(0) << 2;
        let tell = |told: u64| {
            let known = if told & !0b11 == window { told & 0b11 } else { 0 };
            (known & bits != bits).then_some(window | known | bits)
        };
        self.told.fetch_update(Ordering::AcqRel, Ordering::Acquire, tell).ok().map(|_| percent)
    }
}

impl Terms {
    /// Whether they were made of this.
    pub(super) fn are_of(&self, allowance: &Allowance) -> bool {
        self.made_of == *allowance
    }

    /// Terms made of `allowance`, which take over from `older`. New counters count from `born` on.
    pub(super) fn new(allowance: &Allowance, older: &Self, born: Timestamp, now: Monotonic) -> Self {
        let mut terms = Self { made_of: allowance.clone(), ..Self::default() };
        let plan = allowance.plan.as_deref();
        for policy in plan.iter().flat_map(|plan| plan.policies.iter()) {
            match &policy.allows {
                Allowed::Rate(limit) => {
                    let limit = Policy { name: PolicyName::Plan, limit: *limit };
                    let known = older.rates.iter().find(|rate| *rate.name == *policy.name);
                    let limiter = known.map(|rate| Arc::clone(&rate.limiter));
                    let limiter = limiter.inspect(|limiter| limiter.change(limit, now));
                    terms.rates.push(PlanRate {
                        name: policy.name.as_str().into(),
                        mode: policy.mode,
                        limiter: limiter.unwrap_or_else(|| Arc::new(Limiter::new(limit))),
                    });
                }
                Allowed::Quota(quota) => terms.add_quota(&policy.name, quota, policy.mode, older, born),
            }
        }
        if let Some(quota) = &allowance.quota {
            terms.add_quota(&own_policy(quota), quota, PolicyMode::Enforce, older, born);
        }
        let most = [allowance.concurrency, plan.and_then(|plan| plan.concurrency)];
        terms.concurrency = most.into_iter().flatten().map(std::num::NonZeroU32::get).min();
        terms.has_rate = terms.rates.iter().any(|rate| rate.mode == PolicyMode::Enforce);
        terms
    }

    fn add_quota(&mut self, name: &str, quota: &Quota, mode: PolicyMode, older: &Self, born: Timestamp) {
        let limit = QuotaLimit::new(name, quota, mode);
        if let Some(quotas) = self.quotas.iter_mut().find(|quotas| *quotas.counter.period() == quota.period) {
            quotas.limits.push(limit);
            quotas.limits.sort_by_key(|limit| limit.units);
            return;
        }
        let known = older.quotas.iter().find(|quotas| *quotas.counter.period() == quota.period);
        let counter = known.map(|quotas| Arc::clone(&quotas.counter));
        let counter = counter.unwrap_or_else(|| Arc::new(QuotaCounter::new(quota.period.clone(), born)));
        self.quotas.push(Quotas { counter, limits: vec![limit] });
    }

    /// Whether what is used of every quota is known.
    #[must_use]
    pub fn are_read(&self) -> bool {
        self.quotas.iter().all(|quotas| quotas.counter.is_read())
    }

    /// Whether forgetting them would give something away.
    pub(super) fn are_idle(&self, now: Monotonic) -> bool {
        self.quotas.is_empty() && self.rates.iter().all(|rate| rate.limiter.is_full(now))
    }
}

/// Marks of quotas that were reached and wait to be written. Pushed to at most twice for each
/// policy and window; the lock is nothing that requests wait for.
#[derive(Debug, Default)]
pub struct ReachedMarks(Mutex<Vec<QuotaMark>>);

/// So many wait at most: a store that is away for long is told of the next ones.
const MARKS_MAX: usize = 10_000;

impl ReachedMarks {
    /// Notes the marks that `used` has reached.
    #[cold]
    pub fn note(&self, client: ClientId, limit: &QuotaLimit, span: &Span, used: u64, at: Timestamp) {
        let Some(percent) = limit.reached(span, used) else { return };
        let mut marks = self.lock();
        if marks.len() < MARKS_MAX {
            marks.push(QuotaMark {
                client_id: client,
                policy: limit.name.to_string(),
                window_start: span.window.start,
                window_end: span.window.end,
                percent,
                quota: limit.units,
                used,
                mode: limit.mode,
                reached_at: at,
            });
        }
    }

    /// Takes what waits.
    #[must_use]
    pub fn take(&self) -> Vec<QuotaMark> {
        std::mem::take(&mut *self.lock())
    }

    /// Puts back what could not be written.
    pub fn restore(&self, marks: Vec<QuotaMark>) {
        let mut waiting = self.lock();
        waiting.extend(marks);
        waiting.truncate(MARKS_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<QuotaMark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the requests that a client may have open; freed when it is dropped, however that comes.
#[derive(Debug)]
pub struct Lease {
    client: Arc<LiveClient>,
}

impl Lease {
    /// One more, if there are fewer than `most`.
    #[must_use]
    pub fn take(client: &Arc<LiveClient>, most: u32) -> Option<Self> {
        let more = |open: u32| (open < most).then_some(open + 1);
        client.open().fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self { client: Arc::clone(client) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.client.open().fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many requests are open, as leases count them.
pub(super) type Open = AtomicU32;
