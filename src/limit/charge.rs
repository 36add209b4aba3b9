//! Taking from every policy that applies, all or none, and giving back.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

use super::standing::{PolicyStanding, rate_name, standing, whole_seconds};
use super::{Cost, Exceeded, ExceededKind, Standing, When};
use crate::clients::limiter::{Limiter, Spent};
use crate::clients::quota::Span;
use crate::clients::terms::{CurrentTerms, Lease, QuotaLimit, Quotas, Terms};
use crate::clients::{LiveClient, Principal};
use crate::model::clock::Monotonic;
use crate::model::plan::{Policies, PolicyMode};

/// How many rates one request can be charged to: the client's (or the default), the key's, the
/// plan's.
const RATES: usize = 2 + Policies::MOST_RATES;

/// How many quotas of different periods: the plan's, and the client's own.
const QUOTAS: usize = Policies::MOST_QUOTAS + 1;

/// What a request took from its policies, and its place among those that are open. Dropped, it
/// gives back the place and nothing else.
#[derive(Debug)]
pub struct Charge {
    client: Arc<LiveClient>,
    key: Option<Arc<Limiter>>,
    terms: CurrentTerms,
    cost: Cost,
    arrived: Timestamp,
    spent: [Option<Spent>; RATES],
    spans: [Option<Arc<Span>>; QUOTAS],
    /// What was used of each after it.
    used: [u64; QUOTAS],
    /// Held, and never looked at.
    lease: Option<Lease>,
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

    fn take_rates(&mut self, now: Monotonic, then: &mut Then) -> Result<(), Refused> {
        let (client, key, terms) = (Arc::clone(&self.client), self.key.clone(), self.terms.clone());
        for (place, limiter) in limiters(&client, key.as_deref(), &terms).into_iter().enumerate() {
            let Some(limiter) = limiter else { continue };
            match limiter.check(self.cost.rate, now) {
                Ok(taken) => self.spent[place] = Some(taken),
                Err(_) if is_shadow(&terms, place) => client.counters().rate_would_refuse(),
                Err(refusal) => {
                    let name = rate_name(&terms, place, &refusal.snapshot).unwrap_or_default();
                    let standing = PolicyStanding::of_rate(name, refusal.snapshot);
                    let refused = Refused {
                        what: ExceededKind::Rate,
                        policy: owned_name(name),
                        wait: whole_seconds(refusal.wait).max(standing.reset_seconds).max(1),
                    };
                    then.refused(refused, || client.counters().refused(refusal.snapshot.policy.name))?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn give_back_rates(&mut self, now: Monotonic) {
        self.settle_rates(0, now);
        self.spent = [None; RATES];
    }

    /// A request that came before the quota was known here is not charged to it: what the ledger has
    /// of such requests is the quota's beginning. Where that is all there was to spend, it is refused
    /// all the same.
    fn refuse_what_is_not_charged(&self, quotas: &Quotas, then: &Then) -> Result<(), Refused> {
        let (Then::Refuse, Some(limit)) = (then, quotas.enforced()) else { return Ok(()) };
        let Some(span) = quotas.counter.first_span_of(self.arrived) else { return Ok(()) };
        let used = span.used();
        let units = u64::from(self.cost.units);
        if units == 0 || used.saturating_add(units) <= limit.units {
            return Ok(());
        }
        Err(self.exhausted(limit, &span, used))
    }

    fn exhausted(&self, limit: &QuotaLimit, span: &Span, used: u64) -> Refused {
        self.client.marks().note(self.client.id, limit, span, used.max(limit.units), self.arrived);
        self.client.counters().quota_refused();
        Refused {
            what: ExceededKind::Quota,
            policy: Cow::Owned(limit.name.to_string()),
            wait: span.window.seconds_left(self.arrived),
        }
    }

    fn take_units(&mut self, then: &mut Then) -> Result<(), Refused> {
        let terms = self.terms.clone();
        for (place, quotas) in terms.quotas.iter().enumerate().take(QUOTAS) {
            let enforced = quotas.enforced();
            let Some(span) = quotas.counter.span(self.arrived) else {
                self.refuse_what_is_not_charged(quotas, then)?;
                continue;
            };
            // What is served is used, also of a quota that is used up.
            let (most, noted) = match then {
                Then::Refuse => (enforced, None),
                Then::Note(_) => (None, enforced),
            };
            match span.charge(self.cost.units, most.map(|limit| limit.units)) {
                Ok(used) => {
                    self.note_marks(quotas, &span, used);
                    if let Some(limit) = noted.filter(|limit| used > limit.units) {
                        let refused = Refused {
                            what: ExceededKind::Quota,
                            policy: Cow::Owned(limit.name.to_string()),
                            wait: span.window.seconds_left(self.arrived),
                        };
                        then.refused(refused, || {})?;
                    }
                    if quotas.limits.iter().any(|limit| limit.mode == PolicyMode::Shadow && used > limit.units) {
                        self.client.counters().quota_would_refuse();
                    }
                    self.used[place] = used;
                    self.spans[place] = Some(span);
                }
                Err(exhausted) => {
                    // One that does not fit may leave a little of the limit for ever: it is used up.
                    let limit = enforced.expect("without a limit everything fits");
                    return Err(self.exhausted(limit, &span, exhausted.used));
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

/// The same before it is known how all policies stand.
struct Refused {
    what: ExceededKind,
    policy: Cow<'static, str>,
    wait: u64,
}

impl Refused {
    fn exceeded(self, principal: &Principal, terms: &Terms, when: When) -> Exceeded {
        let standing = standing(principal, terms, when);
        Exceeded { what: self.what, policy: self.policy, standing, retry_after_seconds: self.wait }
    }
}

/// What comes of a policy that refuses.
enum Then {
    /// The request is refused.
    Refuse,
    /// It goes on; the first reason is kept.
    Note(Option<Refused>),
}

impl Then {
    fn refused(&mut self, refused: Refused, count: impl FnOnce()) -> Result<(), Refused> {
        match self {
            Self::Refuse => {
                count();
                Err(refused)
            }
            Self::Note(first) => {
                first.get_or_insert(refused);
                Ok(())
            }
        }
    }
}

/// Charges a request to every policy that applies, all or none. A request on an open route (the
/// nil client) is charged to none.
///
/// # Errors
/// The policy that refused. Nothing was charged then.
pub fn charge(principal: &Principal, cost: Cost, when: When) -> Result<Charge, Exceeded> {
    let mut charge = Charge::nothing(principal, cost, when);
    let then = &mut Then::Refuse;
    let taken = charge.take_place(then).and_then(|()| charge.take_rates(when.now, then));
    if let Err(refused) = taken.and_then(|()| charge.take_units(then)) {
        charge.refund(when.now);
        return Err(refused.exceeded(principal, &charge.terms, when));
    }
    charge.count();
    Ok(charge)
}

/// Charges a request that goes on whatever its policies say, and says what would have refused it.
/// Quotas are charged always, because it is served; a place among those that are open and rates
/// only where it would have got them, so that the next request is judged as it would have been.
/// `refused`: something else would have refused it before.
pub fn observe(principal: &Principal, cost: Cost, when: When, refused: bool) -> (Charge, Option<Exceeded>) {
    let mut charge = Charge::nothing(principal, cost, when);
    let mut then = Then::Note(None);
    // Noted and never refused: every result is good.
    if !refused {
        drop(charge.take_place(&mut then));
        if matches!(then, Then::Note(None)) {
            drop(charge.take_rates(when.now, &mut then));
        }
    }
    drop(charge.take_units(&mut then));
    let noted = match then {
        Then::Note(noted) => noted,
        Then::Refuse => None,
    };
    if refused || noted.is_some() {
        charge.give_back_rates(when.now);
        charge.lease = None;
    } else {
        charge.count();
    }
    let noted = noted.filter(|_| !refused);
    let exceeded = noted.map(|noted| noted.exceeded(principal, &charge.terms, when));
    (charge, exceeded)
}

impl Charge {
    fn nothing(principal: &Principal, cost: Cost, when: When) -> Self {
        Self {
            client: Arc::clone(&principal.client),
            key: principal.key_limiter.clone(),
            terms: principal.client.terms(),
            cost,
            arrived: when.arrived,
            spent: [None; RATES],
            spans: [const { None }; QUOTAS],
            used: [0; QUOTAS],
            lease: None,
        }
    }

    fn take_place(&mut self, then: &mut Then) -> Result<(), Refused> {
        let Some(most) = self.terms.concurrency else { return Ok(()) };
        self.lease = Lease::take(&self.client, most);
        if self.lease.is_some() {
            return Ok(());
        }
        let refused = Refused { what: ExceededKind::Concurrency, policy: "concurrency".into(), wait: 1 };
        then.refused(refused, || self.client.counters().concurrency_refused())
    }
}
/// The limiters that a request spends from, the widest first.
pub(super) fn limiters<'l>(
    client: &'l LiveClient,
    key: Option<&'l Limiter>,
    terms: &'l Terms,
) -> [Option<&'l Limiter>; RATES] {
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

fn owned_name(name: &str) -> Cow<'static, str> {
    match ["default", "client", "key"].into_iter().find(|known| *known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_owned()),
    }
}
