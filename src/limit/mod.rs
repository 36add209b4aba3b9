//! Limits: whether a request may be afforded, and what its caller is told.
//!
//! Owns the rule "all policies or none" and the wire form of a policy's standing. The state of a
//! rate lies in `clients::limiter`, because it must outlive every cached principal.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::clients::limiter::Snapshot;
use crate::clients::{LiveClient, Principal};
use crate::model::clock::Monotonic;

mod headers;

/// What a request took from its policies.
#[derive(Debug)]
pub struct Charge {
    cost: NonZeroU32,
    charged: Option<(Arc<LiveClient>, Standing)>,
}

impl Charge {
    /// Gives the charge back: the request was not admitted after all.
    pub fn refund(self) {
        if let Some((client, _)) = self.charged
            && let Some((limiter, _)) = client.limiter()
        {
            limiter.give_back(self.cost);
        }
    }

    /// How the policy stood after the charge; none where no policy applied.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.charged.as_ref().map(|(_, standing)| *standing)
    }
}

/// A policy as the caller may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `default`, `client`, `key` or the plan's name.
    pub policy: &'static str,
    /// `q`: how much may be spent at once.
    pub burst: u32,
    /// `w`: seconds in which that comes back.
    pub window_seconds: u64,
    /// `r`: how much may be spent now.
    pub remaining: u32,
    /// `t`: seconds until the budget is full again.
    pub reset_seconds: u64,
}

impl Standing {
    fn of(policy: &'static str, snapshot: &Snapshot) -> Self {
        let nanos = snapshot.full_in.as_nanos();
        Self {
            policy,
            burst: snapshot.limit.burst.get(),
            window_seconds: snapshot.limit.window_seconds(),
            remaining: snapshot.remaining,
            reset_seconds: u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX),
        }
    }
}

/// Why nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The policy that refused, as it stands.
    pub standing: Standing,
    /// Whole seconds until the same cost fits, at least 1.
    pub retry_after_seconds: u64,
}

/// Charges `cost` units to every policy that applies, all or none.
pub fn charge(principal: &Principal, cost: NonZeroU32, now: Monotonic) -> Result<Charge, Exceeded> {
    let Some((limiter, source)) = principal.client.limiter() else {
        return Ok(Charge { cost, charged: None });
    };
    match limiter.check(cost, now) {
        Ok(snapshot) => {
            let standing = Standing::of(source.policy(), &snapshot);
            Ok(Charge { cost, charged: Some((Arc::clone(&principal.client), standing)) })
        }
        Err(refused) => {
            let mut standing = Standing::of(source.policy(), &refused.snapshot);
            // A cost that never fits is told the whole window: retrying sooner cannot help.
            let wait = refused
                .wait
                .map_or(u128::from(standing.window_seconds), |wait| wait.as_nanos().div_ceil(1_000_000_000));
            let retry_after_seconds = u64::try_from(wait).unwrap_or(u64::MAX).max(1);
            // `t` says when more quota is there, and `Retry-After` may not be earlier than it.
            standing.remaining = 0;
            standing.reset_seconds = retry_after_seconds;
            Err(Exceeded { standing, retry_after_seconds })
        }
    }
}
