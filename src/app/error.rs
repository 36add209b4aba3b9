//! Why the gateway did not start, and the exit code that says whose turn it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::auth::PepperMismatch;
use crate::config::Problem;
use crate::metering::JournalError;
use crate::store::StoreError;

/// The gateway could not start. Nothing was served and nothing was lost.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Configuration(Problem),
    /// The pepper is not the one the store was hashed with.
    #[error(transparent)]
    Pepper(#[from] PepperMismatch),
    /// The store's tables are older than this version.
    #[error("{pending} pending; run `octroi migrate up`, or set store.migrate = true")]
    MigrationsPending {
        /// Which, in words.
        pending: String,
    },
    /// The store cannot be reached.
    #[error("the store cannot be reached: {0}")]
    StoreUnavailable(String),
    /// The store answered, and not as it must.
    #[error("the store cannot be used: {0}")]
    Store(String),
    /// An address could not be taken.
    #[error("{setting}: cannot listen on {address}: {source}")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A folder could not be made.
    #[error("cannot make the folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A thread or runtime could not be made.
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A vital task ended while the gateway served.
    #[error("a vital task ended; the log says which")]
    VitalTask,
}

impl StartError {
    /// Exit code: 78 bad configuration, 69 a dependency is down, 1 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::Pepper(_) | Self::MigrationsPending { .. } => 78,
            Self::StoreUnavailable(_) => 69,
            Self::Store(_)
            | Self::Listen { .. }
            | Self::Journal(_)
            | Self::Folder { .. }
            | Self::Runtime(_)
            | Self::VitalTask => 1,
        }
    }

    /// A word for `--output json`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Configuration(_) => "configuration",
            Self::Pepper(_) => "pepper_mismatch",
            Self::MigrationsPending { .. } => "migrations_pending",
            Self::StoreUnavailable(_) => "store_unavailable",
            Self::Store(_) => "store_unusable",
            Self::Listen { .. } => "address_taken",
            Self::Journal(_) => "journal",
            Self::Folder { .. } => "folder",
            Self::Runtime(_) => "runtime",
            Self::VitalTask => "vital_task",
        }
    }
}

/// A store failure: away, or not as it must be.
pub(super) fn unusable(error: &StoreError) -> StartError {
    if error.is_transient() { StartError::StoreUnavailable(chain(error)) } else { StartError::Store(chain(error)) }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
