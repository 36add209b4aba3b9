//! `[metering]`

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;

use super::reader::{Findings, Section};
use super::units::parse_duration;

/// The journal and its drain.
#[derive(Clone, Debug)]
pub struct MeteringConfig {
    /// The folder that holds each process's own.
    pub dir: PathBuf,
    /// A segment's size; a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// The journal's bound.
    pub max_bytes: u64,
    /// What happens at the bound.
    pub on_full: OnFull,
    /// When entries are made proof against power loss.
    pub sync: SyncPolicy,
    /// How long committed segments stay.
    pub keep: Duration,
    /// How often the drain looks.
    pub drain_interval: Duration,
}

/// `metering.on_full`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// 503 `metering_unavailable`; nothing is lost.
    Refuse,
    /// Served, and counted as lost.
    Serve,
}

/// `metering.sync`. A killed process loses nothing under any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// At this interval.
    Every(Duration),
    /// Before each request is forwarded, by group commit.
    EachRequest,
    /// When the kernel likes.
    Never,
}

impl MeteringConfig {
    /// Reads `[metering]`.
    pub(super) fn read(root: &mut Table, data_dir: &Path, findings: &mut Findings) -> (Self, Table) {
        const PAGE: u64 = 4096;
        let mut section = Section::take(root, "metering", findings);
        let segment_bytes = section.size("segment_bytes", "4MiB", 16 << 10, 1 << 30);
        if !segment_bytes.is_multiple_of(PAGE) {
            section.problem("segment_bytes", "is not a multiple of 4KiB", "write one, like \"4MiB\"");
        }
        let max_bytes = section.size("max_bytes", "4GiB", 64 << 10, u64::MAX);
        let sync = section.text("sync", "1s");
        let sync = match sync.as_str() {
            "every" => SyncPolicy::EachRequest,
            "never" => SyncPolicy::Never,
            other => match parse_duration(other) {
                Ok(interval) if !interval.is_zero() => SyncPolicy::Every(interval),
                _ => {
                    section.problem(
                        "sync",
                        format!("{other:?} is no interval"),
                        "write a span of time, \"every\" or \"never\"",
                    );
                    SyncPolicy::Never
                }
            },
        };
        let config = Self {
            dir: data_dir.join(section.text("dir", "journal")),
            segment_bytes,
            max_bytes,
            on_full: section.choice("on_full", "refuse", &[("refuse", OnFull::Refuse), ("serve", OnFull::Serve)]),
            sync,
            keep: section.duration("keep", "24h", Duration::ZERO),
            drain_interval: section.duration("drain_interval", "1s", Duration::from_millis(10)),
        };
        (config, section.close())
    }
}
