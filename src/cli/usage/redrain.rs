//! `octroi usage redrain`: what this machine still has is sent again.

use std::io::Write;

use crate::cli::open::open;
use crate::cli::output::{self, Row};
use crate::cli::{Context, Exit, Failure};
use crate::metering::{self, RedrainError};

/// Sends it and says what was missing.
///
/// # Errors
/// The journals cannot be read; the store is away or refuses.
pub(super) async fn run(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let mark = store.audit.retention_mark().await?;
    let redrained = metering::redrain(&loaded.config.metering.dir, store.usage.as_ref(), mark).await;
    let redrained = redrained.map_err(|error| match error {
        RedrainError::Store(error) => error.into(),
        RedrainError::Disk(_) => Failure::new(Exit::Failed, "journal_unreadable", error.to_string()),
    })?;
    let row = Row::new()
        .with("segments", redrained.segments)
        .with("events", redrained.events)
        .with("restored", redrained.restored)
        .with("past_retention", redrained.past_retention)
        .with("unreadable_segments", redrained.unreadable);
    Ok(output::write_object(&row, context.format, out)?)
}
