//! Recent refusals, in memory: what answers "why does this customer get 401?" a moment later.
//!
//! Written by refusals alone; a request that is admitted does not come here. Bounded three times,
//! so that no caller pushes out what was noted of others: so many of one caller for one code, so
//! many of known clients, so many of strangers, who are told apart by their address. A credential
//! is in none of it: there is no header's value, no query, and what looks like a key in a path is
//! masked.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::masked::masked;
use crate::model::id::{ApiKeyId, ClientId};

/// So many of one caller for one code: enough to see what its requests have in common.
const OF_ONE: usize = 16;

/// So many of known clients, and as many of strangers: at about a kilobyte each, 4 MiB in all.
const OF_KIND: usize = 2_048;

/// The longest path and reason that are kept, in bytes.
const TEXT_MAX: usize = 256;

/// The longest method.
const METHOD_MAX: usize = 16;

/// One request that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// When it came.
    pub at: Timestamp,
    /// As the caller was told.
    pub request_id: String,
    /// The route; none was found.
    pub route: Option<String>,
    /// As sent.
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// Whose it was, if that is known.
    pub client_id: Option<ClientId>,
    /// The key's row, if that is known.
    pub api_key_id: Option<ApiKeyId>,
    /// From where.
    pub address: IpAddr,
    /// What the caller was sent.
    pub status: u16,
    /// What the caller was told.
    pub code: &'static str,
    /// Why, in truth.
    pub reason: String,
    /// The limits as they stood: `RateLimit-Policy`.
    pub limit_policies: Option<String>,
    /// What was left of them: `RateLimit`.
    pub limit_levels: Option<String>,
    /// Seconds after which the caller was told to try again.
    pub retry_after: Option<u64>,
}

/// Which refusals.
#[derive(Clone, Debug, Default)]
pub struct RefusalQuery {
    /// Only this client's.
    pub client: Option<ClientId>,
    /// Only with this code.
    pub code: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    // A std mutex: taken by refusals and by who asks for them, for the time of a push.
    kinds: Mutex<Kinds>,
}

#[derive(Debug, Default)]
struct Kinds {
    next: u64,
    clients: Ring,
    strangers: Ring,
}

/// Refusals in the order in which they came, and the numbers of each caller's.
#[derive(Debug, Default)]
struct Ring {
    entries: BTreeMap<u64, Arc<Refusal>>,
    of: HashMap<(Caller, &'static str), VecDeque<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Client(ClientId),
    /// An address, or the /64 of one: whoever has one of those has all of it.
    Stranger(IpAddr),
}

impl Refusal {
    fn caller(&self) -> Caller {
        match (self.client_id, self.address) {
            (Some(client), _) => Caller::Client(client),
            (None, IpAddr::V6(address)) => Caller::Stranger(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            (None, address) => Caller::Stranger(address),
        }
    }

    /// As it may be kept: bounded, and without what could be a secret.
    fn kept(mut self) -> Self {
        self.path = shortened(masked(&self.path), TEXT_MAX);
        self.reason = shortened(masked(&self.reason), TEXT_MAX);
        self.method = shortened(Cow::Borrowed(&self.method), METHOD_MAX);
        self
    }
}

/// At most so many bytes, cut where a character ends.
fn shortened(text: Cow<'_, str>, most: usize) -> String {
    if text.len() <= most {
        return text.into_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Refusals {
    /// Nothing was refused yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Notes one.
    pub fn record(&self, refusal: Refusal) {
        let refusal = Arc::new(refusal.kept());
        let mut kinds = self.lock();
        kinds.next += 1;
        let number = kinds.next;
        let ring = if refusal.client_id.is_some() { &mut kinds.clients } else { &mut kinds.strangers };
        ring.push(number, refusal);
    }

    /// Those that are asked for, the latest first.
    #[must_use]
    pub fn list(&self, query: &RefusalQuery) -> Vec<Arc<Refusal>> {
        let asked = |refusal: &Refusal| {
            query.client.is_none_or(|client| refusal.client_id == Some(client))
                && query.code.as_deref().is_none_or(|code| refusal.code == code)
        };
        let kinds = self.lock();
        let rings = [&kinds.clients, &kinds.strangers];
        let mut found: Vec<_> =
            rings.iter().flat_map(|ring| &ring.entries).filter(|(_, refusal)| asked(refusal)).collect();
        found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(**number));
        found.into_iter().take(query.limit).map(|(_, refusal)| Arc::clone(refusal)).collect()
    }

    /// The latest one with this request id.
    #[must_use]
    pub fn find(&self, request_id: &str) -> Option<Arc<Refusal>> {
        let kinds = self.lock();
        let rings = [&kinds.clients, &kinds.strangers];
        let all = rings.iter().flat_map(|ring| &ring.entries);
        let found = all.filter(|(_, refusal)| refusal.request_id == request_id).max_by_key(|(number, _)| **number);
        found.map(|(_, refusal)| Arc::clone(refusal))
    }

    /// Forgets a client: its data is to be erased.
    pub fn forget(&self, client: ClientId) {
        let mut kinds = self.lock();
        kinds.clients.entries.retain(|_, refusal| refusal.client_id != Some(client));
        kinds.clients.of.retain(|(caller, _), _| *caller != Caller::Client(client));
    }

    fn lock(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, number: u64, refusal: Arc<Refusal>) {
        let numbers = self.of.entry((refusal.caller(), refusal.code)).or_default();
        numbers.push_back(number);
        if numbers.len() > OF_ONE
            && let Some(oldest) = numbers.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(number, refusal);
        if self.entries.len() > OF_KIND
            && let Some((_, oldest)) = self.entries.pop_first()
        {
            self.forget_number(&oldest);
        }
    }

    /// The oldest of all is its caller's oldest.
    fn forget_number(&mut self, oldest: &Refusal) {
        let key = (oldest.caller(), oldest.code);
        let Some(numbers) = self.of.get_mut(&key) else { return };
        numbers.pop_front();
        if numbers.is_empty() {
            self.of.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn refusal(number: u32, client: Option<u128>, code: &'static str) -> Refusal {
        Refusal {
            at: Timestamp::UNIX_EPOCH,
            request_id: format!("r-{number}"),
            route: Some("orders".into()),
            method: "GET".into(),
            path: "/orders".into(),
            client_id: client.map(|id| ClientId(Uuid::from_u128(id))),
            api_key_id: None,
            address: IpAddr::from([192, 0, 2, 1]),
            status: 401,
            code,
            reason: "unknown".into(),
            limit_policies: None,
            limit_levels: None,
            retry_after: None,
        }
    }

    fn ids(refusals: &Refusals, query: &RefusalQuery) -> Vec<String> {
        refusals.list(query).iter().map(|refusal| refusal.request_id.clone()).collect()
    }

    fn all() -> RefusalQuery {
        RefusalQuery { limit: usize::MAX, ..RefusalQuery::default() }
    }

    #[test]
    fn a_flood_of_one_pushes_out_its_own_only() {
        let refusals = Refusals::new();
        refusals.record(refusal(1, Some(1), "rate_limited"));
        refusals.record(refusal(2, Some(2), "client_suspended"));
        refusals.record(refusal(3, None, "invalid_credentials"));
        for number in 100..100_000 {
            refusals.record(refusal(number, Some(2), "rate_limited"));
        }
        let of_first = RefusalQuery { client: Some(ClientId(Uuid::from_u128(1))), ..all() };
        assert_eq!(ids(&refusals, &of_first), ["r-1"]);
        let of_second = RefusalQuery { client: Some(ClientId(Uuid::from_u128(2))), ..all() };
        let second = ids(&refusals, &of_second);
        assert_eq!(second.len(), OF_ONE + 1);
        assert_eq!((second[0].as_str(), second[OF_ONE].as_str()), ("r-99999", "r-2"));
        assert_eq!(ids(&refusals, &RefusalQuery { code: Some("invalid_credentials".into()), ..all() }), ["r-3"]);
        assert_eq!(ids(&refusals, &RefusalQuery { limit: 2, ..all() }), ["r-99999", "r-99998"]);
    }

    #[test]
    fn strangers_from_everywhere_push_out_no_client_s_and_take_no_more_room() {
        let refusals = Refusals::new();
        refusals.record(refusal(1, Some(1), "rate_limited"));
        for number in 0..50_000_u32 {
            let address = IpAddr::V6(Ipv6Addr::from_bits(u128::from(number) << 64 | 7));
            refusals.record(Refusal { address, ..refusal(number + 10, None, "invalid_credentials") });
        }
        assert!(refusals.find("r-1").is_some());
        assert_eq!(refusals.list(&all()).len(), OF_KIND + 1);
        let kinds = refusals.lock();
        assert_eq!(kinds.strangers.of.len(), OF_KIND, "who is forgotten leaves nothing behind");
        drop(kinds);
        // Those of one network are one caller.
        for number in 0..100_u32 {
            let address = IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(number)));
            refusals.record(Refusal { address, ..refusal(number, None, "no_route") });
        }
        assert_eq!(ids(&refusals, &RefusalQuery { code: Some("no_route".into()), ..all() }).len(), OF_ONE);
    }

    #[test]
    fn what_is_kept_is_short_and_has_no_key() {
        let refusals = Refusals::new();
        let path = format!("/octroi_live_abcdefghijklSECRETSECRET/{}", "ä".repeat(400));
        refusals.record(Refusal { path, method: "M".repeat(90), ..refusal(1, None, "no_route") });
        let kept = refusals.find("r-1").unwrap();
        assert!(kept.path.starts_with("/octroi_live_abcdefghijkl[masked]/ä") && kept.path.len() < 2 * TEXT_MAX);
        assert!(kept.method.len() <= METHOD_MAX + 3);
        assert!(!serde_json::to_string(&*kept).unwrap().contains("SECRET"));
    }

    #[test]
    fn a_client_that_is_erased_is_forgotten() {
        let refusals = Refusals::new();
        for (number, client) in [(1, Some(1)), (2, Some(2)), (3, None)] {
            refusals.record(refusal(number, client, "rate_limited"));
        }
        refusals.forget(ClientId(Uuid::from_u128(1)));
        assert_eq!(ids(&refusals, &all()), ["r-3", "r-2"]);
        refusals.record(refusal(4, Some(1), "rate_limited"));
        assert_eq!(ids(&refusals, &all()), ["r-4", "r-3", "r-2"]);
    }
}
