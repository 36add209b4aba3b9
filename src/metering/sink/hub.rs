//! All sinks of a process: built with the journal, started with it, ended after its last commit.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Sink;
use super::outbox::Outbox;
use super::record::Record;
use super::sender::{Lag, Sender, Stops};
use crate::config::metering::SyncPolicy;
use crate::config::sinks::{SinkConfig, SinksConfig};
use crate::model::clock::SharedClock;
use crate::model::plan::QuotaMark;
use crate::server::outbound::AuthorityFault;
use crate::tasks::{Tasks, blocking};
use crate::telemetry::metrics::{Metrics, SinkMetrics};

/// How often the lag is told and the outbox looked through for what is too old.
const UPKEEP: Duration = Duration::from_secs(1);
/// How long sinks may take for what is left when the process stops.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// The sinks.
pub(crate) struct Sinks {
    pub(crate) outbox: Arc<Outbox>,
    built: Vec<Built>,
    folder: PathBuf,
    id: Uuid,
    clock: SharedClock,
    stops: Stops,
    running: Mutex<Vec<JoinHandle<()>>>,
}

struct Built {
    config: SinkConfig,
    sink: Arc<dyn Sink>,
    metrics: SinkMetrics,
    lag: Arc<Lag>,
}

impl Sinks {
    /// Sinks by their configuration; `folder`: the process's, and its id.
    ///
    /// # Errors
    /// A file of authorities cannot be used.
    pub(crate) fn build(
        (folder, id): (PathBuf, Uuid),
        config: &SinksConfig,
        sync: SyncPolicy,
        clock: &SharedClock,
        metrics: &Metrics,
    ) -> Result<Self, AuthorityFault> {
        let built = config.sinks.iter().map(|config| {
            let sink = super::build(config, clock)?;
            Ok(Built { config: config.clone(), sink, metrics: metrics.sink(&config.name), lag: Arc::default() })
        });
        let built = built.collect::<Result<Vec<_>, AuthorityFault>>()?;
        let handles = built.iter().map(|built| built.metrics.clone()).collect();
        let outbox = Outbox::new(&folder, id, config, handles, sync, Arc::clone(clock));
        let clock = Arc::clone(clock);
        let (stops, running) = (Stops::default(), Mutex::default());
        Ok(Self { outbox: Arc::new(outbox), built, folder, id, clock, stops, running })
    }

    /// Begins to send.
    pub(crate) fn start(&self, tasks: &Tasks) {
        if self.built.is_empty() {
            return;
        }
        let senders = self.built.iter().enumerate().map(|(index, built)| {
            let sender = Sender {
                index,
                config: built.config.clone(),
                sink: Arc::clone(&built.sink),
                outbox: Arc::clone(&self.outbox),
                metrics: built.metrics.clone(),
                lag: Arc::clone(&built.lag),
                folder: self.folder.clone(),
                id: self.id,
                stops: self.stops.clone(),
                away: AtomicBool::new(false),
            };
            tasks.spawn_control(sender.run())
        });
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = senders.collect();
        let lags: Vec<_> = self.built.iter().map(|built| (Arc::clone(&built.lag), built.metrics.clone())).collect();
        let (clock, outbox, over) = (Arc::clone(&self.clock), Arc::clone(&self.outbox), self.stops.over.clone());
        tasks.spawn_control(async move {
            loop {
                tokio::select! {
                    () = over.cancelled() => return,
                    () = tokio::time::sleep(UPKEEP) => {}
                }
                for (lag, metrics) in &lags {
                    lag.publish(clock.wall(), metrics);
                }
                let outbox = Arc::clone(&outbox);
                blocking(move || outbox.prune()).await;
            }
        });
    }

    /// A client reached a mark of its quota.
    pub(crate) async fn note_mark(&self, mark: &QuotaMark) {
        let (outbox, record) = (Arc::clone(&self.outbox), Record::from(mark));
        blocking(move || outbox.append(&[record])).await;
    }

    /// Nothing is committed any more: sends what it can in a moment, and leaves the rest to the
    /// next process.
    pub(crate) async fn finish(&self, over: &CancellationToken) {
        self.stops.last.cancel();
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            for sender in running {
                let _ = sender.await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = over.cancelled() => {}
            () = tokio::time::sleep(LAST_CHANCE) => {}
        }
        self.stops.over.cancel();
        let outbox = Arc::clone(&self.outbox);
        let names: Vec<String> = self.built.iter().map(|built| built.config.name.clone()).collect();
        blocking(move || {
            for (index, sink) in names.iter().enumerate() {
                let left = outbox.left(index);
                if left > 0 {
                    tracing::warn!(sink, events = left, "a sink did not take everything; the next start goes on");
                }
            }
            outbox.close();
        })
        .await;
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stops.over.cancel();
    }
}
