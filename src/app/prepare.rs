//! What must hold before anything is served: a store that answers, tables of this version.

use std::time::Duration;

use super::error::{StartError, unusable};
use crate::config::Problem;
use crate::config::admin::FirstOperator;
use crate::config::store::StoreConfig;
use crate::model::clock::Clock;
use crate::operators::{OperatorFault, create_first};
use crate::store::{self, Store, StoreError};

/// Pause between two tries of an unreachable store.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Opens the store and waits until it answers, at most `store.start_timeout`.
pub async fn await_store(config: &StoreConfig, clock: &dyn Clock) -> Result<Store, StartError> {
    patiently(config, clock, async || answer(config).await.map_err(|error| unusable(&error))).await
}

async fn answer(config: &StoreConfig) -> Result<Store, StoreError> {
    let store = store::open(config).await?;
    store.migrations.status().await?;
    Ok(store)
}

/// Does something that needs the store; while that is away, again, until `store.start_timeout` is
/// over. What is done must bear being begun twice.
pub(super) async fn patiently<T>(
    config: &StoreConfig,
    clock: &dyn Clock,
    attempt: impl AsyncFn() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let begun = clock.monotonic();
    let mut told = false;
    loop {
        let cause = match attempt().await {
            Err(StartError::StoreUnavailable(cause)) => cause,
            done => return done,
        };
        let wait = config.start_timeout;
        if clock.monotonic().since(begun) >= wait {
            return Err(StartError::StoreUnavailable(format!("{cause}; waited {wait:?} (store.start_timeout)")));
        }
        if !told {
            told = true;
            tracing::warn!(cause, ?wait, "the store does not answer yet; waiting");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Makes the first operator, where a password is given for one and there is none yet.
pub(super) async fn make_first_operator(store: &Store, first: Option<&FirstOperator>) -> Result<(), StartError> {
    let Some(first) = first else { return Ok(()) };
    match create_first(store, first).await {
        Ok(Some(made)) => {
            tracing::info!(name = made.name, "the first operator was made; its password is needed no more");
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(OperatorFault::Store(error)) => Err(unusable(&error)),
        Err(fault) => {
            let remedy = "write a password of twelve characters or more, or none";
            Err(StartError::Configuration(Problem::new(first.origin.as_str(), fault.to_string(), remedy)))
        }
    }
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
    let is_empty = pending.len() == status.len();
    let hint = " (it is empty; if it should not be, look at `octroi config show`: store.url, and --config)";
    let pending = format!("migrations {}{}", pending.join(", "), if is_empty { hint } else { "" });
    Err(StartError::MigrationsPending { pending })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::store::StoreUrl;
    use crate::model::clock::SystemClock;

    fn waits(start_timeout: Duration) -> StoreConfig {
        StoreConfig { url: StoreUrl::Sqlite("unused".into()), migrate: false, start_timeout }
    }

    async fn tries(start_timeout: Duration, away_for: u32) -> (u32, Result<u32, StartError>) {
        let tried = AtomicU32::new(0);
        let attempt = async || match tried.fetch_add(1, Ordering::Relaxed) {
            number if number < away_for => Err(StartError::StoreUnavailable("away".into())),
            number => Ok(number),
        };
        let done = patiently(&waits(start_timeout), &SystemClock::new(), attempt).await;
        (tried.load(Ordering::Relaxed), done)
    }

    #[tokio::test]
    async fn a_store_that_goes_away_in_the_middle_of_a_start_is_waited_for() {
        let (tried, done) = tries(Duration::from_secs(30), 2).await;
        assert_eq!((tried, done.unwrap()), (3, 2));
    }

    #[tokio::test]
    async fn and_not_for_ever() {
        let (tried, done) = tries(Duration::ZERO, 2).await;
        assert!(matches!(done, Err(StartError::StoreUnavailable(_))));
        assert_eq!(tried, 1);
    }
}
