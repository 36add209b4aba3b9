use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::ToSpan as _;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::clients::limiter::PolicyName;
use crate::clients::{Ledger, LiveClients};
use crate::model::client::{Allowance, Client, ClientStatus};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::plan::Plan;
use crate::model::rate::RateLimit;
use crate::telemetry::metrics::Metrics;

const NOW: Monotonic = Monotonic(3_600_000_000_000);

fn arrived() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn when(now: Monotonic) -> When {
    When { arrived: arrived(), now }
}

fn limit(rate: &str, burst: u32) -> RateLimit {
    RateLimit::new(rate.parse().unwrap(), NonZeroU32::new(burst))
}

fn cost(units: u32) -> Cost {
    Cost { rate: units, units }
}

struct Rig {
    clients: Arc<LiveClients>,
    metrics: Arc<Metrics>,
}

impl Rig {
    fn new() -> Self {
        let metrics = Metrics::new(&[], &[]);
        Self { clients: LiveClients::new(&metrics), metrics }
    }

    /// A principal of the one client, under these limits from now on.
    fn principal(&self, default: RateLimit, key: Option<RateLimit>, allowance: Allowance) -> Principal {
        let client = Client {
            id: ClientId(Uuid::from_u128(1)),
            name: "acme".into(),
            status: ClientStatus::Active,
            rate: None,
            burst: None,
            plan_id: None,
            allowance,
            metadata: serde_json::json!({}),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let live = self.clients.attach(&client, default, self.clients.mark(), NOW, arrived()).client;
        let key_limiter = key.map(|key| live.key_limiter(ApiKeyId(Uuid::from_u128(2)), key, NOW));
        Principal { client: live, key_limiter, ..Principal::nobody(self.clients.nobody()) }
    }

    fn counted(&self, policy: &str, result: &str) -> u64 {
        let start = format!(r#"octroi_limit_total{{policy="{policy}",result="{result}"}} "#);
        let text = self.metrics.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

fn plan(policies: &str, concurrency: Option<u32>) -> Allowance {
    let plan = Plan {
        id: Uuid::from_u128(7),
        name: "gold".into(),
        policies: serde_json::from_str(policies).unwrap(),
        concurrency: concurrency.and_then(NonZeroU32::new),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    Allowance { plan: Some(Arc::new(plan)), ..Allowance::default() }
}

fn quota(text: &str) -> Allowance {
    Allowance { quota: Some(text.parse().unwrap()), ..Allowance::default() }
}

fn standings(principal: &Principal) -> Vec<(String, u64)> {
    let terms = principal.client.terms();
    policies(principal, &terms, when(NOW)).map(|policy| (policy.policy.to_owned(), policy.remaining)).collect()
}

fn remaining(principal: &Principal) -> Vec<u64> {
    standings(principal).into_iter().map(|(_, remaining)| remaining).collect()
}

#[test]
fn a_charge_is_taken_and_can_be_given_back() {
    let rig = Rig::new();
    let principal = rig.principal(limit("100/s", 100), None, Allowance::default());
    let charge = charge(&principal, Cost::ONE, when(NOW)).unwrap();
    let expected = PolicyStanding { policy: "default", quota: 100, window_seconds: 1, remaining: 99, reset_seconds: 1 };
    assert_eq!(charge.standing(), Standing::of([expected].into_iter()));
    assert_eq!(remaining(&principal), [99]);
    charge.refund(NOW);
    assert_eq!(remaining(&principal), [100]);
    assert_eq!(rig.counted("default", "admitted"), 1);
}

#[test]
fn a_refusal_says_when_to_come_back_and_takes_nothing() {
    for (rate, burst, units, retry_after) in
        [("100/s", 1, 1, 1), ("1/m", 1, 1, 60), ("10/m", 1, 1, 6), ("1/s", 5, 3, 3), ("1/s", 5, 6, 5), ("7/m", 1, 1, 9)]
    {
        let rig = Rig::new();
        let principal = rig.principal(limit(rate, burst), None, Allowance::default());
        if units <= burst {
            charge(&principal, cost(burst), when(NOW)).unwrap();
        }
        let before = remaining(&principal);
        let exceeded = charge(&principal, cost(units), when(NOW)).unwrap_err();
        assert_eq!((&*exceeded.policy, exceeded.retry_after_seconds), ("default", retry_after), "{rate} {burst}");
        assert_eq!(exceeded.what, ExceededKind::Rate);
        assert_eq!(remaining(&principal), before);
        let later = NOW.after(Duration::from_secs(retry_after));
        assert_eq!(charge(&principal, cost(units), when(later)).is_ok(), units <= burst, "the promise is kept");
        assert!(rig.counted("default", "refused") > 0);
    }
}

#[test]
fn several_policies_are_charged_all_or_none_and_refunded_all() {
    let rig = Rig::new();
    let allowance = Allowance {
        quota: Some("100/month".parse().unwrap()),
        ..plan(r#"[{"name":"gold","rate":"1/s","burst":20},{"name":"gold.day","quota":"12/day"}]"#, None)
    };
    let principal = rig.principal(limit("1/h", 1), Some(limit("1/s", 10)), allowance);
    let names: Vec<_> = standings(&principal).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["key", "gold", "gold.day", "client.month"], "the plan's rate stands in for the default's");
    let full = remaining(&principal);
    assert_eq!(full, [10, 20, 12, 100]);
    let first = charge(&principal, cost(9), when(NOW)).unwrap();
    assert_eq!(remaining(&principal), [1, 11, 3, 91]);
    for (units, refused_by, what) in [(2, "key", ExceededKind::Rate), (1, "", ExceededKind::Rate)] {
        match charge(&principal, cost(units), when(NOW)) {
            Err(exceeded) => assert_eq!((&*exceeded.policy, exceeded.what), (refused_by, what)),
            Ok(charged) => {
                assert_eq!(units, 1);
                charged.refund(NOW);
            }
        }
        assert_eq!(remaining(&principal), [1, 11, 3, 91], "all or none");
    }
    let only_units = Cost { rate: 0, units: 4 };
    let exceeded = charge(&principal, only_units, when(NOW)).unwrap_err();
    assert_eq!((&*exceeded.policy, exceeded.what), ("gold.day", ExceededKind::Quota));
    assert_eq!(exceeded.retry_after_seconds, 12 * 3_600, "until midnight");
    assert_eq!(remaining(&principal), [1, 11, 3, 91]);
    first.refund(NOW);
    assert_eq!(remaining(&principal), full);
}

#[test]
fn a_shadow_counts_and_never_refuses() {
    let rig = Rig::new();
    let policies = r#"[{"name":"slow","rate":"1/h","burst":1,"mode":"shadow"},{"name":"few","quota":"2/day","mode":"shadow"},
        {"name":"some","quota":"4/day"}]"#;
    let principal = rig.principal(limit("100/s", 100), None, plan(policies, None));
    for round in 1..=4 {
        charge(&principal, Cost::ONE, when(NOW)).unwrap();
        assert_eq!(rig.counted("plan", "would_refuse"), (round - 1), "after one");
        assert_eq!(rig.counted("quota", "would_refuse"), u64::saturating_sub(round, 2), "after two");
    }
    assert_eq!(standings(&principal), [("default".into(), 96), ("some".into(), 0)], "callers are not told of shadows");
    let exceeded = charge(&principal, Cost::ONE, when(NOW)).unwrap_err();
    assert_eq!((&*exceeded.policy, exceeded.what), ("some", ExceededKind::Quota));
    assert_eq!(rig.counted("quota", "refused"), 1);
}

#[test]
fn marks_are_told_once_each() {
    let rig = Rig::new();
    let principal = rig.principal(limit("1000/s", 1_000), None, quota("10/day"));
    let told = || rig.clients.marks().take().into_iter().map(|mark| (mark.percent, mark.used)).collect::<Vec<_>>();
    for (units, expected) in
        [(7, vec![]), (1, vec![(80, 8)]), (1, vec![]), (2, vec![(100, 10)]), (2, vec![]), (1, vec![])]
    {
        let _ = charge(&principal, cost(units), when(NOW));
        assert_eq!(told(), expected, "{units}");
    }
    let tomorrow = When { arrived: arrived() + 24.hours(), now: NOW };
    charge(&principal, cost(10), tomorrow).unwrap();
    assert_eq!(told(), [(100, 10)], "another window; 100 % says 80 % as well");
}

#[test]
fn what_it_cost_in_the_end_is_settled() {
    let rig = Rig::new();
    let principal = rig.principal(limit("1/s", 10), None, quota("10/day"));
    let charged = charge(&principal, cost(2), when(NOW)).unwrap();
    charged.settle_units(5);
    charged.settle_rates(5, NOW);
    assert_eq!(remaining(&principal), [5, 5]);
    let replay = charge(&principal, cost(2), when(NOW)).unwrap();
    replay.settle_units(0);
    replay.settle_rates(0, NOW);
    assert_eq!(remaining(&principal), [5, 5], "free");
    let dear = charge(&principal, cost(5), when(NOW)).unwrap();
    dear.settle_units(1_000);
    dear.settle_rates(1_000, NOW);
    assert_eq!(remaining(&principal), [0, 0]);
    let exceeded = charge(&principal, cost(1), when(NOW)).unwrap_err();
    assert_eq!(exceeded.retry_after_seconds, 11, "a debt of one burst at most, and then one unit");
}

#[test]
fn places_are_freed_however_a_request_ends() {
    let rig = Rig::new();
    let principal = rig.principal(limit("1000/s", 1_000), None, plan("[]", Some(3)));
    let open = |count: usize| (0..count).map(|_| charge(&principal, Cost::ONE, when(NOW)).unwrap()).collect::<Vec<_>>();
    let mut held = open(3);
    let exceeded = charge(&principal, Cost::ONE, when(NOW)).unwrap_err();
    assert_eq!((exceeded.what, exceeded.retry_after_seconds), (ExceededKind::Concurrency, 1));
    assert_eq!(remaining(&principal), [997], "a refusal takes nothing");
    held.pop();
    let again = open(1);
    held.pop().unwrap().refund(NOW);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = open(1);
        panic!("in the middle of a request");
    }));
    assert!(unwound.is_err());
    drop((held, again));
    assert_eq!(open(3).len(), 3);
    assert_eq!(rig.counted("concurrency", "refused"), 1);
}

#[test]
fn other_terms_take_over_what_was_used() {
    let rig = Rig::new();
    let gold = r#"[{"name":"gold","rate":"1/h","burst":10},{"name":"gold.day","quota":"10/day"}]"#;
    let principal = rig.principal(limit("1/s", 1), None, plan(gold, None));
    charge(&principal, cost(5), when(NOW)).unwrap();
    let wider = r#"[{"name":"gold","rate":"1/h","burst":20},{"name":"more.day","quota":"100/day"}]"#;
    let principal = rig.principal(limit("1/s", 1), None, plan(wider, None));
    assert_eq!(standings(&principal), [("gold".into(), 10), ("more.day".into(), 95)]);
    let principal = rig.principal(limit("1/s", 1), None, Allowance::default());
    assert_eq!(standings(&principal), [("default".into(), 1)]);
    let principal = rig.principal(limit("1/s", 1), None, plan(gold, None));
    assert!(!principal.client.terms().are_read(), "a counter that was let go is read from the ledger again");
}

#[tokio::test]
async fn nothing_is_charged_before_the_ledger_was_read() {
    let rig = Rig::new();
    let principal = rig.principal(limit("100/s", 100), None, quota("10/day"));
    let early = tokio::time::timeout(Duration::from_millis(20), quotas_read(&principal)).await;
    assert!(early.is_err(), "it waits");
    let ledger = Ledger::new(Arc::clone(&rig.clients));
    tokio::time::timeout(Duration::from_secs(1), ledger.asked()).await.expect("somebody is told");
    let terms = principal.client.terms();
    let read = async {
        let held = ledger.hold().await;
        let span = terms.quotas[0].counter.span(arrived()).unwrap();
        held.read(&terms.quotas[0].counter, &span, 7);
    };
    let (waited, ()) = tokio::join!(quotas_read(&principal), read);
    assert_eq!(waited, Ok(()));
    assert_eq!(remaining(&principal), [100, 3]);
}

#[test]
fn an_open_route_is_charged_to_nobody() {
    let clients = LiveClients::new(&Metrics::new(&[], &[]));
    let nobody = Principal::nobody(clients.nobody());
    for _ in 0..10_000 {
        assert_eq!(charge(&nobody, cost(1_000), when(NOW)).unwrap().standing(), Standing::default());
    }
}

#[test]
fn policy_names_are_the_contract_s() {
    let names = [PolicyName::Default, PolicyName::Client, PolicyName::Key].map(PolicyName::as_str);
    assert_eq!(names, ["default", "client", "key"]);
}

#[test]
fn many_threads_never_overspend_any_policy() {
    let rig = Rig::new();
    let allowance = plan(
        r#"[{"name":"r","rate":"1/d","burst":700},{"name":"d","quota":"600/day"},{"name":"m","quota":"650/month"}]"#,
        Some(4),
    );
    let principal = rig.principal(limit("1/s", 1), Some(limit("1/d", 800)), allowance);
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (principal, admitted) = (&principal, &admitted);
            scope.spawn(move || {
                for round in 0..400 {
                    let units = 1 + (thread + round) % 3;
                    let Ok(charged) = charge(principal, cost(units), when(NOW)) else { continue };
                    if round % 5 == 0 {
                        charged.refund(NOW);
                    } else {
                        admitted.fetch_add(units.into(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let admitted = admitted.load(Ordering::Relaxed);
    assert!(admitted <= 600, "{admitted}");
    assert_eq!(remaining(&principal), [800 - admitted, 700 - admitted, 600 - admitted, 650 - admitted], "exact");
}

/// One step of a run: a request of so many units that is refunded, settled for other units, or
/// stays as it is.
fn steps() -> impl Strategy<Value = Vec<(u32, Option<u32>)>> {
    prop::collection::vec((0_u32..12, prop::option::of(0_u32..20)), 0..60)
}

proptest! {
    /// With rates that bring nothing back, every policy's books are those of a sum: a charge is in
    /// all of them or in none, a refusal has a policy that would not have held it, and settling
    /// moves all quotas alike.
    #[test]
    fn charges_are_sums(steps in steps(), key in 1_u32..80, rate in 1_u32..80, day in 1_u32..80, month in 1_u32..80) {
        let rig = Rig::new();
        let policies = format!(r#"[{{"name":"r","rate":"1/d","burst":{rate}}},{{"name":"d","quota":"{day}/day"}},{{"name":"m","quota":"{month}/month"}}]"#);
        let principal = rig.principal(limit("1/d", 1), Some(limit("1/d", key)), plan(&policies, None));
        let (mut rates, mut units) = (0_u32, 0_u32);
        for (wanted, settled) in steps {
            let fits = wanted == 0
                || (wanted + rates <= key.min(rate) && wanted + units <= day.min(month));
            let charged = charge(&principal, cost(wanted), when(NOW));
            prop_assert_eq!(charged.is_ok(), fits, "{} of {} and {}", wanted, rates, units);
            if let Ok(charged) = charged {
                rates += wanted;
                units += wanted;
                match settled {
                    Some(0) => {
                        charged.refund(NOW);
                        rates -= wanted;
                        units -= wanted;
                    }
                    Some(settled) => {
                        charged.settle_units(settled);
                        units = units - wanted + settled;
                    }
                    None => {}
                }
            }
            let left = |most: u32, used: u32| u64::from(most.saturating_sub(used));
            prop_assert_eq!(remaining(&principal), [left(key, rates), left(rate, rates), left(day, units), left(month, units)]);
        }
    }

    /// What observes says of every request what would have been decided, had it been enforced all
    /// along; and each is charged to the quotas, because it is served.
    #[test]
    fn observed_requests_are_judged_as_if_they_were_refused(
        steps in prop::collection::vec((0_u64..1500, any::<bool>(), any::<bool>()), 0..60),
        key in 1_u32..6, rate in 1_u32..6, day in 1_u32..30, most in 1_u32..4,
    ) {
        let (enforcing, observing) = (Rig::new(), Rig::new());
        let policies = format!(r#"[{{"name":"r","rate":"1/s","burst":{rate}}},{{"name":"d","quota":"{day}/day"}}]"#);
        let principal =
            |rig: &Rig| rig.principal(limit("1/d", 1), Some(limit("2/s", key)), plan(&policies, Some(most)));
        let (enforced, observed) = (principal(&enforcing), principal(&observing));
        let (mut now, mut open) = (NOW, Vec::new());
        let mut served = 0_u64;
        for (pause, stays_open, refused) in steps {
            now = now.after(Duration::from_millis(pause));
            // Something else would have refused it: then it never got to the limits.
            let decided = if refused { None } else { Some(charge(&enforced, Cost::ONE, when(now))) };
            let (charged, exceeded) = observe(&observed, Cost::ONE, when(now), refused);
            served += 1;
            // What others used up meanwhile is theirs to refuse: compared while the quota lasts.
            if served > u64::from(day) {
                prop_assert_eq!(exceeded.is_some(), !refused);
                continue;
            }
            let of = |exceeded: &Exceeded| (exceeded.what, exceeded.policy.clone(), exceeded.retry_after_seconds);
            let decision = decided.as_ref().and_then(|decided| decided.as_ref().err());
            prop_assert_eq!(exceeded.as_ref().map(of), decision.map(of));
            if stays_open {
                open.push((decided, charged));
            } else {
                open.pop();
            }
        }
        let used = policies_of(&observed, now).find(|(name, _)| name == "d").map(|(_, left)| left);
        prop_assert_eq!(used, Some(u64::from(day).saturating_sub(served)));
    }
}

fn policies_of(principal: &Principal, now: Monotonic) -> impl Iterator<Item = (String, u64)> {
    let terms = principal.client.terms();
    let all: Vec<_> =
        policies(principal, &terms, when(now)).map(|one| (one.policy.to_owned(), one.remaining)).collect();
    all.into_iter()
}
