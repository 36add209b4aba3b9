//! How a command fails: an exit code that scripts branch on, a code and a sentence.

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::output::Format;
use crate::app::StartError;
use crate::auth::{MintFault, PepperError};
use crate::config::{Problem, Problems};
use crate::model::causes::with_causes;
use crate::model::own_limit::InvalidLimit;
use crate::store::StoreError;

/// Exit codes (sysexits(3) above 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done. As a failure: whoever read our output has read enough.
    Done = 0,
    /// 1
    Failed = 1,
    /// 2: wrong usage.
    Usage = 2,
    /// 69: a dependency is down.
    Unavailable = 69,
    /// 78: bad configuration.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked. With `--output json` it is printed as it is here.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    #[serde(skip)]
    exit: Exit,
    code: Cow<'static, str>,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
}

impl Failure {
    /// A failure with its exit code, a word for scripts and a sentence for people. The sentence
    /// says what to do, where something can be done.
    pub fn new(exit: Exit, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { exit, code: code.into(), detail: detail.into(), problems: Vec::new() }
    }

    /// Something that was named is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "not_found", detail)
    }

    /// Arguments that are each fine and make no sense together.
    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "bad_usage", detail)
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The word for scripts.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Tells it where it is to be told.
    pub(super) fn report(&self, format: Format, to: &mut dyn Write) {
        if self.exit == Exit::Done {
            return;
        }
        // Nothing is left to be done if stderr is closed.
        let _ = match format {
            Format::Json => {
                let text = serde_json::to_string(self).unwrap_or_default();
                writeln!(to, "{text}")
            }
            Format::Table | Format::Csv => self.report_to_people(to),
        };
    }

    fn report_to_people(&self, to: &mut dyn Write) -> std::io::Result<()> {
        if self.problems.is_empty() {
            return writeln!(to, "octroi: {}", self.detail);
        }
        writeln!(to, "octroi: the configuration is not good")?;
        self.problems.iter().try_for_each(|problem| write_problem(problem, to))
    }
}

/// A problem as a person reads it: where, what, what to do.
pub(super) fn write_problem(problem: &Problem, to: &mut dyn Write) -> std::io::Result<()> {
    let path = if problem.path.is_empty() { "the file" } else { &problem.path };
    writeln!(to, "  {path}: {}", problem.message)?;
    writeln!(to, "      {}", problem.remedy)
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        let detail = problems.to_string().replace('\n', " · ");
        Self { problems: problems.0, ..Self::new(Exit::Configuration, "bad_configuration", detail) }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Problems::from(problem).into()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (exit, code) = match &error {
            StoreError::Unavailable { .. } => (Exit::Unavailable, "store_unavailable"),
            StoreError::Corrupt { .. } => (Exit::Failed, "store_corrupt"),
            StoreError::Conflict(_) => (Exit::Failed, "conflict"),
            StoreError::Changed => (Exit::Failed, "precondition_failed"),
            StoreError::Refused { .. } => (Exit::Failed, "store_refused"),
            StoreError::PastRetention { .. } => (Exit::Failed, "past_retention"),
        };
        Self::new(exit, code, with_causes(&error))
    }
}

impl From<InvalidLimit> for Failure {
    fn from(error: InvalidLimit) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<PepperError> for Failure {
    fn from(error: PepperError) -> Self {
        match error {
            PepperError::Mismatch | PepperError::Needed { .. } => {
                Self::new(Exit::Configuration, "wrong_pepper", error.to_string())
            }
            PepperError::Store(error) => error.into(),
        }
    }
}

impl From<MintFault> for Failure {
    fn from(fault: MintFault) -> Self {
        match fault {
            MintFault::Configuration(problem) => problem.into(),
            MintFault::Pepper(error) => error.into(),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Configuration(problem) => return problem.clone().into(),
            StartError::Pepper(_) | StartError::MigrationsPending { .. } => Exit::Configuration,
            StartError::StoreUnavailable(_) => Exit::Unavailable,
            StartError::Store(_)
            | StartError::Listen { .. }
            | StartError::Journal(_)
            | StartError::Runtime(_)
            | StartError::VitalTask => Exit::Failed,
        };
        Self::new(exit, error.code(), error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    /// Writing our answer failed. A reader that closed its end (`| head`) has read enough.
    fn from(error: std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Done } else { Exit::Failed };
        Self::new(exit, "output_failed", format!("the answer could not be written: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(failure: &Failure, format: Format) -> String {
        let mut text = Vec::new();
        failure.report(format, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn failures_of_the_store_have_their_exit_codes() {
        let source = || "connection refused".into();
        for (error, exit, code) in [
            (StoreError::Unavailable { operation: "find client", source: source() }, 69, "store_unavailable"),
            (StoreError::Refused { operation: "find client", source: source() }, 1, "store_refused"),
            (StoreError::Conflict("it is there".into()), 1, "conflict"),
            (StoreError::Corrupt { table: "clients", column: "rate", detail: "x".into() }, 1, "store_corrupt"),
        ] {
            let failure = Failure::from(error);
            assert_eq!((failure.exit() as u8, failure.code()), (exit, code));
        }
        let failure = Failure::from(StoreError::Unavailable { operation: "find client", source: source() });
        assert_eq!(failure.detail(), "the store is unavailable (find client): connection refused");
    }

    #[test]
    fn a_failure_is_an_object_for_programs_and_lines_for_people() {
        let failure = Failure::not_found("there is no client `acme`");
        assert_eq!(
            reported(&failure, Format::Json),
            "{\"code\":\"not_found\",\"detail\":\"there is no client `acme`\"}\n"
        );
        assert_eq!(reported(&failure, Format::Table), "octroi: there is no client `acme`\n");
        let failure = Failure::from(Problem::new("server.workers", "-1 is out of range", "write more"));
        assert_eq!(failure.exit(), Exit::Configuration);
        assert_eq!(failure.detail(), "server.workers: -1 is out of range; write more");
        let text = reported(&failure, Format::Csv);
        assert_eq!(
            text,
            "octroi: the configuration is not good\n  server.workers: -1 is out of range\n      write more\n"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::from(closed);
        assert_eq!(failure.exit(), Exit::Done);
        assert_eq!(reported(&failure, Format::Table), "");
        assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::StorageFull)).exit(), Exit::Failed);
    }
}
