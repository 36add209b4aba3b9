//! Refusals, counted in memory: requests that were turned away are not entries.
//!
//! A flood of bad requests must neither fill a disk nor make workers wait for each other, and an
//! operator must still see it. So: a bounded map of counts, in shards, each thread with its own;
//! the drain takes them to the hourly rollups. A process that is killed loses the counts since
//! the last drain; they are not billed.

use std::cell::Cell;
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::model::id::{ApiKeyId, ClientId};
use crate::model::usage::RejectedCount;

/// More workers than this share shards.
const SHARDS: usize = 32;
/// The most kinds of refusal that a shard tells apart by who was refused: some 100 bytes each.
const IDENTIFIED: usize = 4096;

/// Counts refusals until the drain takes them to the rollups.
#[derive(Debug, Default)]
pub struct RejectedCounts {
    routes: Vec<String>,
    shards: [Mutex<HashMap<Kind, u64>>; SHARDS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// Hours since the epoch.
    hour: i64,
    client: ClientId,
    key: ApiKeyId,
    route: u16,
    status: u16,
    reason: &'static str,
    observed: bool,
}

impl RejectedCounts {
    /// Counts under these routes, by their index.
    #[must_use]
    pub fn new(routes: &[String]) -> Self {
        Self { routes: routes.to_vec(), shards: Default::default() }
    }

    /// Counts one. `route`: an index into the table of names; any that is not in it means that no
    /// route was found. Bounded: past the bound, identities are dropped and only route, status
    /// and reason are kept.
    pub fn record(
        &self,
        at: Timestamp,
        client: ClientId,
        key: ApiKeyId,
        route: u16,
        status: u16,
        reason: &'static str,
    ) {
        let hour = at.as_second().div_euclid(3600);
        let kind = Kind { hour, client, key, route, status, reason, observed: false };
        add(&mut lock(&self.shards[shard()]), kind, 1);
    }

    /// Counts one that would have been refused, had its route not observed. Bounded as above.
    pub fn observe(
        &self,
        at: Timestamp,
        client: ClientId,
        key: ApiKeyId,
        route: u16,
        status: u16,
        reason: &'static str,
    ) {
        let hour = at.as_second().div_euclid(3600);
        let kind = Kind { hour, client, key, route, status, reason, observed: true };
        add(&mut lock(&self.shards[shard()]), kind, 1);
    }

    /// Takes all counts, those of one kind together.
    pub(super) fn take(&self) -> Vec<RejectedCount> {
        let mut all = HashMap::new();
        for shard in &self.shards {
            let counts = mem::take(&mut *lock(shard));
            for (kind, requests) in counts {
                *all.entry(kind).or_insert(0) += requests;
            }
        }
        all.into_iter().filter_map(|(kind, requests)| self.count(kind, requests)).collect()
    }

    /// Puts counts back that were taken and not delivered.
    pub(super) fn restore(&self, counts: Vec<RejectedCount>) {
        for count in counts {
            let route = self.routes.iter().position(|route| *route == count.route && !route.is_empty());
            let kind = Kind {
                hour: count.hour.as_second().div_euclid(3600),
                client: count.client_id,
                key: count.api_key_id,
                route: route.and_then(|route| u16::try_from(route).ok()).unwrap_or(u16::MAX),
                status: count.status,
                reason: count.reason,
                observed: count.observed,
            };
            add(&mut lock(&self.shards[shard()]), kind, count.requests);
        }
    }

    fn count(&self, kind: Kind, requests: u64) -> Option<RejectedCount> {
        Some(RejectedCount {
            hour: Timestamp::from_second(kind.hour * 3600).ok()?,
            client_id: kind.client,
            api_key_id: kind.key,
            route: self.routes.get(usize::from(kind.route)).cloned().unwrap_or_default(),
            status: kind.status,
            reason: kind.reason,
            observed: kind.observed,
            requests,
        })
    }
}

fn add(counts: &mut HashMap<Kind, u64>, mut kind: Kind, requests: u64) {
    if counts.len() >= IDENTIFIED && !counts.contains_key(&kind) {
        (kind.client, kind.key) = (ClientId::NIL, ApiKeyId::NIL);
    }
    *counts.entry(kind).or_insert(0) += requests;
}

/// A std mutex: the owner of the shard holds it for one look-up, and the drain for a moment.
fn lock(shard: &Mutex<HashMap<Kind, u64>>) -> MutexGuard<'_, HashMap<Kind, u64>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread's shard.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    SHARD.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 / 3600 * 3600 + second).unwrap()
    }

    fn client(number: u128) -> ClientId {
        ClientId(Uuid::from_u128(number))
    }

    #[test]
    fn refusals_of_one_kind_and_hour_are_one_count_whoever_counted() {
        let counts = RejectedCounts::new(&["orders".into()]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for second in [0, 3599] {
                        counts.record(at(second), client(1), ApiKeyId::NIL, 0, 429, "rate_limited");
                    }
                });
            }
        });
        counts.record(at(3600), client(1), ApiKeyId::NIL, 0, 429, "rate_limited");
        counts.record(at(0), ClientId::NIL, ApiKeyId::NIL, u16::MAX, 404, "no_route");
        let expected = |hour, client_id, route: &str, status, reason, requests| RejectedCount {
            hour: at(hour),
            client_id,
            api_key_id: ApiKeyId::NIL,
            route: route.to_owned(),
            status,
            reason,
            observed: false,
            requests,
        };
        let expected: HashSet<_> = [
            expected(0, client(1), "orders", 429, "rate_limited", 8),
            expected(3600, client(1), "orders", 429, "rate_limited", 1),
            expected(0, ClientId::NIL, "", 404, "no_route", 1),
        ]
        .into();
        let taken = counts.take();
        assert_eq!(taken.iter().cloned().collect::<HashSet<_>>(), expected);
        assert_eq!(counts.take(), []);
        counts.restore(taken);
        assert_eq!(counts.take().into_iter().collect::<HashSet<_>>(), expected);
    }

    #[test]
    fn what_was_observed_is_counted_apart_and_restored_so() {
        let counts = RejectedCounts::new(&["orders".into()]);
        counts.record(at(0), client(1), ApiKeyId::NIL, 0, 429, "rate_limited");
        counts.observe(at(0), client(1), ApiKeyId::NIL, 0, 429, "rate_limited");
        counts.observe(at(1), client(1), ApiKeyId::NIL, 0, 429, "rate_limited");
        for _ in 0..2 {
            let taken = counts.take();
            let mut told: Vec<_> = taken.iter().map(|count| (count.observed, count.requests)).collect();
            told.sort_unstable();
            assert_eq!(told, [(false, 1), (true, 2)]);
            counts.restore(taken);
        }
    }

    #[test]
    fn past_the_bound_identities_are_dropped_and_nothing_else() {
        let counts = RejectedCounts::new(&["orders".into()]);
        let flood = IDENTIFIED as u128 * 3;
        for number in 1..=flood {
            counts.record(at(0), client(number), ApiKeyId::NIL, 0, 429, "rate_limited");
        }
        let taken = counts.take();
        assert!(taken.len() <= IDENTIFIED + 1);
        assert_eq!(taken.iter().map(|count| u128::from(count.requests)).sum::<u128>(), flood);
    }
}
