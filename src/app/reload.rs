//! What changes while the gateway serves: certificates, when their files do or when SIGHUP asks.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;
use crate::server::acme::Acme;
use crate::server::tls::Tls;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// SIGHUP, from now on: without a listener for it the process would end.
pub(super) fn hangups() -> Result<Signal, StartError> {
    signal(SignalKind::hangup()).map_err(StartError::Runtime)
}

/// Keeps what may change up to date until a stop.
pub(super) fn keep_fresh(mut hangups: Signal, tls: Vec<Arc<Tls>>, metrics: &Arc<Metrics>, tasks: &Tasks) {
    let acme = tls.iter().find_map(|tls| Acme::new(tls, Arc::clone(metrics)));
    for tls in &tls {
        tasks.spawn_control(Arc::clone(tls).keep_fresh(tasks.hard().clone()));
    }
    if let Some(acme) = &acme {
        tasks.spawn_control(Arc::clone(acme).keep_in_time(tasks.hard().clone()));
    }
    let stop = tasks.hard().clone();
    tasks.spawn_control(async move {
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() { return },
                () = stop.cancelled() => return,
            }
            if let Some(acme) = &acme {
                acme.hurry();
            }
            for tls in &tls {
                tls.look().await;
            }
            if tls.is_empty() {
                tracing::info!("SIGHUP: there are no certificates to be read again");
            }
        }
    });
}
