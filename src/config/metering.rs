//! `[metering]`

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};
use super::secrets::Secrets;
use super::sinks::SinksConfig;
use super::sinks_raw::{self, RawSink};
use super::units::{self, DURATION_FORM};

/// The most a request may cost, by its route or by its upstream.
pub(super) const MAX_COST: u32 = 1_000_000_000;

/// Headers that callers need: the cost is taken out of the response.
const MEANT: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "location",
    "set-cookie",
    "trailer",
    "transfer-encoding",
];

/// Events of a month stay until it is over and can be closed.
const RETENTION_LEAST: Duration = Duration::from_hours(35 * 24);

/// Each interim record is a row.
const STREAM_LEAST: Duration = Duration::from_secs(1);

/// Segments are mapped, so that their size is a number of pages.
const PAGE: u64 = 4096;

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
    /// How long single events stay in the store; none: for ever.
    pub retention: Option<Duration>,
    /// How often the drain looks.
    pub drain_interval: Duration,
    /// Between two interim records of a transfer that goes on; none: there are none.
    pub stream_interval: Option<Duration>,
    /// The response header in which upstreams say what a request cost.
    pub cost_header: Option<HeaderName>,
    /// The most that they are believed.
    pub cost_max: u32,
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

/// `[metering]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMetering {
    pub(super) dir: String,
    pub(super) segment_bytes: String,
    pub(super) max_bytes: String,
    pub(super) on_full: String,
    pub(super) sync: String,
    pub(super) keep: String,
    pub(super) retention: String,
    pub(super) drain_interval: String,
    pub(super) stream_interval: String,
    pub(super) cost_header: String,
    pub(super) cost_max: i64,
    pub(super) outbox_max_bytes: String,
    pub(super) outbox_keep: String,
    pub(super) sinks: Vec<RawSink>,
}

impl Default for RawMetering {
    fn default() -> Self {
        Self {
            dir: "journal".to_owned(),
            segment_bytes: "4MiB".to_owned(),
            // Hours of a store's absence at a thousand requests a second.
            max_bytes: "4GiB".to_owned(),
            // The promise is that nothing goes uncounted; serving on is the operator's choice.
            on_full: "refuse".to_owned(),
            sync: "1s".to_owned(),
            keep: "24h".to_owned(),
            // What is deleted does not come back: nobody asked.
            retention: "0".to_owned(),
            // With the rest of the way, an event shows within two seconds of its end.
            drain_interval: "1s".to_owned(),
            // A crash loses no more of a long transfer, and what is shorter costs one event.
            stream_interval: "5m".to_owned(),
            // Nobody is believed who was not asked.
            cost_header: String::new(),
            cost_max: 1_000,
            // Two million events: half an hour of a sink's absence at a thousand requests a second.
            outbox_max_bytes: "1GiB".to_owned(),
            // Within the 35 days that Stripe takes events for, and long enough for a long weekend.
            outbox_keep: "7d".to_owned(),
            sinks: Vec::new(),
        }
    }
}

impl RawMetering {
    pub(super) fn resolve(&self, check: &Check<'_>) -> MeteringConfig {
        if self.dir.is_empty() {
            check.refuse("dir", "the journal needs a folder", "write a path, like \"journal\"");
        }
        let (segment_bytes, max_bytes) = self.resolve_sizes(check);
        MeteringConfig {
            dir: check.place(&self.dir),
            segment_bytes,
            max_bytes,
            on_full: check.choice("on_full", &self.on_full, &[("refuse", OnFull::Refuse), ("serve", OnFull::Serve)]),
            sync: self.resolve_sync(check),
            keep: check.duration("keep", &self.keep, Zero::Allowed),
            retention: self.resolve_retention(check),
            drain_interval: check.duration("drain_interval", &self.drain_interval, Zero::Refused),
            stream_interval: self.resolve_stream_interval(check),
            cost_header: self.resolve_cost_header(check),
            cost_max: check.count("cost_max", self.cost_max, 1..=MAX_COST),
        }
    }

    fn resolve_retention(&self, check: &Check<'_>) -> Option<Duration> {
        if self.retention.is_empty() || self.retention == "0" {
            return None;
        }
        let retention = check.duration("retention", &self.retention, Zero::Allowed);
        if retention.is_zero() {
            return None;
        }
        if retention < RETENTION_LEAST {
            check.refuse(
                "retention",
                format!("`{}` would delete events that quotas and bills are still made of", self.retention),
                "write at least 35d, so that a month can be closed before its events go; 0 keeps everything",
            );
        }
        Some(retention)
    }

    fn resolve_stream_interval(&self, check: &Check<'_>) -> Option<Duration> {
        let interval = check.duration("stream_interval", &self.stream_interval, Zero::Allowed);
        if !interval.is_zero() && interval < STREAM_LEAST {
            let message = format!("`{}` would write more records than it is worth", self.stream_interval);
            check.refuse("stream_interval", message, "write at least 1s; 0 writes none before a transfer's end");
        }
        (!interval.is_zero()).then_some(interval)
    }

    pub(super) fn resolve_sinks(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> SinksConfig {
        SinksConfig {
            sinks: sinks_raw::resolve_all(&self.sinks, check, secrets),
            outbox_max_bytes: check.size(
                "outbox_max_bytes",
                &self.outbox_max_bytes,
                64 << 10..=1 << 50,
                "from 64KiB to 1024TiB",
            ),
            outbox_keep: check.duration("outbox_keep", &self.outbox_keep, Zero::Refused),
        }
    }

    fn resolve_cost_header(&self, check: &Check<'_>) -> Option<HeaderName> {
        if self.cost_header.is_empty() {
            return None;
        }
        let name = self.cost_header.parse::<HeaderName>().ok();
        let meant = |name: &HeaderName| MEANT.contains(&name.as_str());
        if name.as_ref().is_none_or(meant) {
            let message = format!("`{}` is no name for a header of its own", self.cost_header);
            check.refuse("cost_header", message, "write a name that nothing else uses, like \"x-request-cost\"");
        }
        name
    }

    fn resolve_sizes(&self, check: &Check<'_>) -> (u64, u64) {
        let segment = check.size("segment_bytes", &self.segment_bytes, 16 * PAGE..=1 << 30, "from 64KiB to 1GiB");
        if !segment.is_multiple_of(PAGE) {
            check.refuse("segment_bytes", "a segment is a number of whole pages", "write a multiple of 4KiB");
        }
        let most = check.size("max_bytes", &self.max_bytes, 1..=1 << 50, "above zero, at most 1024TiB");
        if most < 2 * segment && !check.has_problem("segment_bytes") {
            check.refuse(
                "max_bytes",
                "the journal has no room for the segment in use and the next one",
                "write at least twice `metering.segment_bytes`, for each worker",
            );
        }
        (segment, most)
    }

    fn resolve_sync(&self, check: &Check<'_>) -> SyncPolicy {
        match self.sync.as_str() {
            "every" => return SyncPolicy::EachRequest,
            "never" => return SyncPolicy::Never,
            _ => {}
        }
        match units::parse_duration(&self.sync) {
            Some(interval) if !interval.is_zero() => SyncPolicy::Every(interval),
            _ => {
                let message = format!("`{}` does not say when entries are synced", self.sync);
                check.refuse("sync", message, format!("write \"every\", \"never\", or {DURATION_FORM}, above zero"));
                SyncPolicy::Never
            }
        }
    }
}
