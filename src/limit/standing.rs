//! How policies stand, as callers may know it.

use jiff::Timestamp;

use super::charge::limiters;
use super::{Standing, When};
use crate::clients::Principal;
use crate::clients::limiter::Snapshot;
use crate::clients::quota::Span;
use crate::clients::terms::{Quotas, Terms};
use crate::model::plan::PolicyMode;

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
    pub(super) fn of_rate(policy: &'n str, snapshot: Snapshot) -> Self {
        Self {
            policy,
            quota: snapshot.policy.limit.burst.get().into(),
            window_seconds: snapshot.window_seconds,
            remaining: snapshot.remaining.into(),
            reset_seconds: whole_seconds(snapshot.reset),
        }
    }

    /// The one of a period that refuses first.
    pub(super) fn of_quota(quotas: &'n Quotas, span: &Span, used: u64, at: Timestamp) -> Option<Self> {
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

/// What callers call the rate at `place`; none: they are not told of it.
pub(super) fn rate_name<'t>(terms: &'t Terms, place: usize, snapshot: &Snapshot) -> Option<&'t str> {
    match place.checked_sub(2).and_then(|place| terms.rates.get(place)) {
        None => Some(snapshot.policy.name.as_str()),
        Some(rate) => (rate.mode == PolicyMode::Enforce).then_some(&*rate.name),
    }
}

/// Rounded up: a caller that comes a fraction too early is refused again.
pub(super) fn whole_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
