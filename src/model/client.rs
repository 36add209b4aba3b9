//! A client: the tenant, with keys, limits and a bill.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::id::ClientId;
use super::plan::{Allowed, Plan, PolicyMode};
use super::quota::Quota;
use super::rate::{Rate, RateLimit};

/// What the policy of a client's own quota is called: `client.day`, say.
#[must_use]
pub fn own_policy(quota: &Quota) -> String {
    format!("client.{}", quota.period.word())
}

/// A row of `clients`, without what only the store needs (hashes).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Client {
    /// `clients.id`
    pub id: ClientId,
    /// What people call it; not unique.
    pub name: String,
    /// Whether its credentials open anything.
    pub status: ClientStatus,
    /// Its own rate, else the default's.
    pub rate: Option<Rate>,
    /// Its own burst, else its rate's default.
    pub burst: Option<NonZeroU32>,
    /// The plan it is on.
    pub plan_id: Option<Uuid>,
    /// What else it may, besides its rate.
    #[serde(skip)]
    pub allowance: Allowance,
    /// Whatever its owner keeps with it: a JSON object.
    pub metadata: serde_json::Value,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Client {
    /// Whether its credentials open nothing.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.status == ClientStatus::Suspended
    }

    /// Whether its row is as it was when `read` was read. What its plan says is not its own.
    #[must_use]
    pub fn is_still(&self, read: &Self) -> bool {
        let own =
            |client: &Self| Self { allowance: Allowance { plan: None, ..client.allowance.clone() }, ..client.clone() };
        own(self) == own(read)
    }

    /// The quotas that it is held to, by the names of their policies: its plan's, and its own.
    pub fn enforced_quotas(&self) -> impl Iterator<Item = (Cow<'_, str>, &Quota)> {
        let own = self.allowance.quota.iter().map(|quota| (own_policy(quota).into(), quota));
        let plan = self.allowance.plan.iter().flat_map(|plan| plan.policies.iter());
        let enforced = plan.filter(|policy| policy.mode == PolicyMode::Enforce);
        let of_plan = enforced.filter_map(|policy| match &policy.allows {
            Allowed::Quota(quota) => Some((policy.name.as_str().into(), quota)),
            Allowed::Rate(_) => None,
        });
        of_plan.chain(own)
    }

    /// The limit of its own, if it has one. A burst alone means nothing.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.rate.map(|rate| RateLimit::new(rate, self.burst))
    }
}

/// What a name of a client or a key must be.
pub const NAME_RULE: &str = "write 1 to 200 characters, none of them a control character";

/// Whether it may be the name of a client or a key.
#[must_use]
pub fn is_legal_name(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 200 && !text.chars().any(char::is_control)
}

/// What a client may, besides its rate: its own, and its plan's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowance {
    /// `clients.quota`
    pub quota: Option<Quota>,
    /// `clients.concurrency`: how many requests it may have open at once.
    pub concurrency: Option<NonZeroU32>,
    /// The plan that `clients.plan_id` names.
    pub plan: Option<Arc<Plan>>,
}

/// Whether a client may call at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientStatus {
    /// It may.
    Active,
    /// It may not, until resumed: 403 `client_suspended`.
    Suspended,
}

impl ClientStatus {
    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    /// Reads the column; `None` when it holds something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "active" => Some(Self::Active),
            "suspended" => Some(Self::Suspended),
            _ => None,
        }
    }
}

/// What is needed to make a client; the store adds id and times.
#[derive(Clone, Debug)]
pub struct NewClient {
    /// Its name, 1-200 characters.
    pub name: String,
    /// Its own rate.
    pub rate: Option<Rate>,
    /// Its own burst.
    pub burst: Option<NonZeroU32>,
    /// Its plan.
    pub plan_id: Option<Uuid>,
    /// Its own quota.
    pub quota: Option<Quota>,
    /// How many requests it may have open at once.
    pub concurrency: Option<NonZeroU32>,
    /// A JSON object.
    pub metadata: serde_json::Value,
}

impl NewClient {
    /// One with the default limits.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rate: None,
            burst: None,
            plan_id: None,
            quota: None,
            concurrency: None,
            metadata: serde_json::json!({}),
        }
    }
}

/// A change to a client: each `Some` replaces, an inner `None` clears.
#[derive(Clone, Debug, Default)]
pub struct ClientChange {
    /// A new name.
    pub name: Option<String>,
    /// Suspend or resume.
    pub status: Option<ClientStatus>,
    /// A new rate, or back to the default.
    pub rate: Option<Option<Rate>>,
    /// A new burst, or back to the rate's default.
    pub burst: Option<Option<NonZeroU32>>,
    /// Another plan, or none.
    pub plan_id: Option<Option<Uuid>>,
    /// Another quota, or none.
    pub quota: Option<Option<Quota>>,
    /// Another number of requests at once, or any.
    pub concurrency: Option<Option<NonZeroU32>>,
    /// New metadata, whole.
    pub metadata: Option<serde_json::Value>,
    /// Only if the row is still as this one was read.
    pub only_if: Option<Box<Client>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_is_held_to_its_own_quota_and_to_those_that_its_plan_enforces() {
        let policies = json!([
            {"name": "gold", "rate": "5/s"},
            {"name": "gold.day", "quota": "10/day"},
            {"name": "gold.month", "quota": "100/month", "mode": "shadow"},
        ]);
        let plan = Plan {
            id: Uuid::nil(),
            name: "gold".to_owned(),
            policies: serde_json::from_value(policies).unwrap(),
            concurrency: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let client = Client {
            id: ClientId(Uuid::nil()),
            name: "acme".to_owned(),
            status: ClientStatus::Active,
            rate: None,
            burst: None,
            plan_id: Some(plan.id),
            allowance: Allowance { quota: "7/day".parse().ok(), concurrency: None, plan: Some(Arc::new(plan)) },
            metadata: json!({}),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let held: Vec<_> = client.enforced_quotas().map(|(name, quota)| format!("{name} {quota}")).collect();
        assert_eq!(held, ["gold.day 10/day", "client.day 7/day"]);
    }
}
