//! Reads the ledger for quotas, and writes the marks that clients reach.
//!
//! A quota that nobody read yet has requests waiting: it is read at once, after what earlier
//! processes of this machine left behind was committed, or a restart would give the units of its
//! last moments away. From then on this process knows its own part exactly; it looks again, now and
//! then, for what others committed: other nodes, adjustments, a ledger that lost commits. So with
//! several nodes a quota is overspent by at most what the others took since the last look.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::clients::terms::Quotas;
use crate::clients::{Ledger, LiveClient, LiveClients};
use crate::model::clock::SharedClock;
use crate::model::plan::QuotaMark;
use crate::store::plans::QuotaStore;
use crate::telemetry::metrics::Metrics;

/// Between two rounds; a quota that was never read does not wait for it.
const ROUND: Duration = Duration::from_secs(1);
/// So many rounds pass between two looks at a quota of which much is left.
const FAR_ROUNDS: u64 = 15;
/// The same of one of which a fifth is left, or less.
const NEAR_ROUNDS: u64 = 2;
/// The most looks in a round; who comes too late is first in the next one.
const LOOKS_MAX: usize = 200;
/// How long what earlier processes left may hold up the first look.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(3);
/// How long the store may take for one look: the drain waits for it.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Who is told of marks that were reached, once they are written.
#[async_trait]
pub trait MarkListener: Send + Sync {
    /// A client has reached this one.
    async fn reached(&self, mark: &QuotaMark);
}

/// The task.
pub struct QuotaKeeper {
    quotas: Arc<dyn QuotaStore>,
    clients: Arc<LiveClients>,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    round: u64,
    listener: Option<Arc<dyn MarkListener>>,
}

impl QuotaKeeper {
    /// A keeper of these clients' quotas.
    #[must_use]
    pub fn new(
        quotas: Arc<dyn QuotaStore>,
        clients: Arc<LiveClients>,
        ledger: Arc<Ledger>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { quotas, clients, ledger, clock, metrics, round: 0, listener: None }
    }

    /// Tells this one too.
    #[must_use]
    pub fn telling(self, listener: Arc<dyn MarkListener>) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Reads and writes until it is told to stop. A mark that was not written by then is seen again
    /// at the next start: it follows from what is used.
    pub async fn run(mut self, stop: CancellationToken) {
        let keep = async {
            let mut early = tokio::time::timeout(RECOVERY_PATIENCE, self.ledger.recovered()).await.is_err();
            if early {
                tracing::warn!(
                    "what earlier processes left is not committed yet; quotas are counted without it until it is"
                );
            }
            loop {
                // What was read too early is read again as soon as it is whole.
                let all = early && self.ledger.is_recovered();
                early &= !all;
                self.read_due(all).await;
                self.write_marks().await;
                self.round += 1;
                let asked = self.ledger.asked();
                tokio::pin!(asked);
                // Whoever asked is served at once; the round is still the round.
                while tokio::time::timeout(ROUND, asked.as_mut()).await.is_ok() {
                    self.read_unread().await;
                    asked.set(self.ledger.asked());
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep => {}
        }
    }

    /// Looks at what was never read.
    pub async fn read_unread(&self) {
        for client in self.clients.with_quotas() {
            for quotas in client.terms().quotas.iter().filter(|quotas| !quotas.counter.is_read()) {
                self.look(&client, quotas).await;
            }
        }
    }

    /// Looks at what was never read, and at what is due, or at everything.
    pub async fn read_due(&self, all: bool) {
        self.read_unread().await;
        let now = self.clock.wall();
        let clients = self.clients.with_quotas();
        // Each round begins elsewhere, so that a bound on looks leaves nobody out for ever.
        let first = usize::try_from(self.round).unwrap_or(0).wrapping_mul(LOOKS_MAX) % clients.len().max(1);
        let mut looks = 0;
        for client in clients[first..].iter().chain(&clients[..first]) {
            for quotas in &client.terms().quotas {
                if all || looks < LOOKS_MAX && self.is_due(client, quotas, now) {
                    looks += 1;
                    self.look(client, quotas).await;
                }
            }
        }
    }

    fn is_due(&self, client: &LiveClient, quotas: &Quotas, now: Timestamp) -> bool {
        let near = |used: u64| quotas.limits.iter().any(|limit| limit.is_near(used));
        let rounds = match quotas.counter.span(now) {
            Some(span) if near(span.used()) => NEAR_ROUNDS,
            _ => FAR_ROUNDS,
        };
        // Spread over the rounds by who it is.
        (self.round + u64::from(client.id.0.as_bytes()[15])).is_multiple_of(rounds)
    }

    /// Reads the ledger for one counter.
    async fn look(&self, client: &LiveClient, quotas: &Quotas) {
        let now = self.clock.wall();
        let Some(span) = quotas.counter.span(now) else { return };
        let held = self.ledger.hold().await;
        let units = tokio::time::timeout(LOOK_PATIENCE, self.quotas.units(client.id, span.window)).await;
        match units {
            Ok(Ok(units)) => held.read(&quotas.counter, &span, units),
            Ok(Err(error)) => {
                self.metrics.store_failed("quotas.units");
                tracing::debug!(error = &error as &dyn std::error::Error, "a quota could not be read");
                return;
            }
            Err(_elapsed) => {
                self.metrics.store_failed("quotas.units");
                return;
            }
        }
        drop(held);
        let used = span.used();
        for limit in quotas.limits.iter().filter(|limit| limit.is_near(used)) {
            client.marks().note(client.id, limit, &span, used, now);
        }
    }

    /// Writes the marks that were reached; each is told once, by whoever wrote it.
    pub async fn write_marks(&self) {
        let mut marks = self.clients.marks().take();
        while let Some(mark) = marks.pop() {
            match self.quotas.note_mark(&mark).await {
                Ok(true) => {
                    tracing::info!(
                        event = "quota_mark",
                        client = %mark.client_id,
                        policy = mark.policy,
                        percent = mark.percent,
                        quota = mark.quota,
                        used = mark.used,
                        mode = mark.mode.as_str(),
                        until = %mark.window_end,
                        "a client reached a mark of its quota"
                    );
                    if let Some(listener) = &self.listener {
                        listener.reached(&mark).await;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    self.metrics.store_failed("quotas.note_mark");
                    tracing::debug!(error = &error as &dyn std::error::Error, "a mark of a quota waits to be written");
                    marks.push(mark);
                    self.clients.marks().restore(marks);
                    return;
                }
            }
        }
    }
}

impl std::fmt::Debug for QuotaKeeper {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("QuotaKeeper").field("round", &self.round).finish_non_exhaustive()
    }
}
