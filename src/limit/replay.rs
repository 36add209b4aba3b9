//! What a plan would have done: recorded requests, asked again under other limits.
//!
//! The limits are the real ones and decide as they do for callers; only time is the events' own.
//! The plan's policies alone are asked: what else a client is under stays what it was. `report` reads
//! the requests and says what came of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Charge, Cost, ExceededKind, When, charge};
use crate::clients::{LiveClients, Principal};
use crate::model::client::{Allowance, Client};
use crate::model::clock::Monotonic;
use crate::model::plan::Plan;
use crate::model::quota::Window;
use crate::model::rate::{Rate, RateLimit, RateUnit};
use crate::telemetry::metrics::Metrics;

mod report;

pub use report::{HourRefusals, PolicyRefusals, Refusal, ReplayFault, ReplayReport, Trial, replay};

/// So late is the first event by the monotonic clock: limiters look back.
const START: Monotonic = Monotonic(400 * 24 * 3_600 * 1_000_000_000);

/// A client under a plan, somewhere in the past.
struct Replay {
    principal: Principal,
    by_cost: bool,
    from: Timestamp,
    now: Monotonic,
    /// Requests that are open, by their end.
    open: BTreeMap<(Timestamp, u64), Charge>,
    asked: u64,
}

/// A request that was recorded.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    /// When it arrived.
    arrived: Timestamp,
    /// How long it was open.
    lasted: Duration,
    /// What it cost.
    units: u32,
}

/// The policy that would have refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WouldRefuse {
    /// Its name.
    policy: Cow<'static, str>,
    /// What kind it is of.
    what: ExceededKind,
}

impl Replay {
    /// `client` under `plan`, from this moment on. `by_cost`: rates are charged by units.
    #[must_use]
    fn new(client: &Client, plan: Plan, by_cost: bool, from: Timestamp) -> Self {
        let clients = LiveClients::new(&Metrics::new(&[], &[]));
        let allowance = Allowance { plan: Some(Arc::new(plan)), quota: None, concurrency: None };
        let client = Client { rate: None, burst: None, allowance, ..client.clone() };
        let boundless = RateLimit::new(Rate::new(NonZeroU32::MAX, RateUnit::Second), None);
        let attached = clients.attach(&client, boundless, clients.mark(), START, from);
        let principal = Principal::nobody(attached.client);
        Self { principal, by_cost, from, now: START, open: BTreeMap::new(), asked: 0 }
    }

    /// Of each quota the part of its window that lies before the first moment.
    #[must_use]
    fn windows_before(&self) -> Vec<Window> {
        let terms = self.principal.client.terms();
        let window = |period: &crate::model::quota::Period| Window { end: self.from, ..period.window(self.from) };
        terms.quotas.iter().map(|quotas| window(quotas.counter.period())).collect()
    }

    /// Says what was used in these, in their order.
    fn used_before(&self, units: &[i64]) {
        let terms = self.principal.client.terms();
        for (quotas, units) in terms.quotas.iter().zip(units) {
            if let Some(span) = quotas.counter.span(self.from) {
                span.correct(*units);
            }
        }
    }

    /// Asks for the next request, in the order in which they arrived.
    ///
    /// # Errors
    /// The policy that would have refused it; it cost nothing then.
    fn ask(&mut self, request: Recorded) -> Result<(), WouldRefuse> {
        while let Some(entry) = self.open.first_entry()
            && entry.key().0 <= request.arrived
        {
            entry.remove();
        }
        let passed = Duration::try_from(request.arrived.duration_since(self.from)).unwrap_or_default();
        // Clocks of several nodes: what arrived a little earlier than the one before is charged with it.
        self.now = Monotonic(self.now.0.max(START.after(passed).0));
        let rate = if self.by_cost { request.units } else { 1 };
        let cost = Cost { rate, units: request.units };
        let when = When { arrived: request.arrived, now: self.now };
        self.asked += 1;
        match charge(&self.principal, cost, when) {
            Ok(charge) => {
                let end = request.arrived.checked_add(request.lasted).unwrap_or(Timestamp::MAX);
                self.open.insert((end, self.asked), charge);
                Ok(())
            }
            Err(exceeded) => Err(WouldRefuse { policy: exceeded.policy, what: exceeded.what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::client::ClientStatus;
    use crate::model::id::ClientId;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}Z").parse().unwrap()
    }

    fn replay(policies: &str, concurrency: Option<u32>, from: &str) -> Replay {
        let from = at(from);
        let client = Client {
            id: ClientId(Uuid::from_u128(1)),
            name: "acme".into(),
            status: ClientStatus::Active,
            rate: "1/d".parse().ok(),
            burst: None,
            plan_id: None,
            allowance: Allowance::default(),
            metadata: serde_json::json!({}),
            created_at: from,
            updated_at: from,
        };
        let plan = Plan {
            id: Uuid::from_u128(2),
            name: "proposed".into(),
            policies: serde_json::from_str(policies).unwrap(),
            concurrency: concurrency.and_then(NonZeroU32::new),
            created_at: from,
            updated_at: from,
        };
        Replay::new(&client, plan, false, from)
    }

    fn asked(replay: &mut Replay, arrived: &str, milliseconds: u64, units: u32) -> Option<String> {
        let request = Recorded { arrived: at(arrived), lasted: Duration::from_millis(milliseconds), units };
        replay.ask(request).err().map(|refused| refused.policy.into_owned())
    }

    #[test]
    fn rates_refill_by_the_times_of_events() {
        let mut replay = replay(r#"[{"name":"slow","rate":"1/s","burst":2}]"#, None, "01T00:00:00");
        for (arrived, refused) in [
            ("01T00:00:05", None),
            ("01T00:00:05.1", None),
            ("01T00:00:05.2", Some("slow")),
            ("01T00:00:06", None),
            ("01T00:00:06.1", Some("slow")),
            ("20T00:00:00", None),
        ] {
            assert_eq!(asked(&mut replay, arrived, 1, 1).as_deref(), refused, "{arrived}");
        }
    }

    #[test]
    fn quotas_begin_with_what_was_used_and_turn_with_the_calendar() {
        let policies = r#"[{"name":"daily","quota":"10/day"},{"name":"shadow","quota":"1/month","mode":"shadow"}]"#;
        let mut replay = replay(policies, None, "01T12:00:00");
        let windows = replay.windows_before();
        assert_eq!((windows[0].start, windows[0].end), (at("01T00:00:00"), at("01T12:00:00")));
        replay.used_before(&[7, 0]);
        for (arrived, units, refused) in [
            ("01T12:00:00", 2, None),
            ("01T13:00:00", 2, Some("daily")),
            ("01T13:00:01", 1, None),
            ("01T13:00:02", 0, None),
            ("01T23:59:59", 1, Some("daily")),
            ("02T00:00:00", 10, None),
            ("02T00:00:01", 1, Some("daily")),
            ("09T00:00:00", 10, None),
        ] {
            assert_eq!(asked(&mut replay, arrived, 1, units).as_deref(), refused, "{arrived}");
        }
    }

    #[test]
    fn places_are_held_as_long_as_requests_were_open() {
        let mut replay = replay("[]", Some(2), "01T00:00:00");
        for (arrived, lasted, refused) in [
            ("01T00:00:01", 5_000, None),
            ("01T00:00:02", 1_000, None),
            ("01T00:00:02.5", 1, Some("concurrency")),
            ("01T00:00:03", 10_000, None),
            ("01T00:00:05.9", 1, Some("concurrency")),
            ("01T00:00:06", 1, None),
        ] {
            assert_eq!(asked(&mut replay, arrived, lasted, 1).as_deref(), refused, "{arrived}");
        }
    }
}
