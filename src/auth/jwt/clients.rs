//! The client that a token names, by id or by name: read once for all its tokens.
//!
//! Read on the control runtime, one read for each missing client however many wait, and cached
//! like keys are: void when the feed tells of a change, refreshed in the background, good for
//! `max_stale` while the store is away. A name that is nobody's is remembered with the unknown keys,
//! so that an issuer whose tokens name strangers does not have each of them looked up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::timeout;

use super::fault::TokenFault;
use crate::auth::cache::{Dead, Unknowns};
use crate::auth::flights::{Errand, Flights, Joined};
use crate::clients::{LiveClient, LiveClients, Stamp};
use crate::crypto::pepper::sha256;
use crate::model::client::Client;
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::id::ClientId;
use crate::model::rate::RateLimit;
use crate::store::{ClientStore, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// Looks clients up by what tokens call them.
pub(in crate::auth) struct ClientLoader {
    pub(in crate::auth) store: Arc<dyn ClientStore>,
    pub(in crate::auth) clients: Arc<LiveClients>,
    pub(in crate::auth) clock: SharedClock,
    pub(in crate::auth) metrics: Arc<Metrics>,
    pub(in crate::auth) tasks: Tasks,
    pub(in crate::auth) default_limit: RateLimit,
    pub(in crate::auth) deadline: Duration,
    pub(in crate::auth) cache_ttl: Duration,
    pub(in crate::auth) known: ClientCache,
    pub(in crate::auth) unknowns: Arc<Unknowns>,
}

/// Clients by what tokens call them, and look-ups under way.
#[derive(Debug)]
pub(in crate::auth) struct ClientCache {
    entries: Cache<String, Arc<KnownClient>>,
    flights: Arc<Flights<String, LoadedClient>>,
}

/// A client as it was read.
#[derive(Debug)]
pub(in crate::auth) struct KnownClient {
    /// Its row.
    pub(in crate::auth) row: Client,
    /// In use.
    pub(in crate::auth) live: Arc<LiveClient>,
    /// Void when it moved.
    pub(in crate::auth) stamp: Stamp,
    /// When the read began.
    pub(in crate::auth) loaded_at: Monotonic,
    /// Whether nothing changed while it was read. If something did, it is used once: its stamp is
    /// newer than its row.
    pub(in crate::auth) current: bool,
    refresh_at: AtomicU64,
}

impl KnownClient {
    /// Whether the caller is the one that should have it read again.
    fn claim_refresh(&self, now: Monotonic) -> bool {
        let due = self.refresh_at.load(Ordering::Relaxed);
        let next = now.after(REFRESH_PAUSE).0;
        due <= now.0 && self.refresh_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub(in crate::auth) enum LoadedClient {
    /// It is this.
    Known(Arc<KnownClient>),
    /// Nobody, or several.
    Refused(Dead),
    /// The store could not say.
    Unavailable,
}

impl ClientCache {
    pub(in crate::auth) fn new() -> Self {
        // The oldest goes first: names are an issuer's choice, not a stranger's.
        let entries = Cache::builder().max_capacity(CLIENTS_MAX).eviction_policy(EvictionPolicy::lru()).build();
        Self { entries, flights: Flights::new() }
    }
}

impl ClientLoader {
    /// What is known of a client without asking.
    pub(in crate::auth) fn find(&self, named: &str) -> Option<Arc<KnownClient>> {
        self.known.entries.get(named)
    }

    /// Has a client read again in the background if it is time.
    pub(in crate::auth) fn refresh_when_due(self: &Arc<Self>, client: &KnownClient, named: &str, now: Monotonic) {
        if client.claim_refresh(now) {
            drop(self.join(named, Errand::Background));
        }
    }

    /// Looks a client up, together with everyone else who wants it.
    pub(in crate::auth) async fn load(self: &Arc<Self>, named: &str, errand: Errand) -> LoadedClient {
        // By a digest: names are as long as an issuer likes. No key's hash can be equal to one.
        if let Some(dead) = self.unknowns.find(&sha256(named.as_bytes()), self.clock.monotonic()) {
            return LoadedClient::Refused(dead);
        }
        match self.join(named, errand) {
            Joined::Flight(flight) => flight.landed().await.unwrap_or(LoadedClient::Unavailable),
            Joined::Landed(loaded) => loaded,
            Joined::Full => LoadedClient::Unavailable,
        }
    }

    /// Drops what is older than `age`: it would not be used again, and holds its client.
    pub(in crate::auth) fn sweep(&self, now: Monotonic, age: Duration) {
        for (named, client) in &self.known.entries {
            if now.since(client.loaded_at) > age {
                self.known.entries.invalidate(&*named);
            }
        }
        self.known.entries.run_pending_tasks();
    }

    fn join(self: &Arc<Self>, named: &str, errand: Errand) -> Joined<LoadedClient> {
        // Whoever asks is not served by what the cache holds, so nothing is looked for there.
        self.known.flights.join(
            named.to_owned(),
            errand,
            &self.tasks,
            || None,
            || {
                let (loader, named) = (Arc::clone(self), named.to_owned());
                async move {
                    timeout(loader.deadline, loader.read(&named)).await.unwrap_or_else(|_elapsed| {
                        loader.metrics.store_failed(OPERATION);
                        LoadedClient::Unavailable
                    })
                }
            },
        )
    }

    async fn read(&self, named: &str) -> LoadedClient {
        for reads_left in (0..READS_MAX).rev() {
            let mark = self.clients.mark();
            let era = self.unknowns.era();
            let began = self.clock.monotonic();
            let row = match self.query(named).await {
                Ok(Ok(row)) => row,
                Ok(Err(_)) if self.unknowns.era() != era && reads_left > 0 => continue,
                Ok(Err(fault)) => {
                    let dead = Dead::token(fault);
                    self.unknowns.note(sha256(named.as_bytes()), dead, era, began);
                    self.known.entries.invalidate(named);
                    return LoadedClient::Refused(dead);
                }
                Err(error) => return self.failed(&error),
            };
            let attachment = self.clients.attach(&row, self.default_limit, mark, began, self.clock.wall());
            if !attachment.current && reads_left > 0 {
                continue;
            }
            let client = Arc::new(KnownClient {
                row,
                live: attachment.client,
                stamp: attachment.stamp,
                loaded_at: began,
                current: attachment.current,
                refresh_at: AtomicU64::new(began.after(self.cache_ttl).0),
            });
            if client.current {
                self.known.entries.insert(named.to_owned(), Arc::clone(&client));
            }
            return LoadedClient::Known(client);
        }
        unreachable!("the last read returns whatever it finds")
    }

    /// An id is an id before it is a name: a client that is *called* like another's id is not it.
    async fn query(&self, named: &str) -> Result<Result<Client, TokenFault>, StoreError> {
        if let Ok(id) = named.parse::<ClientId>() {
            if id.is_nil() {
                return Ok(Err(TokenFault::UnknownClient));
            }
            if let Some(client) = self.store.find(id).await? {
                return Ok(Ok(client));
            }
        }
        let mut clients = self.store.find_by_name(named).await?;
        Ok(match (clients.pop(), clients.is_empty()) {
            (None, _) => Err(TokenFault::UnknownClient),
            (Some(client), true) => Ok(client),
            (Some(_), false) => Err(TokenFault::AmbiguousClient),
        })
    }

    fn failed(&self, error: &StoreError) -> LoadedClient {
        self.metrics.store_failed(OPERATION);
        let cause = error as &dyn std::error::Error;
        if error.is_transient() {
            tracing::debug!(error = cause, "a client could not be looked up");
        } else {
            tracing::error!(error = cause, "a client could not be looked up, and trying again will not help");
        }
        LoadedClient::Unavailable
    }
}

/// How often a row is read when changes keep coming in between.
const READS_MAX: u32 = 3;

/// After a refresh that failed, not at once again.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// Clients that tokens name.
const CLIENTS_MAX: u64 = 20_000;

/// The look-up's name in metrics.
const OPERATION: &str = "clients.find";
