//! `plans`, and what quotas need: the ledger's own sums, and the marks that clients reached.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

use super::columns::hour_of;
use super::{Page, Result};
use crate::model::id::ClientId;
use crate::model::plan::{NewPlan, Plan, PlanChange, QuotaMark};
use crate::model::quota::Window;

/// Plans.
#[async_trait]
pub trait PlanStore: Send + Sync {
    /// Makes a plan. A name that is there already is a conflict.
    async fn create(&self, plan: NewPlan) -> Result<Plan>;
    /// The plan with this id.
    async fn find(&self, id: Uuid) -> Result<Option<Plan>>;
    /// The plan of this name.
    async fn find_by_name(&self, name: &str) -> Result<Option<Plan>>;
    /// Plans in order of (created_at, id), after the one named; after an unknown one, none.
    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Plan>>;
    /// Changes a plan, and with it what its clients may; none: there is no such plan.
    async fn update(&self, id: Uuid, change: PlanChange) -> Result<Option<Plan>>;
}

/// What quotas are counted from and leave behind.
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// The units of a client's events in a window, as committed by now: whole hours from the
    /// rollups, the rest of an hour that a window cuts in two from the events.
    async fn units(&self, client: ClientId, window: Window) -> Result<i64>;
    /// Writes a mark, unless it is there; whether it was new.
    async fn note_mark(&self, mark: &QuotaMark) -> Result<bool>;
    /// Marks reached from `since` on, of one client or of all, the newest first; those behind `after`.
    async fn marks(
        &self,
        client: Option<ClientId>,
        since: Timestamp,
        after: Option<MarkPlace>,
        limit: u32,
    ) -> Result<Vec<QuotaMark>>;
}

/// Where a list of marks goes on: the mark that stood last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "columns of `quota_marks`, in the order of the list")]
pub struct MarkPlace {
    pub reached_at: Timestamp,
    pub client_id: ClientId,
    pub policy: String,
    pub percent: u8,
}

impl From<&QuotaMark> for MarkPlace {
    fn from(mark: &QuotaMark) -> Self {
        Self {
            reached_at: mark.reached_at,
            client_id: mark.client_id,
            policy: mark.policy.clone(),
            percent: mark.percent,
        }
    }
}

/// A cursor: its parts between commas, the policy, which may not hold one, last.
impl fmt::Display for MarkPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{},{},{},{}", self.reached_at, self.client_id, self.percent, self.policy)
    }
}

impl FromStr for MarkPlace {
    type Err = NoMarkPlace;

    fn from_str(text: &str) -> std::result::Result<Self, NoMarkPlace> {
        let mut parts = text.splitn(4, ',');
        let mut part = || parts.next().ok_or(NoMarkPlace);
        Ok(Self {
            reached_at: part()?.parse().map_err(|_| NoMarkPlace)?,
            client_id: part()?.parse().map_err(|_| NoMarkPlace)?,
            percent: part()?.parse().map_err(|_| NoMarkPlace)?,
            policy: part()?.to_owned(),
        })
    }
}

/// Text that is no place in a list of marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give the `next` of the list before")]
pub struct NoMarkPlace;

/// A window as the ledger can sum it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Whole hours.
    pub(super) hours: (Timestamp, Timestamp),
    /// What lies before them and after them; empty where the window begins and ends on the hour.
    pub(super) edges: [(Timestamp, Timestamp); 2],
}

impl Pieces {
    pub(super) fn of(window: Window) -> Self {
        let Window { start, end } = window;
        let next_hour = |moment: Timestamp| {
            let hour = hour_of(moment);
            if hour == moment { hour } else { hour.checked_add(1.hour()).unwrap_or(Timestamp::MAX) }
        };
        let first = next_hour(start).min(end);
        let last = hour_of(end).max(first);
        Self { hours: (first, last), edges: [(start, first), (last, end)] }
    }

    /// The edges that are not empty, each with the ids that its events can have: an id is made
    /// when a request arrives, or within a moment of it.
    pub(super) fn edges_with_ids(&self) -> impl Iterator<Item = (Timestamp, Timestamp, Uuid, Uuid)> {
        let id_at = |moment: Timestamp, seconds: i64| {
            let moment = moment.checked_add(seconds.seconds()).unwrap_or(moment);
            let milliseconds = u128::try_from(moment.as_millisecond()).unwrap_or(0);
            Uuid::from_u128(milliseconds << 80)
        };
        let edges = self.edges.into_iter().filter(|(from, to)| from < to);
        edges.map(move |(from, to)| (from, to, id_at(from, -2), id_at(to, 2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_whole_hours_and_edges() {
        for (start, end, hours, edges) in [
            ("00:00:00", "05:00:00", ("00:00:00", "05:00:00"), 0),
            ("00:15:00", "05:15:00", ("01:00:00", "05:00:00"), 2),
            ("00:15:00", "05:00:00", ("01:00:00", "05:00:00"), 1),
            ("00:15:00", "00:45:00", ("00:45:00", "00:45:00"), 1),
        ] {
            let at = |time: &str| format!("2026-11-23T{time}Z").parse::<Timestamp>().unwrap();
            let pieces = Pieces::of(Window { start: at(start), end: at(end) });
            assert_eq!(pieces.hours, (at(hours.0), at(hours.1)), "{start} {end}");
            let listed: Vec<_> = pieces.edges_with_ids().collect();
            assert_eq!(listed.len(), edges);
            let seconds = |from: Timestamp, to: Timestamp| to.as_second() - from.as_second();
            let all: i64 =
                seconds(pieces.hours.0, pieces.hours.1) + listed.iter().map(|one| seconds(one.0, one.1)).sum::<i64>();
            assert_eq!(all, seconds(at(start), at(end)), "nothing twice, nothing left out");
        }
    }
}
