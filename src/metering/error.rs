//! Why a journal could not be opened: each with what to do about it.

use std::io;
use std::path::PathBuf;

use super::segment::SLOTS_MIN;
use super::shared::is_full;

/// Why the journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// `metering.segment_bytes` leaves no room for entries behind the names of the routes.
    #[error(
        "metering.segment_bytes = {segment_bytes} holds fewer than {SLOTS_MIN} entries behind the routes' names; raise it"
    )]
    SegmentTooSmall {
        /// The setting.
        segment_bytes: u64,
    },
    /// `metering.max_bytes` is less than the first segments take.
    #[error(
        "metering.max_bytes = {max_bytes} is less than the journal's first segments take ({needed} bytes); raise it, or lower metering.segment_bytes"
    )]
    BoundTooLow {
        /// The setting.
        max_bytes: u64,
        /// What the first segments of all workers take.
        needed: u64,
    },
    /// The folder could not be made or held.
    #[error("the journal's folder in {} could not be made ({source}); metering.dir must be on a local disk that this user may write to", dir.display())]
    Folder {
        /// `metering.dir`
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk has no room for the first segments.
    #[error("the disk has no room for the journal's first segments ({needed} bytes in {}); free some, or lower metering.segment_bytes", folder.display())]
    NoRoom {
        /// Where they were to be.
        folder: PathBuf,
        /// What the first segments of all workers take.
        needed: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The first segments could not be made, for another reason.
    #[error("the journal's first segments could not be made in {} ({source})", folder.display())]
    Segment {
        /// The process's folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl JournalError {
    /// The process's folder could not be made in this one.
    pub(super) fn no_folder(dir: PathBuf, needed: u64, source: io::Error) -> Self {
        if is_full(&source) { Self::NoRoom { folder: dir, needed, source } } else { Self::Folder { dir, source } }
    }

    /// The first segments could not be made in this folder.
    pub(super) fn no_first_segments(folder: PathBuf, needed: u64, source: io::Error) -> Self {
        if is_full(&source) { Self::NoRoom { folder, needed, source } } else { Self::Segment { folder, source } }
    }
}
