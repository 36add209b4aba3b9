//! What the commands that ask the store share: an open store, a runtime, names resolved to rows.

use jiff::Timestamp;

use super::failure::Failure;
use super::output::OutputFormat;
use crate::app;
use crate::config::Config;
use crate::model::client::Client;
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::ApiKey;
use crate::store::{self, Store};

/// How many rows are asked for at a time.
pub(super) const PAGE: u32 = 500;

/// A command's access to the store.
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) output: OutputFormat,
    pub(super) clock: SharedClock,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Session {
    pub(super) fn open(config: Config, output: OutputFormat) -> Result<Self, Failure> {
        let runtime = super::serve::control_runtime()?;
        let store = runtime.block_on(store::open(&config.store))?;
        Ok(Self { config, store, output, clock: SystemClock::shared(), runtime: Some(runtime) })
    }

    /// Runs a command to its end.
    pub(super) fn run<F>(mut self, command: impl FnOnce(Self) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let Some(runtime) = self.runtime.take() else { unreachable!("a session runs once") };
        runtime.block_on(command(self))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Refuses to go on over tables of an older version, saying what to do.
    pub(super) async fn tables_are_ready(&self) -> Result<(), Failure> {
        Ok(app::migrations_applied(&self.store, false).await?)
    }

    /// The client with this id or name.
    pub(super) async fn client(&self, wanted: &str) -> Result<Client, Failure> {
        self.tables_are_ready().await?;
        if let Ok(id) = wanted.parse::<ClientId>()
            && let Some(client) = self.store.clients.find(id).await?
        {
            return Ok(client);
        }
        let mut named = self.store.clients.find_by_name(wanted).await?;
        match named.len() {
            0 => Err(Failure::failed(
                "not_found",
                format!("no client has the id or name {wanted:?}; `octroi client list` shows them"),
            )),
            1 => Ok(named.remove(0)),
            count => {
                let ids: Vec<_> = named.iter().map(|client| client.id.to_string()).collect();
                let detail = format!("{count} clients are named {wanted:?}; use an id: {}", ids.join(", "));
                Err(Failure::failed("ambiguous_name", detail))
            }
        }
    }

    /// The key with this row id or public id.
    pub(super) async fn key(&self, wanted: &str) -> Result<ApiKey, Failure> {
        self.tables_are_ready().await?;
        let found = match wanted.parse::<ApiKeyId>() {
            Ok(id) => self.store.keys.find(id).await?,
            Err(_) => self.store.keys.find_by_key_id(wanted).await?,
        };
        found.ok_or_else(|| {
            Failure::failed(
                "not_found",
                format!("no key has the id {}; `octroi key list` shows them", shortened(wanted)),
            )
        })
    }
}

/// Enough of a text to recognise it: whoever pasted a raw key must not find it in a log.
fn shortened(text: &str) -> String {
    format!("{:?}", text.chars().take(24).collect::<String>())
}
