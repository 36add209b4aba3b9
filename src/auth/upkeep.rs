//! Letting go: identities that are too old to serve, clients that nobody uses, change rows that
//! nobody will read again.
//!
//! Requests judge the age of what they find by themselves; this only gives memory and rows back,
//! and may come late.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cache::Identities;
use super::jwt::{ClientLoader, Issuers, KnownTokens};
use crate::clients::LiveClients;
use crate::model::clock::{Monotonic, SharedClock};
use crate::store::ChangeStore;
use crate::telemetry::metrics::Metrics;

/// The task that tidies up, and tells how old the issuers' keys have become.
pub(super) struct Upkeep {
    pub(super) identities: Arc<Identities>,
    pub(super) tokens: Arc<KnownTokens>,
    pub(super) issuers: Arc<Issuers>,
    pub(super) client_loader: Arc<ClientLoader>,
    pub(super) clients: Arc<LiveClients>,
    pub(super) changes: Arc<dyn ChangeStore>,
    pub(super) max_stale: Duration,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Tidies up until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut prune_at = self.clock.monotonic();
        let keep_up = async {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let now = self.clock.monotonic();
                self.sweep(now);
                self.metrics.jwks_age_seconds.set(self.issuers.oldest_keys(now).as_secs_f64());
                if now >= prune_at {
                    prune_at = now.after(PRUNE_INTERVAL);
                    self.prune_changes().await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep_up => {}
        }
    }

    /// Returns how many clients remain in use.
    pub(super) fn sweep(&self, now: Monotonic) -> usize {
        self.identities.sweep(now, self.max_stale);
        self.tokens.sweep(now, self.clock.wall(), self.max_stale);
        self.client_loader.sweep(now, self.max_stale);
        self.clients.sweep(now)
    }

    pub(super) async fn prune_changes(&self) {
        let Ok(before) = self.clock.wall().checked_sub(CHANGES_KEPT) else { return };
        if let Err(error) = self.changes.prune(before).await {
            self.metrics.store_failed("changes.prune");
            tracing::debug!(error = &error as &dyn std::error::Error, "old changes stay for another hour");
        }
    }
}

/// Between two sweeps of what nobody uses.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// Between two deletions of old change rows.
const PRUNE_INTERVAL: Duration = Duration::from_hours(1);

/// How long change rows stay: far longer than any reader lags.
const CHANGES_KEPT: Duration = Duration::from_hours(24);
