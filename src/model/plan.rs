//! A plan: limits that many clients have in common.

use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::quota::Quota;
use super::rate::{Rate, RateLimit};

/// A row of `plans`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `plans.id`
    pub id: Uuid,
    /// What people call it; unique.
    pub name: String,
    /// What it allows.
    pub policies: Policies,
    /// How many requests each of its clients may have open at once.
    pub concurrency: Option<NonZeroU32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What a plan allows: a list that was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<PlanPolicy>", into = "Vec<PlanPolicy>")]
pub struct Policies(Vec<PlanPolicy>);

/// One policy of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPolicy", into = "RawPolicy")]
pub struct PlanPolicy {
    /// What callers see: 1-40 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// What it allows.
    pub allows: Allowed,
    /// What it does about more.
    pub mode: PolicyMode,
}

/// What a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// So much in any moment.
    Rate(RateLimit),
    /// So much in each window of the calendar.
    Quota(Quota),
}

/// What a policy does about more than it allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Refuses it.
    #[default]
    Enforce,
    /// Counts it and lets it pass.
    Shadow,
}

impl PolicyMode {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// The JSON of a policy.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
    #[serde(default)]
    mode: PolicyMode,
}

/// Policies that no plan can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidPolicy {
    /// See the text.
    #[error("`{0}` is no name of a policy; write 1 to 40 of letters, digits, `.`, `_` and `-`")]
    Name(String),
    /// See the text.
    #[error("`{0}` is a name of Octroi's own; choose another")]
    Reserved(String),
    /// See the text.
    #[error("two policies are named `{0}`")]
    Twice(String),
    /// See the text.
    #[error("the policy `{0}` needs either a rate or a quota; a burst goes with a rate")]
    Shape(String),
    /// See the text.
    #[error("a plan has at most {} rates and {} quotas", Policies::MOST_RATES, Policies::MOST_QUOTAS)]
    TooMany,
}

/// Names that callers see of limits that are no plan's.
const RESERVED: [&str; 5] = ["default", "client", "key", "concurrency", "none"];

impl Policies {
    /// A request is charged to all of them, and each costs it a step.
    pub const MOST_RATES: usize = 3;
    /// See [`Self::MOST_RATES`].
    pub const MOST_QUOTAS: usize = 4;

    /// Checks a list.
    ///
    /// # Errors
    /// See [`InvalidPolicy`].
    pub fn new(policies: Vec<PlanPolicy>) -> Result<Self, InvalidPolicy> {
        for (place, policy) in policies.iter().enumerate() {
            if policies[..place].iter().any(|other| other.name == policy.name) {
                return Err(InvalidPolicy::Twice(policy.name.clone()));
            }
        }
        let rates = policies.iter().filter(|policy| matches!(policy.allows, Allowed::Rate(_))).count();
        if rates > Self::MOST_RATES || policies.len() - rates > Self::MOST_QUOTAS {
            return Err(InvalidPolicy::TooMany);
        }
        Ok(Self(policies))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &PlanPolicy> {
        self.0.iter()
    }
}

impl TryFrom<Vec<PlanPolicy>> for Policies {
    type Error = InvalidPolicy;

    fn try_from(policies: Vec<PlanPolicy>) -> Result<Self, InvalidPolicy> {
        Self::new(policies)
    }
}

impl From<Policies> for Vec<PlanPolicy> {
    fn from(policies: Policies) -> Self {
        policies.0
    }
}

/// Whether callers can be told of a policy, or a plan, by this name.
///
/// # Errors
/// They cannot.
pub fn check_name(name: &str) -> Result<(), InvalidPolicy> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 40 || !name.bytes().all(legal) {
        return Err(InvalidPolicy::Name(name.chars().take(64).collect()));
    }
    if RESERVED.contains(&name) || name.starts_with("client.") {
        return Err(InvalidPolicy::Reserved(name.to_owned()));
    }
    Ok(())
}

impl TryFrom<RawPolicy> for PlanPolicy {
    type Error = InvalidPolicy;

    fn try_from(raw: RawPolicy) -> Result<Self, InvalidPolicy> {
        check_name(&raw.name)?;
        let allows = match (raw.rate, raw.burst, raw.quota) {
            (Some(rate), burst, None) => Allowed::Rate(RateLimit::new(rate, burst)),
            (None, None, Some(quota)) => Allowed::Quota(quota),
            _ => return Err(InvalidPolicy::Shape(raw.name)),
        };
        Ok(Self { name: raw.name, allows, mode: raw.mode })
    }
}

impl From<PlanPolicy> for RawPolicy {
    fn from(policy: PlanPolicy) -> Self {
        let (rate, burst, quota) = match policy.allows {
            Allowed::Rate(limit) => (Some(limit.rate), Some(limit.burst), None),
            Allowed::Quota(quota) => (None, None, Some(quota)),
        };
        Self { name: policy.name, rate, burst, quota, mode: policy.mode }
    }
}

/// What is needed to make a plan; the store adds id and times.
#[derive(Clone, Debug)]
pub struct NewPlan {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub policies: Policies,
    /// How many requests at once.
    pub concurrency: Option<NonZeroU32>,
}

/// A change to a plan: each `Some` replaces, an inner `None` clears.
#[derive(Clone, Debug, Default)]
pub struct PlanChange {
    /// A new name.
    pub name: Option<String>,
    /// Other policies, whole.
    pub policies: Option<Policies>,
    /// Another number of requests at once.
    pub concurrency: Option<Option<NonZeroU32>>,
    /// Only if the row is still as this one was read.
    pub only_if: Option<Box<Plan>>,
}

/// A mark of a quota that a client has reached: a row of `quota_marks`, written once for each
/// client, policy, window and mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaMark {
    /// Whose.
    pub client_id: super::id::ClientId,
    /// Of which policy, as callers see it.
    pub policy: String,
    /// In the window that began here.
    pub window_start: Timestamp,
    /// And ends here.
    pub window_end: Timestamp,
    /// The mark: 80 or 100 percent.
    pub percent: u8,
    /// The quota.
    pub quota: u64,
    /// How much of it was used when the mark was seen.
    pub used: u64,
    /// What the policy does about it.
    pub mode: PolicyMode,
    /// When that was.
    pub reached_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_json_and_are_checked() {
        let text = r#"[{"name":"gold","rate":"10/s","burst":20,"mode":"enforce"},{"name":"gold.month","quota":"5/month@15","mode":"shadow"}]"#;
        let policies: Policies = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&policies).unwrap(), text);
        for (text, wrong) in [
            (r#"[{"name":"a"}]"#, "needs either"),
            (r#"[{"name":"a","rate":"1/s","quota":"1/day"}]"#, "needs either"),
            (r#"[{"name":"a","quota":"1/day","burst":1}]"#, "needs either"),
            (r#"[{"name":"a b","rate":"1/s"}]"#, "no name"),
            (r#"[{"name":"default","rate":"1/s"}]"#, "Octroi's own"),
            (r#"[{"name":"client.day","quota":"1/day"}]"#, "Octroi's own"),
            (r#"[{"name":"a","rate":"1/s"},{"name":"a","quota":"1/day"}]"#, "two policies"),
            (r#"[{"name":"a","rate":"1/s","modus":"shadow"}]"#, "unknown field"),
            (
                r#"[{"name":"a","rate":"1/s"},{"name":"b","rate":"1/s"},{"name":"c","rate":"1/s"},{"name":"d","rate":"1/s"}]"#,
                "at most 3 rates",
            ),
        ] {
            let error = serde_json::from_str::<Policies>(text).unwrap_err().to_string();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
