//! Sets up the log: sentences with fields on stderr, once, at start.
//!
//! Results of commands go to stdout, everything else to stderr, so that a pipe gets results only.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::config::telemetry::LogFormat;

/// What is logged when `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info";

/// Installs the subscriber. A second call changes nothing, so tests may all call it.
///
/// `filter` is `RUST_LOG`, `color` is false when `NO_COLOR` is set.
pub fn install(format: LogFormat, filter: Option<&str>, color: bool) {
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let filter = filter.unwrap_or(DEFAULT_FILTER);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    let layer =
        if json { layer.json().flatten_event(true).boxed() } else { layer.with_ansi(terminal && color).boxed() };
    // `EnvFilter` takes a lock on every span even without span directives; plain targets do not.
    // It stays for those who write a span directive, which plain targets cannot express.
    let installed = if filter.contains('[') {
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
        tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
    } else {
        let filter: Targets = filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
        tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
    };
    // Only a second call fails, and then the first one's choice stands.
    drop(installed);
}
