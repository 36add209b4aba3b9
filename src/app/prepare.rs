//! What must hold before anything is served: a store that answers, tables of this version.

use std::time::Duration;

use super::error::{StartError, unusable};
use crate::config::store::StoreConfig;
use crate::model::causes::with_causes;
use crate::model::clock::Clock;
use crate::store::{self, Store, StoreError};

/// Pause between two tries of an unreachable store.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Opens the store and waits until it answers, at most `store.start_timeout`.
pub async fn await_store(config: &StoreConfig, clock: &dyn Clock) -> Result<Store, StartError> {
    let begun = clock.monotonic();
    let mut told = false;
    loop {
        let failure = match answer(config).await {
            Ok(store) => return Ok(store),
            Err(failure) if failure.is_transient() => failure,
            Err(failure) => return Err(unusable(&failure)),
        };
        if clock.monotonic().since(begun) >= config.start_timeout {
            return Err(StartError::StoreUnavailable(format!(
                "{}; waited {:?} (store.start_timeout)",
                with_causes(&failure),
                config.start_timeout
            )));
        }
        if !told {
            told = true;
            tracing::warn!(cause = with_causes(&failure), wait = ?config.start_timeout, "the store does not answer yet; waiting");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn answer(config: &StoreConfig) -> Result<Store, StoreError> {
    let store = store::open(config).await?;
    store.migrations.status().await?;
    Ok(store)
}

/// Checks that every migration is applied; applies them first where `apply` says so.
pub async fn migrations_applied(store: &Store, apply: bool) -> Result<(), StartError> {
    if apply {
        for applied in store.migrations.up(false).await.map_err(|error| unusable(&error))? {
            tracing::info!(version = applied.version, name = applied.name, "migration applied");
        }
    }
    let status = store.migrations.status().await.map_err(|error| unusable(&error))?;
    let pending: Vec<_> = status
        .iter()
        .filter(|migration| migration.applied_at.is_none())
        .map(|migration| format!("{:04}_{}", migration.version, migration.name))
        .collect();
    if pending.is_empty() {
        return Ok(());
    }
    Err(StartError::MigrationsPending { pending: format!("migrations {}", pending.join(", ")) })
}
