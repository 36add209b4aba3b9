//! `octroi serve`: runs the gateway until it is told to stop.

use crate::app::{self, Addresses, StartError};
use crate::config::Config;
use crate::model::clock::SystemClock;

/// Threads of the control runtime: look-ups, the drain and probes; requests never run on it.
const CONTROL_THREADS: usize = 2;

/// Serves under `config`; `started` is called once, when everything listens.
pub(super) fn run(config: Config, started: impl FnOnce(&Addresses) + Send) -> Result<(), StartError> {
    control_runtime()?.block_on(app::serve(config, SystemClock::shared(), started))
}

/// The runtime for everything that is not a request.
pub(super) fn control_runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("octroi-control")
        .enable_all()
        .build()
        .map_err(StartError::Runtime)
}
