//! Spending: what a request costs, from every policy that applies, all or none.
//!
//! The limiters live in the client ([`crate::clients`]); this module knows which of them a
//! request is charged to, takes back what was taken when a later one refuses, and writes what
//! callers are told. Refusals cost nothing.
//!
//! Three kinds of policy: a place among the requests at once, rates, and quotas of the calendar.
//! They are taken in this order, the cheapest to give back first. A policy in the shadow is charged
//! as far as it goes and never refuses.
//!
//! To add a rate: a [`PolicyName`](crate::clients::limiter::PolicyName), its limiter in the live
//! client or the principal, and a place in `limiters`. Charging, refunding and the header fields
//! take as many as there are.
//!
//! `charge` takes and gives back, `standing` says how policies stand, `overview` and `headers` tell
//! callers, `keeper` reads the ledger, `replay` asks recorded requests under another plan.
//!
//! Refuses to know why a limit is what it is, and what a refusal looks like on the wire.

mod charge;
mod headers;
mod keeper;
mod overview;
mod replay;
mod standing;

use std::borrow::Cow;

use jiff::Timestamp;

pub use charge::{Charge, charge, observe};
pub use headers::Standing;
pub use keeper::{MarkListener, QuotaKeeper};
pub use overview::{Overview, overview};
pub use replay::{HourRefusals, PolicyRefusals, Refusal, ReplayFault, ReplayReport, Trial, replay};
pub use standing::{PolicyStanding, policies, standing};

use crate::clients::Principal;
use crate::model::clock::Monotonic;

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// From rates.
    pub rate: u32,
    /// From quotas: the event's units.
    pub units: u32,
}

impl Cost {
    /// A request like any other.
    pub const ONE: Self = Self { rate: 1, units: 1 };
}

/// When a request arrived, and when it is charged.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// When it arrived: the event's `occurred_at`, which says in which window of a quota it counts.
    pub arrived: Timestamp,
    /// Now.
    pub now: Monotonic,
}

/// Which kind of policy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededKind {
    /// Too fast.
    Rate,
    /// Too much.
    Quota,
    /// Too many at once.
    Concurrency,
}

/// Why nothing was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// What kind of policy refused.
    pub what: ExceededKind,
    /// The policy that refused.
    pub policy: Cow<'static, str>,
    /// All policies as they stand.
    pub standing: Standing,
    /// Whole seconds until the same cost fits, at least 1 and never before `t`.
    pub retry_after_seconds: u64,
}

/// Whether what is used of every quota is known; until then nothing may be charged. Only a client
/// that was just looked up for the first time, or got another plan, ever waits.
///
/// # Errors
/// The ledger could not be read in time.
pub async fn quotas_read(principal: &Principal) -> Result<(), QuotasUnknown> {
    let terms = principal.client.terms();
    if terms.are_read() {
        return Ok(());
    }
    let read = async {
        for quotas in &terms.quotas {
            quotas.counter.read().await;
        }
    };
    tokio::time::timeout(READ_PATIENCE, read).await.map_err(|_elapsed| QuotasUnknown)
}

/// What a client has used cannot be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the client has used of its quotas could not be read")]
pub struct QuotasUnknown;

/// How long a request waits for the ledger.
const READ_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests;
