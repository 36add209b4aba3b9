//! What a plan would have refused of what a client has done: events read from the store, asked again,
//! and what came of it. The same object by the command line and the admin API.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use super::{Recorded, Replay, WouldRefuse};
use crate::config::moment as time;
use crate::limit::ExceededKind;
use crate::model::client::Client;
use crate::model::id::ClientId;
use crate::model::plan::Plan;
use crate::model::usage::{REJECTED, STREAM};
use crate::store::events::{EventQuery, EventRow};
use crate::store::{Store, StoreError, UsageColumn, UsageQuery};

/// How many events are read at a time.
const PAGE: u32 = 2_000;

/// So many refusals are listed one by one.
const LISTED: usize = 20;

/// Which requests are asked again, and how.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Whose.
    pub client: Client,
    /// The proposed plan. Nobody has to be on it.
    pub plan: Plan,
    /// Whether rates are charged by units.
    pub by_cost: bool,
    /// Those that arrived from then on.
    pub from: Timestamp,
    /// And before then.
    pub to: Timestamp,
}

/// Why nothing was replayed.
#[derive(Debug, Error)]
pub enum ReplayFault {
    /// There is nothing left to replay.
    #[error("events from before {before} are deleted: there is nothing to replay")]
    Deleted {
        /// All before are gone.
        before: Timestamp,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a plan would have refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReplayReport {
    /// The plan's name.
    pub plan: String,
    /// The client's name.
    pub client: String,
    /// Of requests that arrived from then on.
    pub from: Timestamp,
    /// And before then.
    pub to: Timestamp,
    /// Requests that were asked again.
    pub events: u64,
    /// What they cost.
    pub units: u64,
    /// Those that would have been refused.
    pub refused: u64,
    /// What those cost.
    pub refused_units: u64,
    /// Requests that limits refused when they came: nobody knows at which moment.
    pub refused_then: u64,
    /// Whether the figures are the whole truth.
    pub exact: bool,
    /// What each policy would have refused.
    pub by_policy: Vec<PolicyRefusals>,
    /// In which hours.
    pub by_hour: Vec<HourRefusals>,
    /// The first refusals, one by one; at most 20.
    pub first: Vec<Refusal>,
    /// Why the figures are not the whole truth; null: they are.
    #[schema(required)]
    pub caveat: Option<String>,
}

/// What one policy would have refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyRefusals {
    /// When it first refused.
    pub first: Timestamp,
    /// `rate`, `quota` or `concurrency`.
    pub kind: String,
    /// When it refused last.
    pub last: Timestamp,
    /// Its name.
    pub policy: String,
    /// How many.
    pub refused: u64,
}

/// What would have been refused in one hour.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HourRefusals {
    /// Which.
    pub hour: Timestamp,
    /// How many.
    pub refused: u64,
}

/// A request that would have been refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// When it arrived.
    pub at: Timestamp,
    /// By which policy.
    pub policy: String,
    /// Its id.
    pub request_id: String,
    /// By which route it came.
    pub route: String,
    /// What it cost.
    pub units: u64,
}

/// Asks recorded requests again, in their order and at their times.
///
/// # Errors
/// Some of their events are deleted; the store is away.
pub async fn replay(store: &Store, trial: Trial) -> Result<ReplayReport, ReplayFault> {
    let Trial { client, plan, by_cost, from, to } = trial;
    if let Some(before) = store.audit.retention_mark().await?
        && from < before
    {
        return Err(ReplayFault::Deleted { before });
    }
    let mut tally = Tally { refused_then: refused_then(store, client.id, from, to).await?, ..Tally::default() };
    let plan_name = plan.name.clone();
    let mut replay = Replay::new(&client, plan, by_cost, from);
    let mut before = Vec::new();
    for window in replay.windows_before() {
        before.push(store.quotas.units(client.id, window).await?);
    }
    replay.used_before(&before);
    let query = EventQuery { client: Some(client.id), ..EventQuery::between(from, to) };
    let mut after = None;
    loop {
        let events = store.events.events(&query, after, PAGE).await?;
        // What was asked for as a request; interim records are a part of one.
        for event in events.iter().filter(|event| !["adjustment", STREAM].contains(&event.kind.as_str())) {
            tally.note(event, replay.ask(recorded(event)).err());
        }
        after = events.last().map(|event| event.id);
        if events.len() < PAGE as usize {
            return Ok(tally.report(plan_name, client.name, (from, to)));
        }
    }
}

fn recorded(event: &EventRow) -> Recorded {
    Recorded {
        arrived: event.occurred_at,
        lasted: Duration::from_micros(event.duration_us.unsigned_abs()),
        units: u32::try_from(event.units).unwrap_or(u32::MAX),
    }
}

/// How many requests of these hours limits refused when they came: no event says when.
async fn refused_then(store: &Store, client: ClientId, from: Timestamp, to: Timestamp) -> Result<u64, StoreError> {
    let query = UsageQuery {
        from: time::hour_of(from),
        to: time::hour_from(to),
        client: Some(client),
        by: vec![UsageColumn::Outcome, UsageColumn::Status],
    };
    let sums = store.usage.sums(&query).await?;
    Ok(sums.iter().filter(|sum| sum.by == [REJECTED, "429"]).map(|sum| sum.rejected).sum())
}

/// What came of it so far.
#[derive(Default)]
struct Tally {
    events: u64,
    units: u64,
    refused: u64,
    refused_units: u64,
    refused_then: u64,
    policies: BTreeMap<String, PolicyRefusals>,
    hours: BTreeMap<Timestamp, u64>,
    listed: Vec<Refusal>,
}

impl Tally {
    fn note(&mut self, event: &EventRow, refused: Option<WouldRefuse>) {
        let (at, units) = (event.occurred_at, event.units.unsigned_abs());
        self.events += 1;
        self.units += units;
        let Some(WouldRefuse { policy, what }) = refused else { return };
        self.refused += 1;
        self.refused_units += units;
        *self.hours.entry(time::hour_of(at)).or_default() += 1;
        let policy = policy.into_owned();
        let by = self.policies.entry(policy.clone()).or_insert_with(|| PolicyRefusals {
            first: at,
            kind: word(what).to_owned(),
            last: at,
            policy: policy.clone(),
            refused: 0,
        });
        by.refused += 1;
        by.last = by.last.max(at);
        if self.listed.len() < LISTED {
            let (request_id, route) = (event.request_id.clone(), event.route.clone());
            self.listed.push(Refusal { at, policy, request_id, route, units });
        }
    }

    fn report(self, plan: String, client: String, (from, to): (Timestamp, Timestamp)) -> ReplayReport {
        let caveat = self.caveat();
        ReplayReport {
            plan,
            client,
            from,
            to,
            events: self.events,
            units: self.units,
            refused: self.refused,
            refused_units: self.refused_units,
            refused_then: self.refused_then,
            exact: self.refused_then == 0,
            by_policy: self.policies.into_values().collect(),
            by_hour: self.hours.into_iter().map(|(hour, refused)| HourRefusals { hour, refused }).collect(),
            first: self.listed,
            caveat,
        }
    }

    fn caveat(&self) -> Option<String> {
        (self.refused_then > 0).then(|| {
            format!(
                "{} requests were refused by limits when they came, and nobody knows at which moment: they are not in \
                 these figures. A stricter plan would have refused at least so many; what a looser one would have let \
                 through cannot be said",
                self.refused_then
            )
        })
    }
}

fn word(what: ExceededKind) -> &'static str {
    match what {
        ExceededKind::Rate => "rate",
        ExceededKind::Quota => "quota",
        ExceededKind::Concurrency => "concurrency",
    }
}
