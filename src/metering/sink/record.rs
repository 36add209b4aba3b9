//! What sinks are told: a usage event that was committed, or a mark of a quota that was reached.
//!
//! Owns the form in which records wait in the outbox: one JSON object a line, with the columns of
//! their tables. Refuses to know what a sink makes of it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::plan::QuotaMark;
use crate::model::usage::{CutReason, REQUEST, UsageEvent};

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// A row of `usage_events`.
    Usage(Usage),
    /// A row of `quota_marks`.
    QuotaMark(Mark),
}

/// The columns of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) id: Uuid,
    pub(crate) request_id: String,
    pub(crate) client_id: Uuid,
    pub(crate) api_key_id: Option<Uuid>,
    pub(crate) token_id: Option<Uuid>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) route: String,
    pub(crate) method: String,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: String,
    pub(crate) reason: Option<String>,
    pub(crate) duration_us: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) units: u32,
    pub(crate) node: String,
    /// Lines of a version before interim records say neither.
    #[serde(default = "request")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) parent_id: Option<Uuid>,
}

fn request() -> String {
    REQUEST.to_owned()
}

/// The columns of `quota_marks`, and an id that follows from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) id: String,
    pub(crate) client_id: Uuid,
    pub(crate) policy: String,
    pub(crate) window_start: Timestamp,
    pub(crate) window_end: Timestamp,
    pub(crate) percent: u8,
    pub(crate) quota: u64,
    pub(crate) used: u64,
    pub(crate) mode: String,
    pub(crate) reached_at: Timestamp,
}

impl Record {
    /// What tells it from all others, however often it is sent.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Usage(usage) => usage.id.to_string(),
            Self::QuotaMark(mark) => mark.id.clone(),
        }
    }

    /// Since when a sink could have it.
    pub(crate) fn since(&self) -> Timestamp {
        match self {
            Self::Usage(usage) => {
                let lasted = SignedDuration::from_micros(i64::try_from(usage.duration_us).unwrap_or(i64::MAX));
                usage.occurred_at.saturating_add(lasted).unwrap_or(usage.occurred_at)
            }
            Self::QuotaMark(mark) => mark.reached_at,
        }
    }

    /// The line it waits as, with its end.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a record is JSON");
        line.push(b'\n');
        line
    }

    /// Reads a line; none: it is damaged.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

impl From<&UsageEvent> for Record {
    fn from(event: &UsageEvent) -> Self {
        Self::Usage(Usage {
            id: event.id.0,
            request_id: event.request_id.clone(),
            client_id: event.client_id.0,
            api_key_id: event.api_key_id.map(|id| id.0),
            token_id: event.token_id.map(|id| id.0),
            occurred_at: event.occurred_at,
            route: event.route.clone(),
            method: event.method.to_owned(),
            status: event.status,
            outcome: event.outcome.as_str().to_owned(),
            reason: event.reason.map(CutReason::as_str).map(ToOwned::to_owned),
            duration_us: event.duration_us,
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            units: event.units,
            node: event.node.clone(),
            kind: event.kind.as_str().to_owned(),
            parent_id: event.kind.parent().map(|id| id.0),
        })
    }
}

impl From<&QuotaMark> for Record {
    fn from(mark: &QuotaMark) -> Self {
        let window = mark.window_start.as_second();
        Self::QuotaMark(Mark {
            id: format!("mark-{}-{}-{window}-{}", mark.client_id, mark.policy, mark.percent),
            client_id: mark.client_id.0,
            policy: mark.policy.clone(),
            window_start: mark.window_start,
            window_end: mark.window_end,
            percent: mark.percent,
            quota: mark.quota,
            used: mark.used,
            mode: mark.mode.as_str().to_owned(),
            reached_at: mark.reached_at,
        })
    }
}
