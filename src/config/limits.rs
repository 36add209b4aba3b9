//! `[limits.default]`

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::check::Check;
use crate::model::own_limit::{REFILL_TOO_LONG, refills_within_a_year};
use crate::model::rate::{Rate, RateLimit, RateUnit};

/// What a rate looks like, for remedies.
pub(super) const RATE_FORM: &str = "write a whole number and a unit, like \"100/s\" (units: s, m, h, d)";

/// The largest burst: as many as the largest rate has in a second.
const MAX_BURST: u32 = Rate::MAX_COUNT;

/// Limits for clients without limits of their own.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// The policy named `default`.
    pub default: RateLimit,
    /// Whether rates are charged what a request costs, and not one for each.
    pub by_cost: bool,
}

/// `[limits]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) charge: String,
    pub(super) default: RawRateLimit,
}

impl Default for RawLimits {
    fn default() -> Self {
        // Rates protect what stands behind from bursts of requests; what they cost is a bill's business.
        Self { charge: "requests".to_owned(), default: RawRateLimit::default() }
    }
}

/// `[limits.default]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRateLimit {
    pub(super) rate: String,
    /// None: one second's worth of the rate, at least 1.
    pub(super) burst: Option<i64>,
}

impl Default for RawRateLimit {
    fn default() -> Self {
        // Enough for a service that talks to another, too little to drown one.
        Self { rate: "100/s".to_owned(), burst: None }
    }
}

impl RawLimits {
    pub(super) fn resolve(&self, check: &Check<'_>) -> LimitsConfig {
        let by_cost = check.choice("charge", &self.charge, &[("requests", false), ("cost", true)]);
        let check = check.below("default");
        let burst = self.default.burst.and_then(|burst| burst_of(&check, burst));
        let default = RateLimit::new(rate_of(&check, &self.default.rate), burst);
        if !refills_within_a_year(default) && !check.has_problem("rate") {
            check.refuse("burst", REFILL_TOO_LONG, "write a smaller burst or a higher rate");
        }
        LimitsConfig { default, by_cost }
    }
}

/// The setting `rate` of a table.
pub(super) fn rate_of(check: &Check<'_>, text: &str) -> Rate {
    let rate = text.parse::<Rate>().ok();
    rate.unwrap_or_else(|| {
        check.refuse("rate", format!("`{text}` is not a rate"), RATE_FORM);
        Rate::new(NonZeroU32::MIN, RateUnit::Second)
    })
}

/// The setting `burst` of a table.
pub(super) fn burst_of(check: &Check<'_>, burst: i64) -> Option<NonZeroU32> {
    NonZeroU32::new(check.count("burst", burst, 1..=MAX_BURST))
}
