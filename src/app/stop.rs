//! How the gateway stops: one order, with a deadline, and nothing that was admitted is lost.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;
use super::workers::Running;
use crate::tasks::Tasks;

/// How long the journal may take to hand over what the store takes, after the workers ended.
const HAND_OVER: Duration = Duration::from_secs(5);

/// How long cut connections may take to settle their entries.
const CUT: Duration = Duration::from_secs(2);

/// How long the collector of traces may take for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Waits for SIGTERM or SIGINT (or for a vital task to end), then stops.
///
/// Not ready at once; still accepting for `server.drain.delay`; then what runs may finish within
/// `server.drain.timeout`; then it is cut; then every entry is handed over. A second signal ends
/// at once: the journal keeps what is not handed over.
pub(super) async fn when_told(mut signals: Signals, running: Running, tasks: Tasks) -> Result<(), StartError> {
    let fatal = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            false
        }
        () = tasks.fatal().cancelled() => true,
    };
    tokio::select! {
        () = finish(running, &tasks) => {}
        name = signals.next() => tracing::warn!(signal = name, "a second signal: stopping at once"),
    }
    if fatal { Err(StartError::VitalTask) } else { Ok(()) }
}

async fn finish(running: Running, tasks: &Tasks) {
    running.readiness.stop();
    if !running.drain.delay.is_zero() {
        tokio::time::sleep(running.drain.delay).await;
    }
    tasks.stop_softly();
    if !running.workers_ended(running.drain.timeout).await {
        tracing::warn!(waited = ?running.drain.timeout, "requests still run after server.drain.timeout; cutting them");
        tasks.stop_hard();
        running.workers_ended(CUT).await;
    }
    let last_spans = async {
        if let Some(spans) = &running.spans {
            spans.finish(LAST_SPANS).await;
        }
    };
    let (left, ()) = tokio::join!(running.journal.finish(HAND_OVER), last_spans);
    tasks.stop_hard();
    running.presence.end().await;
    if left.entries > 0 {
        tracing::warn!(
            entries = left.entries,
            "the store did not take everything; the journal keeps the rest for the next start"
        );
    }
    tracing::info!("stopped");
}

/// From when it is made on, a signal ends nothing by itself; [`when_told`] gets to know of it.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::Runtime);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
