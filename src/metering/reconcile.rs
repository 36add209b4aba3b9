//! Three books, told apart: the journals of this machine, the events, the sums; and sums made anew
//! where they differ. Hour by hour and batch by batch, so that a year of them costs no memory.
//!
//! Owns: what is compared with what, and what a difference is. Refuses to own: how hours are compared
//! and made anew (`store::audit`), and what is said of it to whom (the command line, the admin API).

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::local::{LocalEntry, LocalJournals, Where};
use crate::config::moment as time;
use crate::model::id::ClientId;
use crate::model::usage::UsageEvent;
use crate::store::audit::{Amounts, LISTED, NotRebuilt};
use crate::store::events::EventRow;
use crate::store::{Store, StoreError};
use crate::tasks::blocking;

mod report;

pub use report::{Difference, EntryDiffers, HourDiffers, JournalsRead, Reconciliation};

/// What ended so long ago is in the store, unless something is wrong.
const DRAINED_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// The most hours that are made anew at once: a month of them, for whoever records waits so long.
pub const REBUILT_AT_ONCE: usize = 31 * 24;

/// Why books were not compared, or not made anew.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The disk.
    #[error("the journals could not be read: {0}")]
    Disk(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More hours differ than are made anew in one transaction.
    #[error("{0} hours differ, and at most {REBUILT_AT_ONCE} are made anew at once: name fewer by `from` and `to`")]
    TooManyHours(usize),
    /// The store refuses.
    #[error(transparent)]
    NotRebuilt(#[from] NotRebuilt),
}

/// What is compared: whole hours.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The first hour.
    pub from: Timestamp,
    /// Up to this hour.
    pub to: Timestamp,
    /// Only this client's.
    pub client: Option<ClientId>,
    /// Of the journals, what ended before: the rest may be on its way.
    ended_before: Timestamp,
}

impl Scope {
    /// These hours as a whole, `now`: from the month's start and up to the current hour, where nobody
    /// says. It may turn out to be empty.
    #[must_use]
    pub fn of(from: Option<Timestamp>, to: Option<Timestamp>, client: Option<ClientId>, now: Timestamp) -> Self {
        Self {
            from: time::hour_of(from.unwrap_or_else(|| time::month_of(now))),
            to: time::hour_from(to.unwrap_or(now)),
            client,
            ended_before: now.saturating_sub(DRAINED_WITHIN).unwrap_or(now),
        }
    }

    /// Whether there is no hour in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    fn holds(&self, entry: &LocalEntry) -> bool {
        let event = &entry.event;
        event.occurred_at >= self.from
            && event.occurred_at < self.to
            && entry.ended < self.ended_before
            && self.client.is_none_or(|client| event.client_id == client)
    }
}

/// Books that were compared.
pub struct Comparison<'s> {
    store: &'s Store,
    scope: Scope,
    mark: Option<Timestamp>,
    hours: u64,
    events: Amounts,
    rollups: Amounts,
    journal: JournalsRead,
    /// Those that are listed.
    differences: Vec<Difference>,
    hours_differing: BTreeSet<Timestamp>,
    /// How many there are of hours, listed or not.
    found_of_hours: u64,
    /// The same of entries.
    found_of_entries: u64,
}

impl<'s> Comparison<'s> {
    /// Compares what `scope` says: the store's books with each other and with the journals in `dir`,
    /// which is `metering.dir`.
    ///
    /// # Errors
    /// The disk or the store fails.
    pub async fn of(store: &'s Store, dir: &Path, scope: Scope) -> Result<Self, ReconcileError> {
        let mut comparison = Self {
            store,
            scope,
            mark: None,
            hours: 0,
            events: Amounts::default(),
            rollups: Amounts::default(),
            journal: JournalsRead::default(),
            differences: Vec::new(),
            hours_differing: BTreeSet::new(),
            found_of_hours: 0,
            found_of_entries: 0,
        };
        comparison.compare_hours().await?;
        comparison.compare_journals(LocalJournals::of(dir)).await?;
        Ok(comparison)
    }

    /// How many hours have sums that are not those of their events.
    #[must_use]
    pub fn hours_differing(&self) -> usize {
        self.hours_differing.len()
    }

    /// Makes the sums of hours that differ anew from their events, in one transaction, and compares the
    /// hours again. Nothing happens where none differs.
    ///
    /// # Errors
    /// Too many differ, or the store refuses or fails; nothing was changed then.
    pub async fn rebuild(&mut self) -> Result<(), ReconcileError> {
        let hours: Vec<Timestamp> = self.hours_differing.iter().copied().collect();
        if hours.is_empty() {
            return Ok(());
        }
        if hours.len() > REBUILT_AT_ONCE {
            return Err(ReconcileError::TooManyHours(hours.len()));
        }
        self.store.audit.rebuild(&hours).await??;
        self.forget_hours();
        self.compare_hours().await
    }

    /// What was found.
    #[must_use]
    pub fn report(self) -> Reconciliation {
        let found = self.found_of_hours + self.found_of_entries;
        Reconciliation {
            from: self.scope.from,
            to: self.scope.to,
            equal: found == 0,
            hours: self.hours,
            events: self.events,
            rollups: self.rollups,
            events_kept_from: self.mark,
            journal: self.journal,
            differences: self.differences,
            found,
        }
    }

    /// Forgets what was found of hours, to compare them again.
    fn forget_hours(&mut self) {
        self.differences.retain(|difference| !matches!(difference, Difference::Rollup(_)));
        self.found_of_hours = 0;
        self.hours_differing.clear();
        (self.hours, self.events, self.rollups) = (0, Amounts::default(), Amounts::default());
    }

    async fn compare_hours(&mut self) -> Result<(), ReconcileError> {
        self.mark = self.store.audit.retention_mark().await?;
        let mut hour = self.mark.map_or(self.scope.from, |mark| self.scope.from.max(mark));
        while hour < self.scope.to {
            let books = self.store.audit.compare_hour(hour, self.scope.client).await?;
            self.hours += 1;
            add(&mut self.events, &books.events);
            add(&mut self.rollups, &books.rollups);
            for differing in books.differing {
                self.hours_differing.insert(hour);
                self.found_of_hours += 1;
                let (client, events, rollups) = (differing.client_id, differing.events, differing.rollups);
                list(&mut self.differences, Difference::Rollup(HourDiffers { hour, client, events, rollups }));
            }
            hour = time::hour_from(hour.saturating_add(SignedDuration::from_secs(1)).unwrap_or(self.scope.to));
        }
        Ok(())
    }

    async fn compare_journals(&mut self, mut journals: LocalJournals) -> Result<(), ReconcileError> {
        loop {
            let batch;
            (journals, batch) = blocking(move || {
                let batch = journals.next_batch();
                (journals, batch)
            })
            .await;
            let batch = batch?;
            if batch.is_empty() {
                break;
            }
            let entries: Vec<LocalEntry> = batch.into_iter().filter(|entry| self.scope.holds(entry)).collect();
            self.compare_entries(&entries).await?;
        }
        let counts = journals.counts();
        self.journal.folders = counts.folders.len();
        self.journal.open = counts.open;
        self.journal.unreadable_segments = counts.unreadable;
        self.journal.unseen_nodes = self.nodes_elsewhere(&counts.folders).await?;
        Ok(())
    }

    /// Nodes whose journals are not among those of this machine.
    async fn nodes_elsewhere(&self, here: &HashSet<Uuid>) -> Result<BTreeSet<String>, StoreError> {
        let known = self.store.journals.journals().await?;
        let elsewhere = known.into_iter().filter(|journal| !here.contains(&journal.id));
        Ok(elsewhere.map(|journal| journal.node).collect())
    }

    async fn compare_entries(&mut self, entries: &[LocalEntry]) -> Result<(), StoreError> {
        let is_past = |event: &UsageEvent| self.mark.is_some_and(|mark| event.id.is_before(mark));
        let entries: Vec<&LocalEntry> = entries.iter().filter(|entry| !is_past(&entry.event)).collect();
        let ids: Vec<Uuid> = entries.iter().map(|entry| entry.event.id.0).collect();
        let mut rows = self.store.audit.events_of(&ids).await?;
        rows.sort_by_key(|row| row.id);
        self.journal.entries += entries.len() as u64;
        for entry in entries {
            let event = &entry.event;
            let row = rows.binary_search_by_key(&event.id.0, |row| row.id).ok().map(|place| &rows[place]);
            let kind = match (row, entry.place) {
                (Some(row), _) if says_the_same(event, row) => continue,
                (Some(_), _) => Difference::Content,
                (None, Where::Kept) => Difference::Lost,
                (None, Where::Journal) => Difference::Owed,
            };
            self.found_of_entries += 1;
            let differs = EntryDiffers {
                id: event.id.0,
                hour: time::hour_of(event.occurred_at),
                client: event.client_id.0,
                node: event.node.clone(),
                units: event.units,
            };
            list(&mut self.differences, kind(differs));
        }
        Ok(())
    }
}

/// Lists it, if there is room. Of each kind one is always listed: what to do is told by kinds.
fn list(listed: &mut Vec<Difference>, difference: Difference) {
    if listed.len() >= LISTED as usize {
        if listed.iter().any(|other| other.kind() == difference.kind()) {
            return;
        }
        listed.pop();
    }
    listed.push(difference);
}

fn says_the_same(event: &UsageEvent, row: &EventRow) -> bool {
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    event.client_id.0 == row.client_id
        && event.occurred_at == row.occurred_at
        && event.outcome.as_str() == row.outcome
        && event.status.map(i32::from) == row.status
        && i64::from(event.units) == row.units
        && count(event.bytes_in) == row.bytes_in
        && count(event.bytes_out) == row.bytes_out
        && count(event.duration_us) == row.duration_us
        && event.kind.as_str() == row.kind
        && event.kind.parent().map(|id| id.0) == row.parent_id
}

fn add(total: &mut Amounts, more: &Amounts) {
    total.requests += more.requests;
    total.units += more.units;
    total.bytes_in += more.bytes_in;
    total.bytes_out += more.bytes_out;
    total.duration_us += more.duration_us;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_bounded_and_has_each_kind() {
        let hour = Timestamp::UNIX_EPOCH;
        let (events, rollups) = (Amounts::default(), Amounts { units: 1, ..Amounts::default() });
        let of_hour = Difference::Rollup(HourDiffers { hour, client: Uuid::nil(), events, rollups });
        let entry = EntryDiffers { id: Uuid::nil(), hour, client: Uuid::nil(), node: "n".to_owned(), units: 1 };
        let mut listed = Vec::new();
        for _ in 0..=LISTED {
            list(&mut listed, of_hour.clone());
        }
        list(&mut listed, Difference::Lost(entry.clone()));
        list(&mut listed, Difference::Lost(entry));
        assert_eq!(listed.len(), LISTED as usize);
        let kinds: BTreeSet<_> = listed.iter().map(Difference::kind).collect();
        assert_eq!(kinds, BTreeSet::from(["lost", "rollup"]));
        let written = serde_json::to_value(&listed[0]).unwrap();
        assert_eq!((&written["kind"], &written["rollups"]["units"]), (&"rollup".into(), &1.into()), "{written}");
    }

    #[test]
    fn whole_hours_are_compared_this_month_s_unless_somebody_says() {
        let now: Timestamp = "2026-11-22T20:15:30Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        let told = |from, to| {
            let scope = Scope::of(from, to, None, now);
            (scope.from.to_string(), scope.to.to_string(), scope.is_empty())
        };
        let month = "2026-11-01T00:00:00Z".to_owned();
        assert_eq!(told(None, None), (month.clone(), "2026-11-22T21:00:00Z".to_owned(), false));
        let (from, to) = (at("2026-10-05T10:20:00Z"), at("2026-10-05T10:30:00Z"));
        assert_eq!(told(from, to), ("2026-10-05T10:00:00Z".to_owned(), "2026-10-05T11:00:00Z".to_owned(), false));
        assert_eq!(told(None, at("2026-11-01T00:00:00Z")), (month.clone(), month, true));
    }
}
