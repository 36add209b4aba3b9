//! The monthly partitions of `usage_events`.
//!
//! A month is a range of UUID v7, whose first 48 bits are milliseconds. Partitions are made
//! before a batch that needs them and two months ahead, so that a clock that runs ahead, or a
//! month that turns, never meets a missing one. One that retention dropped is not made again: its
//! rows were billed once, and are not taken in again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::pool::Lease;
use super::row::Columns;
use crate::model::usage::UsageEvent;
use crate::store::{Result, StoreError};

/// How many months after the newest event are made along with its own.
const AHEAD: usize = 2;

/// The months whose partitions are there, as far as this process knows.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeSet<Date>>);

impl Known {
    /// Makes the partitions that `events` need and that are not known yet.
    pub(super) async fn ensure(&self, lease: &mut Lease, events: &[UsageEvent]) -> Result<()> {
        let wanted = months(events)?;
        let missing: Vec<Date> = {
            // A short look, nothing awaited: the common case ends here.
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.difference(&known).copied().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        // What retention dropped is not made again.
        let mark = lease.row("SELECT before FROM usage_retention", &[]).await?;
        let mark: Option<Timestamp> =
            mark.map(|row| Columns::of("usage_retention", &row).take("before")).transpose()?;
        let dropped = mark.map(|mark| mark.to_zoned(TimeZone::UTC).date().first_of_month());
        for month in missing.into_iter().filter(|month| dropped.is_none_or(|dropped| *month >= dropped)) {
            lease.rows("SELECT octroi_make_usage_partition($1)", &[&month]).await?;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(month);
        }
        Ok(())
    }
}

fn months(events: &[UsageEvent]) -> Result<BTreeSet<Date>> {
    let mut months = BTreeSet::new();
    for event in events {
        months.insert(month_of(event.id.0).ok_or_else(|| StoreError::Refused {
            operation: "record usage",
            source: format!("the event id {} is not a UUID v7", event.id).into(),
        })?);
    }
    let mut newest = months.last().copied();
    for _ in 0..AHEAD {
        newest = newest.and_then(|month| month.last_of_month().tomorrow().ok());
        months.extend(newest);
    }
    Ok(months)
}

/// The first day of the month that an id was made in, UTC.
fn month_of(id: Uuid) -> Option<Date> {
    if id.get_version_num() != 7 {
        return None;
    }
    let milliseconds = i64::try_from(id.as_u128() >> 80).ok()?;
    let moment = Timestamp::from_millisecond(milliseconds).ok()?;
    Some(moment.to_zoned(TimeZone::UTC).date().first_of_month())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn an_id_names_its_month() {
        let at = |text: &str, tail: u128| {
            let milliseconds = u128::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap();
            Uuid::from_u128((milliseconds << 80) | (7 << 76) | (2 << 62) | tail)
        };
        for (id, month) in [
            (at("2026-11-30T23:59:59.999Z", 99), Some(date(2026, 11, 1))),
            (at("2026-12-01T00:00:00Z", 0), Some(date(2026, 12, 1))),
            (at("1970-01-01T00:00:00Z", 0), Some(date(1970, 1, 1))),
            (Uuid::from_u128((u128::from(u64::MAX) << 80) | (7 << 76) | (2 << 62)), None),
            (Uuid::from_u128((4 << 76) | (2 << 62)), None),
            (Uuid::nil(), None),
        ] {
            assert_eq!(month_of(id), month, "{id}");
        }
    }
}
