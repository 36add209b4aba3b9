//! What is left of everything that limits a client, and whether a request fits into it.
//!
//! What this process counts is told as it counts. What it does not count yet, because it has not
//! looked the caller up, is what is written of client, plan and key: rates whole, quotas as the ledger
//! has them.

use jiff::Timestamp;

use super::credential::Bearer;
use super::{Gateway, Outcome, Route, Walk};
use crate::clients::terms::Terms;
use crate::clients::{LiveClient, Principal};
use crate::limit::{self, When};
use crate::model::client::Client;
use crate::model::explanation::LimitState;
use crate::model::key::ApiKey;
use crate::model::plan::{Allowed, PolicyMode};
use crate::model::rate::RateLimit;

/// Kinds of limits.
const CONCURRENCY: &str = "concurrency";
const RATE: &str = "rate";
const QUOTA: &str = "quota";

/// What the policy is called that is nobody's own.
const DEFAULT: &str = "default";

impl Gateway {
    pub(super) fn explain_limits(&self, walk: &mut Walk<'_>, route: &Route, bearer: &Bearer<'_>) -> Outcome<()> {
        let Some(client) = walk.asked.client else { return Ok(()) };
        walk.told.limits = match &bearer.principal {
            Some(principal) => self.counted(principal, walk.now),
            None => self.written(walk, client),
        };
        let units = u64::from(route.config.cost);
        let cost = |kind: &str| if kind == QUOTA || kind == RATE && self.rates_by_cost { units } else { 1 };
        let spent = walk.told.limits.iter().find(|limit| limit.left < cost(&limit.kind)).cloned();
        if let Some(limit) = spent {
            let code = if limit.kind == QUOTA { "quota_exhausted" } else { "rate_limited" };
            let by = (limit.policy == DEFAULT).then_some(("limits.default.rate", limit.allows.as_str()));
            return walk.end("limits", 429, code, &why_not(&limit, client, cost(&limit.kind)), by);
        }
        let why = match &bearer.principal {
            Some(_) => "every limit has something left",
            None => "every limit has something left, as far as it is known: the caller was not looked up here lately",
        };
        let is_default = walk.told.limits.iter().any(|limit| limit.policy == DEFAULT);
        walk.pass("limits", why, is_default.then_some(("limits.default.rate", "for clients without one of their own")));
        Ok(())
    }

    /// Every limit that would be charged, in the order of charging, as this process counts.
    fn counted(&self, principal: &Principal, now: Timestamp) -> Vec<LimitState> {
        let terms = principal.client.terms();
        let when = When { arrived: now, now: self.clock.monotonic() };
        let quotas: Vec<&str> =
            terms.quotas.iter().filter_map(|quotas| quotas.enforced()).map(|limit| &*limit.name).collect();
        let state = |policy: limit::PolicyStanding<'_>| LimitState {
            policy: policy.policy.to_owned(),
            kind: if quotas.contains(&policy.policy) { QUOTA } else { RATE }.to_owned(),
            allows: allows(policy.quota, policy.window_seconds),
            left: policy.remaining,
            resets_in: policy.reset_seconds,
        };
        open(&principal.client, &terms).into_iter().chain(limit::policies(principal, &terms, when).map(state)).collect()
    }

    /// The same by what is written; of what the client's other requests spent, this process knows.
    fn written(&self, walk: &Walk<'_>, client: &Client) -> Vec<LimitState> {
        let live = self.authenticator.remembered_client(client.id, walk.asked.key.map(|key| key.id));
        let counted = live.map(|live| self.counted(&live, walk.now)).unwrap_or_default();
        let limits = most_open(client)
            .into_iter()
            .chain(rates(client, walk.asked.key, walk.asked.default_limit))
            .chain(walk.asked.quotas.iter().cloned());
        let is_same = |one: &LimitState, other: &LimitState| {
            (&one.policy, &one.kind, &one.allows) == (&other.policy, &other.kind, &other.allows)
        };
        limits.map(|limit| counted.iter().find(|other| is_same(other, &limit)).cloned().unwrap_or(limit)).collect()
    }
}

/// Like callers are told of it: so many in so many seconds.
fn allows(quota: u64, window_seconds: u64) -> String {
    format!("{quota} in {window_seconds} s")
}

fn at_once(most: u32, open: u32) -> LimitState {
    LimitState {
        policy: CONCURRENCY.to_owned(),
        kind: CONCURRENCY.to_owned(),
        allows: format!("{most} open at once"),
        left: most.saturating_sub(open).into(),
        resets_in: u64::from(open > 0),
    }
}

fn open(client: &LiveClient, terms: &Terms) -> Option<LimitState> {
    Some(at_once(terms.concurrency?, client.open_requests()))
}

fn most_open(client: &Client) -> Option<LimitState> {
    let plan = client.allowance.plan.as_ref();
    let most = [client.allowance.concurrency, plan.and_then(|plan| plan.concurrency)];
    Some(at_once(most.into_iter().flatten().min()?.get(), 0))
}

/// The rates that a request would be charged to, in that order, whole.
fn rates(client: &Client, key: Option<&ApiKey>, default: RateLimit) -> Vec<LimitState> {
    let plan = client.allowance.plan.iter().flat_map(|plan| plan.policies.iter());
    let of_plan: Vec<(&str, RateLimit)> = plan
        .filter(|policy| policy.mode == PolicyMode::Enforce)
        .filter_map(|policy| match &policy.allows {
            Allowed::Rate(limit) => Some((policy.name.as_str(), *limit)),
            Allowed::Quota(_) => None,
        })
        .collect();
    // A plan's rate stands in for the default's; a rate of the client's own narrows its plan's.
    let own = match client.limit() {
        Some(limit) => Some(("client", limit)),
        None => of_plan.is_empty().then_some((DEFAULT, default)),
    };
    let of_key = key.and_then(|key| Some(("key", RateLimit::new(key.rate?, key.burst))));
    let whole = |(policy, limit): (&str, RateLimit)| LimitState {
        policy: policy.to_owned(),
        kind: RATE.to_owned(),
        allows: allows(limit.burst.get().into(), limit.window_seconds()),
        left: limit.burst.get().into(),
        resets_in: 0,
    };
    own.into_iter().chain(of_key).chain(of_plan).map(whole).collect()
}

fn why_not(limit: &LimitState, client: &Client, cost: u64) -> String {
    if limit.kind == CONCURRENCY {
        return format!("all places are taken ({}); one is free when a request of the client's ends", limit.allows);
    }
    let left = if limit.left == 0 { "nothing".to_owned() } else { format!("only {}", limit.left) };
    format!(
        "{left} is left of `{}` ({}){}, and it costs {cost}; more in {} s",
        limit.policy,
        limit.allows,
        whose(&limit.policy, client),
        limit.resets_in
    )
}

/// Who set a limit, and what changes it; of the default that is a setting.
fn whose(policy: &str, client: &Client) -> String {
    let plan = client.allowance.plan.as_ref();
    match plan.filter(|plan| plan.policies.iter().any(|known| known.name == policy)) {
        Some(plan) => format!(", of the plan `{0}` (octroi plan update {0})", plan.name),
        None if policy == "key" => ", of the key (octroi key update)".to_owned(),
        None if policy == "client" || policy.starts_with("client.") => {
            format!(", of the client (octroi client update {})", client.id)
        }
        None => String::new(),
    }
}
