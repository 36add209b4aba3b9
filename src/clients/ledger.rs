//! Where what is committed meets what is counted: see `quota` for why they must not pass each
//! other.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::registry::LiveClients;
use crate::model::usage::UsageEvent;

/// The gate between the drain, which commits, and whoever reads what is committed.
#[derive(Debug)]
pub struct Ledger {
    clients: Arc<LiveClients>,
    gate: Mutex<()>,
    /// What other processes left behind was committed, as far as it was there at the start.
    recovered: tokio_util::sync::CancellationToken,
    asked: Arc<Notify>,
}

/// The gate is held: nobody else commits or reads.
#[derive(Debug)]
pub struct Held<'l> {
    ledger: &'l Ledger,
    _gate: MutexGuard<'l, ()>,
}

impl Ledger {
    /// The ledger that these clients' quotas are counted from.
    #[must_use]
    pub fn new(clients: Arc<LiveClients>) -> Arc<Self> {
        let asked = clients.asked();
        Arc::new(Self { clients, gate: Mutex::new(()), recovered: tokio_util::sync::CancellationToken::new(), asked })
    }

    /// Waits until nobody commits or reads.
    pub async fn hold(&self) -> Held<'_> {
        Held { ledger: self, _gate: self.gate.lock().await }
    }

    /// What earlier processes of this machine left was committed.
    pub fn note_recovered(&self) {
        self.recovered.cancel();
    }

    /// Whether it was.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.recovered.is_cancelled()
    }

    /// Resolves when what earlier processes left was committed.
    pub async fn recovered(&self) {
        self.recovered.cancelled().await;
    }

    /// Resolves when a quota waits to be read for the first time.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl Held<'_> {
    /// Notes events of this process's requests that were committed since the gate is held.
    pub fn committed(&self, events: &[UsageEvent]) {
        self.ledger.clients.committed(events);
    }

    /// Takes over what the ledger said since the gate is held.
    pub fn read(&self, counter: &super::quota::QuotaCounter, span: &super::quota::Span, units: i64) {
        counter.take_over(span, units);
    }
}
