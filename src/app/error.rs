//! Why the gateway did not start.

use thiserror::Error;

use crate::auth::PepperError;
use crate::config::Problem;
use crate::metering::JournalError;
use crate::model::causes::with_causes;
use crate::store::StoreError;

/// The gateway could not start. Nothing was served and nothing was lost.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Configuration(Problem),
    /// The pepper is not the one the store was hashed with.
    #[error(transparent)]
    Pepper(PepperError),
    /// The store's tables are older than this version.
    #[error(
        "{pending} pending; run `octroi migrate up`, or set store.migrate = true, which `octroi serve` obeys when it starts"
    )]
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
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A thread or runtime could not be made.
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A vital task ended while the gateway served.
    #[error("a vital task ended; the log says which")]
    VitalTask,
}

impl StartError {
    /// A word for `--output json`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Configuration(_) => "bad_configuration",
            Self::Pepper(_) => "wrong_pepper",
            Self::MigrationsPending { .. } => "migrations_pending",
            Self::StoreUnavailable(_) => "store_unavailable",
            Self::Store(_) => "store_unusable",
            Self::Listen { .. } => "cannot_listen",
            Self::Journal(_) => "journal",
            Self::Runtime(_) => "runtime",
            Self::VitalTask => "vital_task",
        }
    }
}

impl From<PepperError> for StartError {
    fn from(error: PepperError) -> Self {
        match error {
            PepperError::Store(error) => unusable(&error),
            PepperError::Mismatch | PepperError::Needed { .. } => Self::Pepper(error),
        }
    }
}

/// A store failure: away, or not as it must be.
pub(super) fn unusable(error: &StoreError) -> StartError {
    if error.is_transient() {
        StartError::StoreUnavailable(with_causes(error))
    } else {
        StartError::Store(with_causes(error))
    }
}
