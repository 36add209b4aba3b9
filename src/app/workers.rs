//! The workers: a thread and a current-thread runtime each, where requests live and die.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Addresses;
use super::descriptors;
use super::error::StartError;
use super::reload;
use super::wiring::Parts;
use crate::api::{self, AdminState};
use crate::auth::Presence;
use crate::config::server::DrainConfig;
use crate::metering::Journal;
use crate::server::spans::SpanSender;
use crate::server::{self, Places};
use crate::tasks::Tasks;
use crate::telemetry::readiness::Readiness;

/// How often a stop looks whether the workers have ended.
const LOOK: Duration = Duration::from_millis(10);

/// A gateway that serves.
pub(super) struct Running {
    pub(super) addresses: Addresses,
    pub(super) drain: DrainConfig,
    pub(super) journal: Arc<Journal>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) presence: Arc<Presence>,
    pub(super) spans: Option<SpanSender>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the admin listener and every worker.
pub(super) fn start(parts: Parts) -> Result<Running, StartError> {
    let Parts { config, tasks, journal, gateway, metrics, readiness, presence, spans, listeners, tls, .. } = parts;
    let hangups = reload::hangups()?;
    let certificates = [tls, parts.admin_tls.clone()].into_iter().flatten().collect();
    reload::keep_fresh(hangups, certificates, &metrics, &tasks);
    // The first has everything, a second one probes and metrics.
    let (mut api, mut tls) = (Some(parts.api), parts.admin_tls);
    for listener in parts.admin {
        let state = AdminState { metrics: Arc::clone(&metrics), readiness: Arc::clone(&readiness), api: api.take() };
        tasks.spawn_control(api::serve(listener, state, tls.take(), tasks.clone()));
    }
    let addresses = parts.addresses;
    let places = Places::new(descriptors::connections(config.server.limits.connections), &config.server, metrics);
    let mut threads = Vec::new();
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (handler, config) = (gateway.worker(journal.meter(number)), config.server.clone());
        let (places, stop) = (places.clone(), tasks.clone());
        let worker = async move { server::serve(listeners, handler, &config, places, stop).await };
        threads.push(spawn(number, worker, tasks.clone())?);
    }
    Ok(Running { addresses, drain: config.server.drain, journal, readiness, presence, spans, threads })
}

fn spawn(
    number: usize,
    worker: impl Future<Output = std::io::Result<()>> + Send + 'static,
    tasks: Tasks,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let run = move || {
        let _guard = tasks.vital_guard("worker");
        if let Err(error) = runtime.block_on(worker) {
            tracing::error!(%error, worker = number, "a worker could not serve");
        }
    };
    std::thread::Builder::new().name(format!("octroi-worker-{number}")).spawn(run).map_err(StartError::Runtime)
}

impl Running {
    /// Waits until every worker has ended, at most `limit`; whether all did.
    pub(super) async fn workers_ended(&self, limit: Duration) -> bool {
        let all_ended = async {
            while !self.threads.iter().all(JoinHandle::is_finished) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, all_ended).await.is_ok()
    }
}
