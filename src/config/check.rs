//! A place in the configuration, and the questions every section asks of its values.
//!
//! A question that is answered badly notes the problem and gives a stand-in, so that the next
//! value is looked at too. Stand-ins never leave [`super::load`]: with a problem there is no
//! configuration.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::Problem;
use super::units::{self, DURATION_FORM, SIZE_FORM};

/// Problems found so far; shared by the checks of all sections.
#[derive(Default)]
pub(super) struct Findings(RefCell<Vec<Problem>>);

impl Findings {
    /// Notes a problem. The first at a path is the cause; what follows from it is not repeated.
    pub(super) fn add(&self, problem: Problem) {
        let mut problems = self.0.borrow_mut();
        if problem.path.is_empty() || problems.iter().all(|known| known.path != problem.path) {
            problems.push(problem);
        }
    }

    /// Whether something is known to be wrong at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.borrow().iter().any(|known| known.path == path)
    }

    /// All of them.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// Whether a duration or size of nothing makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    Allowed,
    Refused,
}

/// A table of the configuration under examination.
pub(super) struct Check<'f> {
    findings: &'f Findings,
    path: String,
    data_dir: &'f Path,
}

impl<'f> Check<'f> {
    /// The whole file. Relative paths start at `data_dir`.
    pub(super) fn root(findings: &'f Findings, data_dir: &'f Path) -> Self {
        Self { findings, path: String::new(), data_dir }
    }

    /// The table `key` of this one.
    pub(super) fn below(&self, key: &str) -> Self {
        Self { findings: self.findings, path: self.path_of(key), data_dir: self.data_dir }
    }

    /// The path of a setting in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether something is known to be wrong with a setting.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        self.findings.has(&self.path_of(key))
    }

    /// Notes a problem with a setting.
    pub(super) fn refuse(&self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.add(Problem::new(self.path_of(key), message, remedy));
    }

    /// A duration.
    pub(super) fn duration(&self, key: &str, text: &str, zero: Zero) -> Duration {
        let Some(duration) = units::parse_duration(text) else {
            self.refuse(key, format!("`{text}` is not a duration"), format!("write {DURATION_FORM}"));
            return Duration::ZERO;
        };
        if duration.is_zero() && zero == Zero::Refused {
            self.refuse(key, "nothing would have time to happen in no time", "write a duration above zero");
        }
        duration
    }

    /// A size in bytes, within a range that `range_text` describes.
    pub(super) fn size(&self, key: &str, text: &str, range: RangeInclusive<u64>, range_text: &str) -> u64 {
        let Some(size) = units::parse_size(text) else {
            self.refuse(key, format!("`{text}` is not a size"), format!("write {SIZE_FORM}"));
            return 0;
        };
        if !range.contains(&size) {
            self.refuse(key, format!("`{text}` is out of range"), format!("write a size {range_text}"));
        }
        size
    }

    /// A size in bytes where zero stands for no limit.
    pub(super) fn size_or_none(&self, key: &str, text: &str) -> Option<u64> {
        let size = self.size(key, text, 0..=u64::MAX, "");
        (size > 0).then_some(size)
    }

    /// A whole number within a range.
    pub(super) fn count(&self, key: &str, value: i64, range: RangeInclusive<u32>) -> u32 {
        match u32::try_from(value) {
            Ok(count) if range.contains(&count) => count,
            _ => {
                let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
                self.refuse(key, format!("{value} is out of range"), remedy);
                *range.start()
            }
        }
    }

    /// One of a closed set of words.
    pub(super) fn choice<T: Copy>(&self, key: &str, text: &str, words: &[(&str, T)]) -> T {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.refuse(key, format!("`{text}` is not known here"), format!("write one of {}", known.join(", ")));
        words[0].1
    }

    /// An address to listen on.
    pub(super) fn address(&self, key: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            self.refuse(
                key,
                format!("`{text}` is not an address to listen on"),
                "write an IP address and a port, like \"0.0.0.0:8080\" or \"[::1]:8080\"",
            );
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// A path; a relative one starts at the data folder.
    pub(super) fn place(&self, text: &str) -> PathBuf {
        self.data_dir.join(text)
    }

    /// A name that labels, events and people carry.
    pub(super) fn name(&self, key: &str, text: &str) {
        if text.is_empty() || text.chars().count() > 128 || text.chars().any(char::is_control) {
            self.refuse(
                key,
                if text.is_empty() { "a name is missing" } else { "this is no name" },
                "write 1 to 128 characters, none of them a control character",
            );
        }
    }
}
