//! `[telemetry]`

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::traces::RawTraces;

/// What is written about requests and by whom it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Whether each request leaves a line on stderr.
    pub access_log: bool,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// `telemetry.log_format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[telemetry]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTelemetry {
    pub(super) access_log: bool,
    pub(super) log_format: String,
    pub(super) traces: RawTraces,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self { access_log: true, log_format: "auto".to_owned(), traces: RawTraces::default() }
    }
}

impl RawTelemetry {
    pub(super) fn resolve(&self, check: &Check<'_>) -> TelemetryConfig {
        let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        TelemetryConfig {
            access_log: self.access_log,
            log_format: check.choice("log_format", &self.log_format, &formats),
        }
    }
}
