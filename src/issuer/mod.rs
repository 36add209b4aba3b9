//! Tokens of our own: a key is exchanged for a short-lived JWT and, if asked, a refresh token.
//!
//! | file | owns |
//! |---|---|
//! | `keys` | which key signs, and what is published |
//! | `grant` | from a key's rights to a verification token (RFC 6749 §4.4, RFC 9068) |
//! | `refresh` | exchanging refresh tokens: once, in families, forgiving a lost answer (RFC 9700 §4.14) |
//! | `statement` | what a client used in a closed month, signed by the same key |
//! | `fault` | why nothing was issued |
//!
//! Everything that was issued has a row, written before the answer leaves: for audit, and so that
//! it can be revoked. Raw tokens are never stored.
//!
//! Refuses to know who is asking (`auth`) and how it is asked over HTTP (`proxy`).

mod fault;
mod grant;
mod keys;
mod refresh;
mod statement;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use fault::{GrantFault, RefreshFault};
pub use grant::{Asked, Issued};
pub use keys::{SigningKeys, UnusableKey};
pub use refresh::PresentedRefresh;
pub use statement::{Signatory, SignedStatement, StatedAdjustment, StatedSums, Statement, StatementFault};

use crate::clients::LiveClients;
use crate::config::issuer::IssuerConfig;
use crate::crypto::refresh_text::RefreshTexts;
use crate::model::clock::SharedClock;
use crate::model::id::TokenId;
use crate::model::issued::TokenRecord;
use crate::model::rate::RateLimit;
use crate::store::StoreError;
use crate::store::tokens::TokenStore;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// What a [`TokenIssuer`] works with.
#[expect(missing_docs, reason = "each is the part it names")]
pub struct Dependencies {
    pub store: Arc<dyn TokenStore>,
    pub clients: Arc<LiveClients>,
    pub default_limit: RateLimit,
    pub clock: SharedClock,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
}

/// Issues tokens. One for all workers.
pub struct TokenIssuer {
    name: String,
    url: Option<String>,
    audiences: Vec<String>,
    allowed_audiences: Option<Vec<String>>,
    token_lifetime: Duration,
    refresh_lifetime: Duration,
    refresh_grace: Duration,
    retention: Duration,
    keys: SigningKeys,
    /// None without a secret: nobody could make a successor again.
    refresh_texts: Option<RefreshTexts>,
    with: Dependencies,
}

impl TokenIssuer {
    /// An issuer that signs with these keys. `prefix` is `auth.prefix`.
    #[must_use]
    pub fn new(config: &IssuerConfig, keys: SigningKeys, prefix: &str, with: Dependencies) -> Arc<Self> {
        Arc::new(Self {
            name: config.name().to_owned(),
            url: config.url.clone(),
            audiences: config.audiences.clone(),
            allowed_audiences: config.allowed_audiences.clone(),
            token_lifetime: config.token_lifetime,
            refresh_lifetime: config.refresh_lifetime,
            refresh_grace: config.refresh_grace,
            retention: config.retention,
            keys,
            refresh_texts: config.secret.as_ref().map(|secret| RefreshTexts::new(prefix, secret)),
            with,
        })
    }

    /// `iss`
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether refresh tokens are given: they need a secret.
    #[must_use]
    pub fn gives_refresh_tokens(&self) -> bool {
        self.refresh_texts.is_some()
    }

    /// Where callers find the gateway, if that was said.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Whom a token is for unless something else is asked for.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The keys that sign, and those that are published.
    #[must_use]
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// Why a token does not hold now; none: it does.
    #[must_use]
    pub fn defect(&self, record: &TokenRecord) -> Option<RefreshFault> {
        let now = self.with.clock.wall();
        match record.validity().defect(now) {
            Some(defect) => Some(RefreshFault::of(defect)),
            None => record.client.is_suspended().then_some(RefreshFault::Suspended),
        }
    }

    /// Revokes a verification token. Whether it was not revoked before.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn revoke(self: &Arc<Self>, id: TokenId) -> Result<bool, GrantFault> {
        let at = self.with.clock.wall();
        self.stored(move |issuer| async move { issuer.with.store.revoke(id, at).await }).await
    }

    /// Spawns the task that deletes rows of tokens that ended long ago.
    pub fn keep_up(self: &Arc<Self>) {
        let stop = self.with.tasks.soft().clone();
        self.with.tasks.spawn_vital("token upkeep", Arc::clone(self).prune_until(stop));
    }

    async fn prune_until(self: Arc<Self>, stop: CancellationToken) {
        let keep_up = async {
            loop {
                tokio::time::sleep(PRUNE_INTERVAL).await;
                self.prune().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep_up => {}
        }
    }

    async fn prune(&self) {
        let Ok(before) = self.with.clock.wall().checked_sub(self.retention) else { return };
        loop {
            match self.with.store.prune(before, PRUNE_BATCH).await {
                Ok(deleted) if deleted >= u64::from(PRUNE_BATCH) => {}
                Ok(_) => return,
                Err(error) => {
                    self.with.metrics.store_failed("tokens.prune");
                    tracing::debug!(error = &error as &dyn std::error::Error, "old tokens stay for another hour");
                    return;
                }
            }
        }
    }

    /// Asks the store on the control runtime. Who asked may leave, or lose patience: what was begun
    /// is finished, so that nothing is half done, and asked again it gives the same.
    async fn stored<T, F>(self: &Arc<Self>, ask: impl FnOnce(Arc<Self>) -> F) -> Result<T, GrantFault>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let asked = self.with.tasks.spawn_control(ask(Arc::clone(self)));
        match timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => {
                self.with.metrics.store_failed("tokens");
                let cause = &error as &dyn std::error::Error;
                if error.is_transient() {
                    tracing::debug!(error = cause, "the store of tokens did not answer");
                } else {
                    tracing::error!(error = cause, "the store of tokens failed, and trying again will not help");
                }
                Err(GrantFault::Unavailable)
            }
            // Too late, or the process is about to end.
            Ok(Err(_)) | Err(_) => Err(GrantFault::Unavailable),
        }
    }
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("TokenIssuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long a caller waits for the store.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two deletions of old rows.
const PRUNE_INTERVAL: Duration = Duration::from_hours(1);

/// Rows of each table in one deletion.
const PRUNE_BATCH: u32 = 1_000;
