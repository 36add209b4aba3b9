//! Spending: what a request costs, from every policy that applies, all or none.
//!
//! The limiters live in the client ([`crate::clients`]); this module knows which of them a
//! request is charged to, takes back what was taken when a later one refuses, and writes what
//! callers are told. Refusals cost nothing.
//!
//! Three kinds of policy: a place among the requests at once, rates, and quotas of the calendar.
//! They are taken in this order, the cheapest to give back first. A policy in the shadow is charged
//! as far as it goes and never refuses.
//!
//! To add a rate: a [`PolicyName`](crate::clients::limiter::PolicyName), its limiter in the live
//! client or the principal, and a place in `limiters`. Charging, refunding and the header fields
//! take as many as there are.
//!
//! Refuses to know why a limit is what it is, and what a refusal looks like on the wire.

mod headers;
mod keeper;
mod overview;

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

pub use headers::Standing;
pub use keeper::{MarkListener, QuotaKeeper};
pub use overview::{Overview, overview};

use crate::clients::limiter::{Limiter, Snapshot, Spent};
use crate::clients::quota::Span;
use crate::clients::terms::{Lease, Quotas, Terms};
use crate::clients::{LiveClient, Principal};
use crate::model::clock::Monotonic;
use crate::model::plan::{Policies, PolicyMode};

/// How many rates one request can be charged to: the client's (or the default), the key's, the
/// plan's.
const RATES: usize = 2 + Policies::MOST_RATES;

/// How many quotas of different periods: the plan's, and the client's own.
const QUOTAS: usize = Policies::MOST_QUOTAS + 1;

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// From rates.
    pub rate: u32,
    /// From quotas: the event's units.
    pub units: u32,
}

impl Cost {
    /// A request like any other.
    pub const ONE: Self = Self { rate: 1, units: 1 };
}

/// When a request arrived, and when it is charged.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// When it arrived: the event's `occurred_at`, which says in which window of a quota it counts.
    pub arrived: Timestamp,
    /// Now.
    pub now: Monotonic,
}

/// What a request took from its policies, and its place among those that are open. Dropped, it
/// gives back the place and nothing else.
#[derive(Debug)]
pub struct Charge {
    client: Arc<LiveClient>,
    key: Option<Arc<Limiter>>,
    terms: Arc<Terms>,
    cost: Cost,
    arrived: Timestamp,
    spent: [Option<Spent>; RATES],
    spans: [Option<Arc<Span>>; QUOTAS],
    /// What was used of each after it.
    used: [u64; QUOTAS],
    _lease: Option<Lease>,
}

impl Charge {
    /// What it took from quotas.
    #[must_use]
    pub fn units(&self) -> u32 {
        self.cost.units
    }

    /// Gives everything back: the request was not admitted. What time has brought back already is
    /// not given a second time.
    pub fn refund(&self, now: Monotonic) {
        self.settle_rates(0, now);
        self.settle_units(0);
    }

    /// The units turned out to be others: quotas get the difference. What is more than a quota had
    /// left is used all the same, and the next request is refused.
    pub fn settle_units(&self, units: u32) {
        let difference = i64::from(units) - i64::from(self.cost.units);
        if difference == 0 {
            return;
        }
        for (span, quotas) in self.spans.iter().zip(&self.terms.quotas) {
            let Some(span) = span else { continue };
            span.correct(difference);
            self.note_marks(quotas, span, span.used());
        }
    }

    /// What it costs turned out to be something else: rates get the difference. What is less comes
    /// back; what is more is owed, and the next requests wait for it.
    pub fn settle_rates(&self, cost: u32, now: Monotonic) {
        let charged = self.cost.rate;
        if cost == charged {
            return;
        }
        let limiters = limiters(&self.client, self.key.as_deref(), &self.terms);
        for (limiter, spent) in limiters.into_iter().zip(&self.spent) {
            match (limiter, spent) {
                (Some(limiter), Some(spent)) if cost < charged => limiter.give_back(&spent.part(charged - cost), now),
                (Some(limiter), Some(_)) => limiter.debit(cost - charged, now),
                _ => {}
            }
        }
    }

    /// The policies that refuse and what remains, for the response's `RateLimit` fields.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let rates = self.spent.iter().enumerate().filter_map(|(place, spent)| {
            let spent = spent.as_ref()?;
            Some(PolicyStanding::of_rate(rate_name(&self.terms, place, &spent.snapshot)?, spent.snapshot))
        });
        let quotas = self.terms.quotas.iter().zip(self.spans.iter().zip(self.used));
        let quotas = quotas.filter_map(|(quotas, (span, used))| {
            PolicyStanding::of_quota(quotas, span.as_deref()?, used, self.arrived)
        });
        Standing::of(rates.chain(quotas))
    }

    fn note_marks(&self, quotas: &Quotas, span: &Span, used: u64) {
        for limit in quotas.limits.iter().filter(|limit| limit.is_near(used)) {
            self.client.marks().note(self.client.id, limit, span, used, self.arrived);
        }
    }

    fn take_rates(&mut self, now: Monotonic) -> Result<(), Refused> {
        let (client, key, terms) = (Arc::clone(&self.client), self.key.clone(), Arc::clone(&self.terms));
        for (place, limiter) in limiters(&client, key.as_deref(), &terms).into_iter().enumerate() {
            let Some(limiter) = limiter else { continue };
            match limiter.check(self.cost.rate, now) {
                Ok(taken) => self.spent[place] = Some(taken),
                Err(_) if is_shadow(&terms, place) => client.counters().rate_would_refuse(),
                Err(refusal) => {
                    client.counters().refused(refusal.snapshot.policy.name);
                    let name = rate_name(&terms, place, &refusal.snapshot).unwrap_or_default();
                    let standing = PolicyStanding::of_rate(name, refusal.snapshot);
                    return Err(Refused {
                        what: ExceededKind::Rate,
                        policy: owned_name(name),
                        wait: whole_seconds(refusal.wait).max(standing.reset_seconds).max(1),
                    });
                }
            }
        }
        Ok(())
    }

    fn take_units(&mut self) -> Result<(), Refused> {
        let terms = Arc::clone(&self.terms);
        for (place, quotas) in terms.quotas.iter().enumerate().take(QUOTAS) {
            let Some(span) = quotas.counter.span(self.arrived) else { continue };
            let enforced = quotas.enforced();
            match span.charge(self.cost.units, enforced.map(|limit| limit.units)) {
                Ok(used) => {
                    self.note_marks(quotas, &span, used);
                    if quotas.limits.iter().any(|limit| limit.mode == PolicyMode::Shadow && used > limit.units) {
                        self.client.counters().quota_would_refuse();
                    }
                    self.used[place] = used;
                    self.spans[place] = Some(span);
                }
                Err(exhausted) => {
                    // One that does not fit may leave a little of the limit for ever: it is used up.
                    let limit = enforced.expect("without a limit everything fits");
                    self.client.marks().note(
                        self.client.id,
                        limit,
                        &span,
                        exhausted.used.max(limit.units),
                        self.arrived,
                    );
                    self.client.counters().quota_refused();
                    return Err(Refused {
                        what: ExceededKind::Quota,
                        policy: Cow::Owned(limit.name.to_string()),
                        wait: exhausted.window.seconds_left(self.arrived),
                    });
                }
            }
        }
        Ok(())
    }

    fn count(&self) {
        let counters = self.client.counters();
        for taken in self.spent.iter().flatten() {
            counters.admitted(taken.snapshot.policy.name);
        }
        if self.spans.iter().any(Option::is_some) {
            counters.quota_admitted();
        }
    }
}

/// One policy as the caller may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyStanding<'n> {
    /// `default`, `client`, `key`, or a name from the plan.
    pub policy: &'n str,
    /// `q`
    pub quota: u64,
    /// `w`, seconds.
    pub window_seconds: u64,
    /// `r`
    pub remaining: u64,
    /// `t`: seconds until there is more.
    pub reset_seconds: u64,
}

impl<'n> PolicyStanding<'n> {
    fn of_rate(policy: &'n str, snapshot: Snapshot) -> Self {
        Self {
            policy,
            quota: snapshot.policy.limit.burst.get().into(),
            window_seconds: snapshot.window_seconds,
            remaining: snapshot.remaining.into(),
            reset_seconds: whole_seconds(snapshot.reset),
        }
    }

    /// The one of a period that refuses first.
    fn of_quota(quotas: &'n Quotas, span: &Span, used: u64, at: Timestamp) -> Option<Self> {
        let limit = quotas.enforced()?;
        Some(Self {
            policy: &limit.name,
            quota: limit.units,
            window_seconds: span.window.seconds(),
            remaining: limit.units.saturating_sub(used),
            reset_seconds: span.window.seconds_left(at),
        })
    }
}

/// Which kind of policy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededKind {
    /// Too fast.
    Rate,
    /// Too much.
    Quota,
    /// Too many at once.
    Concurrency,
}

/// Why nothing was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// What kind of policy refused.
    pub what: ExceededKind,
    /// The policy that refused.
    pub policy: Cow<'static, str>,
    /// All policies as they stand.
    pub standing: Standing,
    /// Whole seconds until the same cost fits, at least 1 and never before `t`.
    pub retry_after_seconds: u64,
}

/// The same before it is known how all policies stand.
struct Refused {
    what: ExceededKind,
    policy: Cow<'static, str>,
    wait: u64,
}

/// Whether what is used of every quota is known; until then nothing may be charged. Only a client
/// that was just looked up for the first time, or got another plan, ever waits.
///
/// # Errors
/// The ledger could not be read in time.
pub async fn quotas_read(principal: &Principal) -> Result<(), QuotasUnknown> {
    let terms = principal.client.terms();
    if terms.are_read() {
        return Ok(());
    }
    let read = async {
        for quotas in &terms.quotas {
            quotas.counter.read().await;
        }
    };
    tokio::time::timeout(READ_PATIENCE, read).await.map_err(|_elapsed| QuotasUnknown)
}

/// What a client has used cannot be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the client has used of its quotas could not be read")]
pub struct QuotasUnknown;

/// How long a request waits for the ledger.
const READ_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Charges a request to every policy that applies, all or none. A request on an open route (the
/// nil client) is charged to none.
///
/// # Errors
/// The policy that refused. Nothing was charged then.
pub fn charge(principal: &Principal, cost: Cost, when: When) -> Result<Charge, Exceeded> {
    let terms = principal.client.terms();
    let refuse = |refused: Refused, terms: &Terms| Exceeded {
        what: refused.what,
        policy: refused.policy,
        standing: standing(principal, terms, when),
        retry_after_seconds: refused.wait,
    };
    let lease = match terms.concurrency.map(|most| Lease::take(&principal.client, most)) {
        Some(None) => {
            principal.client.counters().concurrency_refused();
            let refused = Refused { what: ExceededKind::Concurrency, policy: "concurrency".into(), wait: 1 };
            return Err(refuse(refused, &terms));
        }
        lease => lease.flatten(),
    };
    let mut charge = Charge {
        client: Arc::clone(&principal.client),
        key: principal.key_limiter.clone(),
        terms,
        cost,
        arrived: when.arrived,
        spent: [None; RATES],
        spans: [const { None }; QUOTAS],
        used: [0; QUOTAS],
        _lease: lease,
    };
    if let Err(refused) = charge.take_rates(when.now).and_then(|()| charge.take_units()) {
        charge.refund(when.now);
        return Err(refuse(refused, &charge.terms));
    }
    charge.count();
    Ok(charge)
}

/// How all policies stand, without taking anything.
#[must_use]
pub fn standing(principal: &Principal, terms: &Terms, when: When) -> Standing {
    Standing::of(policies(principal, terms, when))
}

/// The policies that refuse, as they stand.
pub fn policies<'t>(
    principal: &'t Principal,
    terms: &'t Terms,
    when: When,
) -> impl Iterator<Item = PolicyStanding<'t>> {
    let limiters = limiters(&principal.client, principal.key_limiter.as_deref(), terms);
    let rates = limiters.into_iter().enumerate().filter_map(move |(place, limiter)| {
        let looked = limiter?.check(0, when.now).ok()?;
        Some(PolicyStanding::of_rate(rate_name(terms, place, &looked.snapshot)?, looked.snapshot))
    });
    let quotas = terms.quotas.iter().filter_map(move |quotas| {
        let span = quotas.counter.span(when.arrived)?;
        PolicyStanding::of_quota(quotas, &span, span.used(), when.arrived)
    });
    rates.chain(quotas)
}

/// The limiters that a request spends from, the widest first.
fn limiters<'l>(client: &'l LiveClient, key: Option<&'l Limiter>, terms: &'l Terms) -> [Option<&'l Limiter>; RATES] {
    use crate::clients::limiter::PolicyName::Default;
    let mut limiters = [None; RATES];
    // A plan's rate stands in for the default's; a rate of the client's own narrows its plan's.
    limiters[0] = client.limiter().filter(|limiter| !(terms.has_rate && limiter.policy().name == Default));
    limiters[1] = key;
    for (limiter, rate) in limiters[2..].iter_mut().zip(&terms.rates) {
        *limiter = Some(&rate.limiter);
    }
    limiters
}

fn is_shadow(terms: &Terms, place: usize) -> bool {
    place.checked_sub(2).and_then(|place| terms.rates.get(place)).is_some_and(|rate| rate.mode == PolicyMode::Shadow)
}

/// What callers call the rate at `place`; none: they are not told of it.
fn rate_name<'t>(terms: &'t Terms, place: usize, snapshot: &Snapshot) -> Option<&'t str> {
    match place.checked_sub(2).and_then(|place| terms.rates.get(place)) {
        None => Some(snapshot.policy.name.as_str()),
        Some(rate) => (rate.mode == PolicyMode::Enforce).then_some(&*rate.name),
    }
}

fn owned_name(name: &str) -> Cow<'static, str> {
    match ["default", "client", "key"].into_iter().find(|known| *known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_owned()),
    }
}

/// Rounded up: a caller that comes a fraction too early is refused again.
fn whole_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
