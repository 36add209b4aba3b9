//! Connections, and the deadline of everything that is done with one.
//!
//! A server that went away without a word (a pulled cable, a paused machine) answers nothing and
//! refuses nothing. So every operation has a deadline that begins before the pool is asked, and
//! a connection whose answer was not awaited to the end (too late, or the caller gave up) is
//! closed and not put back: the next user would wait behind the forgotten answer. The server has
//! the same limit as `statement_timeout`, so that what nobody waits for any more does not pile up
//! there behind a lock.

use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use tokio::time::Sleep;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::error;
use crate::store::{Result, StoreError};

/// Values bound to a statement.
pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// For calls that a request waits for.
pub(super) const LOOK_UP: Duration = Duration::from_secs(1);
/// For everything else but migrations.
pub(super) const WORK: Duration = Duration::from_secs(30);
/// For migrations, waiting for another runner included.
pub(super) const MIGRATE: Duration = Duration::from_mins(10);

/// What a pool is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Short statements that a request or the change feed waits for.
    LookUps,
    /// Batches, reports, changes by an operator.
    Work,
}

impl Purpose {
    /// How many connections: look-ups are cached and the drain is one, so few do. A cluster of
    /// gateways shares the server's limit, which is 100 unless somebody raised it.
    fn connections(self) -> usize {
        match self {
            Self::LookUps | Self::Work => 4,
        }
    }

    fn statement_timeout(self) -> Duration {
        match self {
            Self::LookUps => LOOK_UP,
            Self::Work => WORK,
        }
    }
}

/// A pool. Connects when first used.
pub(super) struct Connections {
    pool: Pool,
}

impl Connections {
    /// A pool on `address`.
    pub(super) fn new(address: &Address, connector: MakeRustlsConnect, purpose: Purpose) -> Result<Self> {
        // Whether a connection is open is known without asking the server; a lost one shows at
        // its first use, within the deadline.
        let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(address.config.clone(), connector, settings);
        let limit = format!("SET statement_timeout = {}", purpose.statement_timeout().as_millis());
        let pool = Pool::builder(manager)
            .max_size(purpose.connections())
            .post_create(Hook::async_fn(move |client, _| {
                let limit = limit.clone();
                Box::pin(async move { client.batch_execute(&limit).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| StoreError::Refused { operation: "build the connection pool", source: error.into() })?;
        Ok(Self { pool })
    }

    /// A connection for one operation, all of which must be over within `limit`.
    pub(super) async fn lease(&self, operation: &'static str, limit: Duration) -> Result<Lease> {
        let mut deadline = Box::pin(tokio::time::sleep(limit));
        let client = tokio::select! {
            biased;
            client = self.pool.get() => client.map_err(|error| error::of_pool(operation, error))?,
            () = &mut deadline => return Err(StoreError::too_late(operation, limit)),
        };
        Ok(Lease { client: Some(client), operation, limit, deadline, reusable: true, in_transaction: false })
    }
}

/// A connection while it is in use.
pub(super) struct Lease {
    client: Option<Object>,
    operation: &'static str,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    reusable: bool,
    in_transaction: bool,
}

impl Lease {
    /// Runs a statement that is prepared once for each connection: fixed texts only.
    pub(super) async fn rows(&mut self, statement: &str, params: Params<'_>) -> Result<Vec<Row>> {
        self.bounded(async |client| {
            let prepared = client.prepare_cached(statement).await?;
            client.query(&prepared, params).await
        })
        .await
    }

    /// The same, for a statement that gives one row or none.
    pub(super) async fn row(&mut self, statement: &str, params: Params<'_>) -> Result<Option<Row>> {
        Ok(self.rows(statement, params).await?.into_iter().next())
    }

    /// Runs a statement whose text depends on the question, and so is not kept.
    pub(super) async fn rows_of(&mut self, statement: &str, params: Params<'_>) -> Result<Vec<Row>> {
        self.bounded(async |client| client.query(statement, params).await).await
    }

    /// Runs a statement that gives no rows; returns how many it touched.
    pub(super) async fn execute(&mut self, statement: &str, params: Params<'_>) -> Result<u64> {
        self.bounded(async |client| {
            let prepared = client.prepare_cached(statement).await?;
            client.execute(&prepared, params).await
        })
        .await
    }

    /// Runs a text of several statements.
    pub(super) async fn batch(&mut self, statements: &str) -> Result<()> {
        self.bounded(async |client| client.batch_execute(statements).await).await
    }

    /// Begins a transaction. A lease that is dropped before [`Self::commit`] closes its connection,
    /// and so takes everything back.
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.in_transaction = true;
        self.batch("BEGIN").await
    }

    /// Commits what was done since [`Self::begin`].
    pub(super) async fn commit(&mut self) -> Result<()> {
        self.batch("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Takes back what was done since [`Self::begin`], and keeps the connection.
    pub(super) async fn roll_back(&mut self) -> Result<()> {
        self.batch("ROLLBACK").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Closes the connection at the end instead of putting it back: its session was changed.
    pub(super) fn discard(&mut self) {
        self.client.take().map(Object::take);
    }

    async fn bounded<T>(
        &mut self,
        statement: impl AsyncFnOnce(&Object) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let client = self.client.as_ref().expect("a lease is not used after `discard`");
        let was_reusable = std::mem::replace(&mut self.reusable, false);
        let answer = tokio::select! {
            biased;
            answer = statement(client) => answer,
            () = &mut self.deadline => return Err(StoreError::too_late(self.operation, self.limit)),
        };
        self.reusable = was_reusable && answer.as_ref().err().is_none_or(|error| !error::spoils_session(error));
        answer.map_err(|error| error::of_statement(self.operation, error))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.reusable || self.in_transaction {
            self.discard();
        }
    }
}
