//! `octroi serve`: runs the gateway until it is told to stop.

use super::{Context, Failure};
use crate::app::{self, Addresses, StartError};
use crate::config::Loaded;
use crate::config::telemetry::LogFormat;
use crate::model::clock::SharedClock;
use crate::telemetry::logging;

/// Threads of the control runtime: look-ups, the drain and probes; requests never run on it.
const CONTROL_THREADS: usize = 2;

/// Serves until it is told to stop.
///
/// # Errors
/// Why it did not start, or did not end well.
pub fn run(context: &Context) -> Result<(), Failure> {
    let loaded = context.load()?;
    install_log(context, loaded.config.telemetry.log_format);
    control_runtime()?.block_on(serve(loaded, context.clock.clone(), |_| {}))
}

/// Serves under these settings; `started` is called once, when everything listens.
pub(super) async fn serve(
    loaded: Loaded,
    clock: SharedClock,
    started: impl FnOnce(&Addresses) + Send,
) -> Result<(), Failure> {
    Ok(app::serve(loaded.config, &loaded.effective, clock, started).await?)
}

pub(super) fn install_log(context: &Context, format: LogFormat) {
    logging::install(format, context.environment.log_filter(), !context.environment.no_color());
}

/// The runtime for everything that is not a request.
pub(super) fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("octroi-control")
        .enable_all()
        .build()
        .map_err(|error| StartError::Runtime(error).into())
}
