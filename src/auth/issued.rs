//! Tokens of our own, by their rows: whose each is, and whether it holds still.
//!
//! A signature says that we made a token, its row whether it was revoked since, and the rows of its
//! key and client what it may do now. So a revoked key kills its tokens as fast as itself, by the
//! same feed. What cannot be read undisturbed is used once and not cached, as with keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::cache::{Cached, Source};
use super::flights::{Errand, Flights, Joined};
use super::identity;
use super::jwt::Verified;
use crate::clients::LiveClients;
use crate::model::clock::SharedClock;
use crate::model::id::TokenId;
use crate::model::issued::TokenRecord;
use crate::model::key::KeyHash;
use crate::model::rate::RateLimit;
use crate::store::StoreError;
use crate::store::tokens::TokenStore;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// Looks tokens of our own up.
pub(super) struct IssuedTokens {
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) clients: Arc<LiveClients>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    pub(super) default_limit: RateLimit,
    /// How long one look-up may take, re-reads included.
    pub(super) deadline: Duration,
    pub(super) cache_ttl: Duration,
    pub(super) flights: Arc<Flights<KeyHash, LoadedToken>>,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub(super) enum LoadedToken {
    /// It is this.
    Known {
        /// Whose it is.
        identity: Arc<Cached>,
        /// Whether nothing changed while it was read.
        current: bool,
    },
    /// We issued no such token.
    Unknown,
    /// The store could not say.
    Unavailable,
}

impl IssuedTokens {
    /// Whether one more may be looked up that nobody waits for.
    pub(super) fn has_room(&self) -> bool {
        self.flights.has_room()
    }

    /// Looks a token up by its id, together with everyone else who wants it.
    pub(super) async fn load(
        self: &Arc<Self>,
        id: TokenId,
        digest: KeyHash,
        token: &Arc<Verified>,
        errand: Errand,
    ) -> LoadedToken {
        let look_up = || {
            let (loader, source) = (Arc::clone(self), (digest, Arc::clone(token)));
            async move {
                timeout(loader.deadline, loader.read(id, source)).await.unwrap_or_else(|_elapsed| {
                    loader.metrics.store_failed(OPERATION);
                    LoadedToken::Unavailable
                })
            }
        };
        match self.flights.join(digest, errand, &self.tasks, || None, look_up) {
            Joined::Flight(flight) => flight.landed().await.unwrap_or(LoadedToken::Unavailable),
            Joined::Landed(loaded) => loaded,
            Joined::Full => LoadedToken::Unavailable,
        }
    }

    /// The row, as it is now.
    pub(super) async fn find(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.store.find(id).await.inspect_err(|error| self.failed(error))
    }

    async fn read(&self, id: TokenId, (digest, token): (KeyHash, Arc<Verified>)) -> LoadedToken {
        for reads_left in (0..READS_MAX).rev() {
            let mark = self.clients.mark();
            let began = self.clock.monotonic();
            let record = match self.find(id).await {
                Ok(Some(record)) => record,
                Ok(None) => return LoadedToken::Unknown,
                Err(_) => return LoadedToken::Unavailable,
            };
            let wall = self.clock.wall();
            let attachment = self.clients.attach(&record.client, self.default_limit, mark, began, wall);
            if !attachment.current && reads_left > 0 {
                continue;
            }
            let principal = Arc::new(identity::issued_principal(&record, attachment.client, began));
            let source = (digest, Source::Token(Arc::clone(&token)));
            let identity = Cached::new(principal, attachment.stamp, record.validity(), began, self.cache_ttl, source);
            return LoadedToken::Known { identity: Arc::new(identity), current: attachment.current };
        }
        unreachable!("the last read returns whatever it finds")
    }

    fn failed(&self, error: &StoreError) {
        self.metrics.store_failed(OPERATION);
        let cause = error as &dyn std::error::Error;
        if error.is_transient() {
            tracing::debug!(error = cause, "a token could not be looked up");
        } else {
            tracing::error!(error = cause, "a token could not be looked up, and trying again will not help");
        }
    }
}

/// How often a row is read when changes keep coming in between.
const READS_MAX: u32 = 3;

/// The look-up's name in metrics.
const OPERATION: &str = "tokens.find";
