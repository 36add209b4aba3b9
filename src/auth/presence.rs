//! Says that this process lives and which peppers it knows, so that no other one moves a hash out
//! of its reach.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::crypto::pepper::Peppers;
use crate::store::StoreError;
use crate::store::rotation::{NodeRecord, RotationStore};
use crate::telemetry::metrics::Metrics;

/// This process among those that serve.
pub struct Presence {
    store: Arc<dyn RotationStore>,
    node: NodeRecord,
}

impl Presence {
    /// Announces the process for the first time: before it looks whether it can serve, so that
    /// what it saw then stays true.
    ///
    /// # Errors
    /// The store could not be told.
    pub async fn begin(
        store: Arc<dyn RotationStore>,
        name: String,
        peppers: &Peppers,
    ) -> Result<Arc<Self>, StoreError> {
        let node = NodeRecord {
            id: Uuid::new_v4(),
            name,
            pepper: peppers.current.fingerprint(),
            pepper_previous: peppers.previous.as_ref().map(crate::crypto::pepper::Pepper::fingerprint),
        };
        store.announce(&node).await?;
        Ok(Arc::new(Self { store, node }))
    }

    /// Announces it again and again until it is told to stop: longer than requests run.
    pub async fn keep_up(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let announce = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if let Err(error) = self.store.announce(&self.node).await {
                    metrics.store_failed("rotation.announce");
                    tracing::debug!(error = &error as &dyn std::error::Error, "this process could not be announced");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = announce => {}
        }
    }

    /// Takes it back: nobody needs to wait for a process that ends. One that could not say so is
    /// taken for gone after half a minute.
    pub async fn end(&self) {
        let left = tokio::time::timeout(PATIENCE, self.store.leave(self.node.id)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::debug!("the store was not told that this process ends");
        }
    }
}

/// A sixth of the time after which a process is taken for gone.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a process that ends waits for the store.
const PATIENCE: Duration = Duration::from_secs(1);
