//! What a command that failed says, and with which exit code.

use crate::app::StartError;
use crate::auth::PepperMismatch;
use crate::config::{Problem, Problems};
use crate::store::StoreError;

/// A command's failure: an exit code, a word for programs, a sentence for people.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit_code: u8,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

/// Failed.
const FAILED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// A dependency is down.
const UNAVAILABLE: u8 = 69;
/// Bad configuration.
const CONFIGURATION: u8 = 78;

impl Failure {
    /// The command was asked for something that is not so.
    pub(super) fn failed(code: &'static str, detail: impl Into<String>) -> Self {
        Self { exit_code: FAILED, code, detail: detail.into() }
    }

    /// The command line is wrong.
    pub(super) fn usage(detail: impl Into<String>) -> Self {
        Self { exit_code: USAGE, code: "usage", detail: detail.into() }
    }

    /// The configuration, or what it points to, is wrong.
    pub(super) fn configuration(code: &'static str, detail: impl Into<String>) -> Self {
        Self { exit_code: CONFIGURATION, code, detail: detail.into() }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::configuration("configuration", problems.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::configuration("configuration", problem.to_string())
    }
}

impl From<PepperMismatch> for Failure {
    fn from(mismatch: PepperMismatch) -> Self {
        Self::configuration("pepper_mismatch", mismatch.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let detail = chain(&error);
        match error {
            StoreError::Unavailable { .. } => Self { exit_code: UNAVAILABLE, code: "store_unavailable", detail },
            StoreError::Conflict(_) => Self::failed("conflict", detail),
            StoreError::Corrupt { .. } => Self::failed("corrupt", detail),
            StoreError::Refused { .. } => Self::failed("store_refused", detail),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self { exit_code: error.exit_code(), code: error.code(), detail: error.to_string() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed("failed", format!("{error:#}"))
    }
}
