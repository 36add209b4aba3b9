//! `[telemetry]`

use toml::Table;

use super::reader::{Findings, Section};

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

impl TelemetryConfig {
    /// Reads `[telemetry]`.
    pub(super) fn read(root: &mut Table, findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::take(root, "telemetry", findings);
        let config = Self {
            access_log: section.flag("access_log", true),
            log_format: section.choice(
                "log_format",
                "auto",
                &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
        };
        (config, section.close())
    }
}
