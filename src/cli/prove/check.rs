//! The promise, checked by id: what callers and the upstream saw, against the books.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::callers::Answer;
use crate::config::moment as time;
use crate::model::id::ClientId;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::events::{EventQuery, EventRow};

/// How many events are read at a time.
const PAGE: u32 = 5_000;

/// How many breaches of the promise are told one by one.
const TOLD: usize = 20;

/// What was seen from outside.
pub(super) struct Seen {
    /// Request ids that the upstream received.
    pub(super) arrived: HashSet<Uuid>,
    /// Answers that callers received whole.
    pub(super) answers: Vec<Answer>,
    /// The most requests that kills can have caught under way.
    pub(super) in_flight: u64,
}

/// Whose books, and of when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    pub(super) client: ClientId,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// What the books said.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) events: u64,
    pub(super) rollup: u64,
    /// Requests that the upstream received and that have no event.
    pub(super) lost: u64,
    /// Requests that have more than one.
    pub(super) doubled: u64,
    /// Events whose request the upstream never received.
    pub(super) surplus: u64,
    pub(super) by_outcome: BTreeMap<String, u64>,
    /// How often the promise was broken, and the first of those times.
    pub(super) breaches: u64,
    pub(super) told: Vec<String>,
}

impl Findings {
    fn breach(&mut self, words: impl FnOnce() -> String) {
        self.breaches += 1;
        if self.told.len() < TOLD {
            self.told.push(words());
        }
    }
}

/// What the events of one request say.
struct Entry {
    status: Option<i32>,
    outcome: Outcome,
    events: u32,
}

/// As far as the promise tells outcomes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    Interrupted,
    /// May stand without a request at the upstream: it was not sent, not read, or not taken.
    Unreceived,
    Other,
}

impl Outcome {
    fn of(word: &str) -> Self {
        match word {
            "complete" => Self::Complete,
            "interrupted" => Self::Interrupted,
            // A caller that leaves takes the connection to the upstream along, what it had sent included.
            "not_sent" | "upstream_error" | "client_gone" => Self::Unreceived,
            _ => Self::Other,
        }
    }
}

/// Compares.
///
/// # Errors
/// The store is away.
pub(super) async fn check(store: &Store, period: Period, seen: &Seen) -> Result<Findings, StoreError> {
    let mut found = Findings::default();
    let entries = read(store, period, &mut found).await?;
    compare_upstream(&entries, seen, &mut found);
    compare_callers(&entries, seen, &mut found);
    let interrupted = found.by_outcome.get("interrupted").copied().unwrap_or(0);
    if interrupted > seen.in_flight {
        found.breach(|| format!("{interrupted} events are interrupted, and {} can have been", seen.in_flight));
    }
    compare_sums(store, period, &mut found).await?;
    Ok(found)
}

async fn read(store: &Store, period: Period, found: &mut Findings) -> Result<HashMap<Uuid, Entry>, StoreError> {
    let query = EventQuery { client: Some(period.client), ..EventQuery::between(period.from, period.to) };
    let (mut entries, mut after) = (HashMap::new(), None);
    loop {
        let page = store.events.events(&query, after, PAGE).await?;
        after = page.last().map(|event| event.id);
        page.iter().filter(|event| event.kind == "request").for_each(|event| take_in(event, &mut entries, found));
        if page.len() < PAGE as usize {
            return Ok(entries);
        }
    }
}

fn take_in(event: &EventRow, entries: &mut HashMap<Uuid, Entry>, found: &mut Findings) {
    found.events += 1;
    *found.by_outcome.entry(event.outcome.clone()).or_default() += 1;
    let Ok(id) = Uuid::parse_str(&event.request_id) else {
        return found.breach(|| format!("event {} names the request {:?}", event.id, event.request_id));
    };
    let outcome = Outcome::of(&event.outcome);
    let entry = entries.entry(id).or_insert(Entry { status: event.status, outcome, events: 0 });
    entry.events += 1;
    if entry.events == 2 {
        found.doubled += 1;
        found.breach(|| format!("{id} has two events"));
    }
}

fn compare_upstream(entries: &HashMap<Uuid, Entry>, seen: &Seen, found: &mut Findings) {
    for id in seen.arrived.iter().filter(|id| !entries.contains_key(*id)) {
        found.lost += 1;
        found.breach(|| format!("{id} reached the upstream and has no event"));
    }
    for (id, entry) in entries.iter().filter(|(id, _)| !seen.arrived.contains(*id)) {
        found.surplus += 1;
        if !matches!(entry.outcome, Outcome::Unreceived | Outcome::Interrupted) {
            found.breach(|| format!("{id} has an event that is {:?}, and never reached the upstream", entry.outcome));
        }
    }
}

fn compare_callers(entries: &HashMap<Uuid, Entry>, seen: &Seen, found: &mut Findings) {
    for answer in &seen.answers {
        let Answer { id, status, forwarded } = *answer;
        match entries.get(&id) {
            // The gateway's own refusals have none.
            None if forwarded => found.breach(|| format!("{id} was answered with {status} and has no event")),
            // Killed before it knew that the last byte was out.
            Some(entry) if entry.outcome == Outcome::Interrupted => {}
            Some(entry) if entry.status != Some(i32::from(status)) => {
                found.breach(|| format!("{id} was answered with {status}, and its event says {:?}", entry.status));
            }
            Some(entry) if forwarded && entry.outcome != Outcome::Complete => {
                found.breach(|| format!("{id} was answered whole, and its event is {:?}", entry.outcome));
            }
            _ => {}
        }
    }
}

/// How many requests events and sums tell of, as far as they are in the store.
pub(super) async fn sums(store: &Store, period: Period) -> Result<(u64, u64), StoreError> {
    let (mut events, mut rollup, mut hour) = (0, 0, time::hour_of(period.from));
    while hour < period.to {
        let books = store.audit.compare_hour(hour, Some(period.client)).await?;
        events += u64::try_from(books.events.requests).unwrap_or(0);
        rollup += u64::try_from(books.rollups.requests).unwrap_or(0);
        hour = hour.saturating_add(SignedDuration::from_hours(1)).unwrap_or(period.to);
    }
    Ok((events, rollup))
}

async fn compare_sums(store: &Store, period: Period, found: &mut Findings) -> Result<(), StoreError> {
    let mut hour = time::hour_of(period.from);
    while hour < period.to {
        let books = store.audit.compare_hour(hour, Some(period.client)).await?;
        found.rollup += u64::try_from(books.rollups.requests).unwrap_or(0);
        for client in &books.differing {
            found.breach(|| format!("hour {hour}: events {:?}, sums {:?}", client.events, client.rollups));
        }
        hour = hour.saturating_add(SignedDuration::from_hours(1)).unwrap_or(period.to);
    }
    if found.rollup != found.events {
        let (events, rollup) = (found.events, found.rollup);
        found.breach(|| format!("{events} events, and the sums say {rollup}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn breaches(outcome: Option<Outcome>, arrived: bool, answer: Option<(u16, bool)>) -> Vec<String> {
        let mut found = Findings::default();
        let entries: HashMap<Uuid, Entry> =
            outcome.map(|outcome| (ID, Entry { status: Some(200), outcome, events: 1 })).into_iter().collect();
        let answers = answer.map(|(status, forwarded)| Answer { id: ID, status, forwarded }).into_iter().collect();
        let seen = Seen { arrived: arrived.then_some(ID).into_iter().collect(), answers, in_flight: 0 };
        compare_upstream(&entries, &seen, &mut found);
        compare_callers(&entries, &seen, &mut found);
        found.told
    }

    #[test]
    fn each_clause_of_the_promise_can_be_broken() {
        use Outcome::{Complete, Interrupted, Other, Unreceived};
        for (outcome, arrived, answer, broken) in [
            (Some(Complete), true, Some((200, true)), false),
            (Some(Interrupted), true, Some((200, true)), false),
            (Some(Interrupted), false, None, false),
            (Some(Unreceived), false, Some((200, false)), false),
            (None, false, Some((503, false)), false),
            (None, true, None, true),
            (None, false, Some((200, true)), true),
            (Some(Complete), false, None, true),
            (Some(Other), false, None, true),
            (Some(Complete), true, Some((500, true)), true),
            (Some(Other), true, Some((200, true)), true),
            (Some(Unreceived), true, Some((502, false)), true),
        ] {
            let told = breaches(outcome, arrived, answer);
            assert_eq!(!told.is_empty(), broken, "{outcome:?} {arrived} {answer:?}: {told:?}");
        }
    }
}
