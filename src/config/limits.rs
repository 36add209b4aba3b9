//! `[limits.default]`

use crate::model::rate::RateLimit;

use std::num::NonZeroU32;

use toml::Table;

use super::reader::{Findings, Section};
use crate::model::rate::Rate;

/// Limits for clients without limits of their own.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// The policy named `default`.
    pub default: RateLimit,
}

impl LimitsConfig {
    /// Reads `[limits]`.
    pub(super) fn read(root: &mut Table, findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::take(root, "limits", findings);
        let mut inner = section.section("default");
        let rate: Rate = inner.parsed("rate", "100/s");
        let burst = inner.optional_number("burst", 1, u32::MAX);
        let mut effective = inner.close();
        let default = RateLimit::new(rate, burst.and_then(NonZeroU32::new));
        effective.insert("burst".to_owned(), i64::from(default.burst.get()).into());
        section.include("default", effective);
        (Self { default }, section.close())
    }
}
