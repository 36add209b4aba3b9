//! Spending: what a request costs, from every policy that applies, all or none.
//!
//! The limiters live in the client ([`crate::clients`]); this module knows which of them a
//! request is charged to, takes back what was taken when a later one refuses, and writes what
//! callers are told. Refusals cost nothing.
//!
//! To add a policy: a [`PolicyName`](crate::clients::limiter::PolicyName), its limiter in the
//! live client or the principal, and a place in `applying`. Charging, refunding and the header
//! fields take as many as there are.
//!
//! Refuses to know why a limit is what it is, and what a refusal looks like on the wire.

mod headers;

use std::sync::Arc;

use crate::clients::limiter::{Limiter, Snapshot, Spent};
use crate::clients::{LiveClient, Principal};
use crate::model::clock::Monotonic;

/// How many policies one request can be charged to: the client's (or the default) and the key's.
const POLICIES: usize = 2;

/// What a request took from its policies; given back with [`Charge::refund`].
#[derive(Debug)]
pub struct Charge {
    client: Arc<LiveClient>,
    key: Option<Arc<Limiter>>,
    spent: [Option<Spent>; POLICIES],
}

impl Charge {
    /// Gives the charge back: the request never reached its upstream. What time has brought back
    /// already is not given a second time.
    pub fn refund(self, now: Monotonic) {
        let limiters = [self.client.limiter(), self.key.as_deref()];
        for (limiter, spent) in limiters.into_iter().zip(&self.spent) {
            if let (Some(limiter), Some(spent)) = (limiter, spent) {
                limiter.give_back(spent, now);
            }
        }
    }

    /// The policies and what remains, for the response's `RateLimit` fields.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { policies: self.spent.map(|spent| spent.map(|spent| PolicyStanding::new(spent.snapshot))) }
    }
}

/// Every policy that applied, as the caller may know it. None of an open route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    policies: [Option<PolicyStanding>; POLICIES],
}

impl Standing {
    /// The policies that applied.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyStanding> {
        self.policies.iter().flatten()
    }
}

/// One policy as the caller may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyStanding {
    /// `default`, `client` or `key`.
    pub policy: &'static str,
    /// `q`
    pub burst: u32,
    /// `w`, seconds.
    pub window_seconds: u64,
    /// `r`
    pub remaining: u32,
    /// `t`: seconds until there is more.
    pub reset_seconds: u64,
}

impl PolicyStanding {
    fn new(snapshot: Snapshot) -> Self {
        Self {
            policy: snapshot.policy.name.as_str(),
            burst: snapshot.policy.limit.burst.get(),
            window_seconds: snapshot.window_seconds,
            remaining: snapshot.remaining,
            reset_seconds: whole_seconds(snapshot.reset),
        }
    }
}

/// Why nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The policy that refused.
    pub policy: &'static str,
    /// All policies as they stand.
    pub standing: Standing,
    /// Whole seconds until the same cost fits, at least 1 and never before `t`.
    pub retry_after_seconds: u64,
}

/// Charges `cost` units to every policy that applies, all or none. A request on an open route
/// (the nil client) is charged to none.
///
/// # Errors
/// The policy that refused. Nothing was charged then.
pub fn charge(principal: &Principal, cost: u32, now: Monotonic) -> Result<Charge, Exceeded> {
    let mut spent = [None; POLICIES];
    let limiters = applying(principal);
    for (index, limiter) in limiters.iter().enumerate() {
        let Some(limiter) = limiter else { continue };
        match limiter.check(cost, now) {
            Ok(taken) => spent[index] = Some(taken),
            Err(refusal) => {
                for (limiter, taken) in limiters.iter().zip(&spent) {
                    if let (Some(limiter), Some(taken)) = (limiter, taken) {
                        limiter.give_back(taken, now);
                    }
                }
                let refused_by = refusal.snapshot.policy.name;
                principal.client.counters().refused(refused_by);
                let standing = PolicyStanding::new(refusal.snapshot);
                return Err(Exceeded {
                    policy: refused_by.as_str(),
                    retry_after_seconds: whole_seconds(refusal.wait).max(standing.reset_seconds).max(1),
                    standing: look(&limiters, now),
                });
            }
        }
    }
    for taken in spent.iter().flatten() {
        principal.client.counters().admitted(taken.snapshot.policy.name);
    }
    Ok(Charge { client: Arc::clone(&principal.client), key: principal.key_limiter.clone(), spent })
}

/// The limiters a principal spends from, the widest first.
fn applying(principal: &Principal) -> [Option<&Limiter>; POLICIES] {
    [principal.client.limiter(), principal.key_limiter.as_deref()]
}

/// How the limiters stand, without taking anything.
fn look(limiters: &[Option<&Limiter>; POLICIES], now: Monotonic) -> Standing {
    Standing {
        policies: limiters.map(|limiter| {
            let looked = limiter?.check(0, now).ok()?;
            Some(PolicyStanding::new(looked.snapshot))
        }),
    }
}

/// Rounded up: a caller that comes a fraction too early is refused again.
fn whole_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::clients::LiveClients;
    use crate::clients::limiter::PolicyName;
    use crate::model::client::{Client, ClientStatus};
    use crate::model::id::{ApiKeyId, ClientId};
    use crate::model::rate::RateLimit;
    use crate::telemetry::metrics::Metrics;

    const NOW: Monotonic = Monotonic(3_600_000_000_000);

    fn limit(rate: &str, burst: u32) -> RateLimit {
        RateLimit::new(rate.parse().unwrap(), NonZeroU32::new(burst))
    }

    /// A principal of a client under the default limit, with a limit of its key's own if given.
    pub(super) fn principal(default: RateLimit, key: Option<RateLimit>) -> (Principal, Arc<Metrics>) {
        let metrics = Metrics::new(&[], &[]);
        let clients = LiveClients::new(&metrics);
        let client = Client {
            id: ClientId(Uuid::from_u128(1)),
            name: "acme".into(),
            status: ClientStatus::Active,
            rate: None,
            burst: None,
            plan_id: None,
            metadata: serde_json::json!({}),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let live = clients.attach(&client, default, clients.mark(), NOW).client;
        let key_limiter = key.map(|key| live.key_limiter(ApiKeyId(Uuid::from_u128(2)), key, NOW));
        (Principal { client: live, key_limiter, ..Principal::nobody(clients.nobody()) }, metrics)
    }

    fn remaining(principal: &Principal) -> Vec<u32> {
        look(&applying(principal), NOW).policies().map(|policy| policy.remaining).collect()
    }

    #[test]
    fn a_charge_is_taken_and_can_be_given_back() {
        let (principal, metrics) = principal(limit("100/s", 100), None);
        let charge = charge(&principal, 1, NOW).unwrap();
        let standing = *charge.standing().policies().next().unwrap();
        assert_eq!(
            standing,
            PolicyStanding { policy: "default", burst: 100, window_seconds: 1, remaining: 99, reset_seconds: 1 }
        );
        charge.refund(NOW);
        assert_eq!(remaining(&principal), [100]);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"octroi_limit_total{policy="default",result="admitted"} 1"#), "{text}");
    }

    #[test]
    fn a_refusal_says_when_to_come_back_and_takes_nothing() {
        for (rate, burst, cost, retry_after) in [
            ("100/s", 1, 1, 1),
            ("1/m", 1, 1, 60),
            ("10/m", 1, 1, 6),
            ("1/s", 5, 3, 3),
            ("1/s", 5, 6, 5),
            ("7/m", 1, 1, 9),
        ] {
            let (principal, metrics) = principal(limit(rate, burst), None);
            if cost <= burst {
                charge(&principal, burst, NOW).unwrap();
            }
            let before = remaining(&principal);
            let exceeded = charge(&principal, cost, NOW).unwrap_err();
            assert_eq!((exceeded.policy, exceeded.retry_after_seconds), ("default", retry_after), "{rate} {burst}");
            let standing = exceeded.standing.policies().next().unwrap();
            assert!(exceeded.retry_after_seconds >= standing.reset_seconds, "Retry-After is not before t");
            assert_eq!(remaining(&principal), before);
            let later = NOW.after(Duration::from_secs(retry_after));
            assert_eq!(charge(&principal, cost, later).is_ok(), cost <= burst, "the promise is kept");
            let text = metrics.encode().unwrap();
            assert!(text.contains(r#"octroi_limit_total{policy="default",result="refused"}"#), "{text}");
        }
    }

    #[test]
    fn several_policies_are_charged_all_or_none() {
        let (principal, _) = principal(limit("100/s", 10), Some(limit("1/s", 2)));
        assert_eq!(charge(&principal, 2, NOW).unwrap().standing().policies().count(), 2);
        assert_eq!(remaining(&principal), [8, 0]);
        let exceeded = charge(&principal, 1, NOW).unwrap_err();
        assert_eq!((exceeded.policy, exceeded.retry_after_seconds), ("key", 1));
        assert_eq!(remaining(&principal), [8, 0], "what the client's policy took came back");
    }

    #[test]
    fn a_charge_to_several_policies_is_refunded_to_all() {
        let (principal, _) = principal(limit("100/s", 10), Some(limit("1/s", 5)));
        charge(&principal, 5, NOW).unwrap().refund(NOW);
        assert_eq!(remaining(&principal), [10, 5]);
    }

    #[test]
    fn an_open_route_is_charged_to_nobody() {
        let clients = LiveClients::new(&Metrics::new(&[], &[]));
        let nobody = Principal::nobody(clients.nobody());
        for _ in 0..10_000 {
            assert_eq!(charge(&nobody, 1_000, NOW).unwrap().standing(), Standing::default());
        }
    }

    #[test]
    fn policy_names_are_the_contract_s() {
        let names = [PolicyName::Default, PolicyName::Client, PolicyName::Key].map(PolicyName::as_str);
        assert_eq!(names, ["default", "client", "key"]);
    }
}
