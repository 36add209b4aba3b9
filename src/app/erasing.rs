//! Clients that were erased elsewhere, by another process or a command line beside the store: what this
//! process remembers of them is forgotten, too.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::causes::with_causes;
use crate::model::clock::SharedClock;
use crate::store::StoreError;
use crate::store::erasure::ErasureStore;
use crate::tasks::Tasks;
use crate::telemetry::refusals::Refusals;

/// How often the store is asked.
const EVERY: Duration = Duration::from_mins(1);

/// How far back: the time of an erasure is by the clock of whoever erased, and a request that was
/// refused before may be told after. Forgetting twice is no harm.
const BACK: SignedDuration = SignedDuration::from_mins(30);

/// Forgets clients that are erased, until the process stops.
pub(super) fn follow(erasure: Arc<dyn ErasureStore>, refusals: Arc<Refusals>, clock: &SharedClock, tasks: &Tasks) {
    let (clock, stop) = (Arc::clone(clock), tasks.hard().clone());
    tasks.spawn_control(async move {
        stop.run_until_cancelled(async move {
            let mut asked = clock.wall();
            loop {
                tokio::time::sleep(EVERY).await;
                let now = clock.wall();
                match forget(&*erasure, &refusals, asked).await {
                    Ok(()) => asked = now,
                    // Asked again from the same time on.
                    Err(error) => tracing::debug!(error = with_causes(&error), "erased clients were not asked for"),
                }
            }
        })
        .await;
    });
}

/// Forgets those that were erased since about then.
async fn forget(erasure: &dyn ErasureStore, refusals: &Refusals, since: Timestamp) -> Result<(), StoreError> {
    let since = since.checked_sub(BACK).unwrap_or(Timestamp::MIN);
    for client in erasure.erased_since(since).await? {
        refusals.forget(client);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use uuid::Uuid;

    use super::*;
    use crate::model::client::Client;
    use crate::model::clock::SystemClock;
    use crate::model::id::ClientId;
    use crate::store::Result as Answer;
    use crate::telemetry::refusals::Refusal;

    /// A store in which a client was erased; it fails at first.
    struct Erasures {
        client: ClientId,
        at: Timestamp,
        asked: Mutex<u32>,
    }

    #[async_trait]
    impl ErasureStore for Erasures {
        async fn erase(&self, _: ClientId, _: Timestamp) -> Answer<Option<Client>> {
            unreachable!("it is only asked")
        }

        async fn erased_at(&self, _: ClientId) -> Answer<Option<Timestamp>> {
            unreachable!("it is only asked")
        }

        async fn erased_since(&self, at: Timestamp) -> Answer<Vec<ClientId>> {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            if *asked == 1 {
                return Err(StoreError::Unavailable { operation: "list erasures", source: "away".into() });
            }
            Ok(if self.at >= at { vec![self.client] } else { Vec::new() })
        }
    }

    fn refused(client: ClientId) -> Refusal {
        Refusal {
            at: Timestamp::UNIX_EPOCH,
            request_id: client.to_string(),
            route: None,
            method: "GET".into(),
            path: "/".into(),
            client_id: Some(client),
            api_key_id: None,
            address: IpAddr::from([192, 0, 2, 1]),
            status: 401,
            code: "invalid_credentials",
            reason: "revoked".into(),
            limit_policies: None,
            limit_levels: None,
            retry_after: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_erased_elsewhere_is_forgotten_also_when_the_store_was_away() {
        let clock = SystemClock::shared();
        let (client, other) = (ClientId(Uuid::from_u128(1)), ClientId(Uuid::from_u128(2)));
        let erasures = Arc::new(Erasures { client, at: clock.wall(), asked: Mutex::default() });
        let refusals = Refusals::new();
        for whose in [client, other] {
            refusals.record(refused(whose));
        }
        follow(erasures, Arc::clone(&refusals), &clock, &Tasks::new(tokio::runtime::Handle::current()));
        tokio::time::sleep(EVERY + EVERY / 2).await;
        assert!(refusals.find(&client.to_string()).is_some(), "the store was away");
        tokio::time::sleep(EVERY).await;
        assert!(refusals.find(&client.to_string()).is_none());
        assert!(refusals.find(&other.to_string()).is_some());
    }
}
