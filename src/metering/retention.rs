//! How long single events stay in the store: `metering.retention`. Rollups and closed months stay.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::model::causes::with_causes;
use crate::model::clock::SharedClock;
use crate::store::audit::AuditStore;

/// How often it looks.
const INTERVAL: Duration = Duration::from_hours(1);
/// Between two parts that are deleted: the drain goes first.
const PAUSE: Duration = Duration::from_millis(200);

/// The task: deletes what is too old, until it is told to stop. Every process does; nothing is
/// deleted twice.
pub async fn keep_retention(
    audit: Arc<dyn AuditStore>,
    retention: Duration,
    clock: SharedClock,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            retire(audit.as_ref(), retention, clock.wall()).await;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn retire(audit: &dyn AuditStore, retention: Duration, now: Timestamp) {
    let before = day_of(now, retention);
    let mut events = 0;
    loop {
        match audit.retire_events(before).await {
            Ok(0) => break,
            Ok(retired) => events += retired,
            Err(error) => {
                tracing::warn!(%before, error = with_causes(&error), "events past retention could not be deleted; trying again in an hour");
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    if events > 0 {
        tracing::info!(event = "retention", %before, events, "events past retention were deleted");
    }
}

/// The first moment of the day (UTC) on which the oldest events that stay arrived.
fn day_of(now: Timestamp, retention: Duration) -> Timestamp {
    let oldest = SignedDuration::try_from(retention).ok().and_then(|retention| now.checked_sub(retention).ok());
    let day = oldest.map(|oldest| oldest.to_zoned(TimeZone::UTC).date());
    let start = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok()).map(|zoned| zoned.timestamp());
    start.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_are_kept() {
        let days = |days: u64| Duration::from_hours(24 * days);
        for (now, retention, before) in [
            ("2026-11-23T07:30:00Z", days(35), "2026-10-19T00:00:00Z"),
            ("2026-11-23T00:00:00Z", days(400), "2025-10-19T00:00:00Z"),
            ("2026-11-23T00:00:00Z", days(30_000), "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(day_of(now.parse().unwrap(), retention).to_string(), before, "{now}");
        }
    }
}
