//! What a client may know of its own limits: what `GET /.octroi/usage` answers.
//!
//! Read from the counters that enforce, so that nobody is told one thing and refused by another.
//! Policies in the shadow refuse nobody and are not told.

use jiff::Timestamp;
use serde::Serialize;

use super::charge::limiters;
use super::standing::{rate_name, standing, whole_seconds};
use super::{Exceeded, ExceededKind, When};
use crate::clients::Principal;
use crate::model::id::ClientId;

/// The limits of a client and how they stand.
#[derive(Debug, Serialize)]
pub struct Overview {
    client_id: ClientId,
    at: Timestamp,
    limits: Vec<LimitView>,
}

/// One limit.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum LimitView {
    Rate {
        policy: String,
        rate: String,
        burst: u32,
        remaining: u32,
        /// Seconds until there is more.
        reset: u64,
    },
    Quota {
        policy: String,
        quota: u64,
        used: u64,
        remaining: u64,
        window_start: Timestamp,
        window_end: Timestamp,
    },
    Concurrency {
        most: u32,
        open: u32,
    },
}

/// How a client's limits stand. Costs nothing; asked too often, it is refused.
///
/// # Errors
/// It was asked too often.
pub fn overview(principal: &Principal, when: When) -> Result<Overview, Exceeded> {
    let (client, terms) = (&principal.client, principal.client.terms());
    if let Err(refusal) = client.looks().check(1, when.now) {
        return Err(Exceeded {
            what: ExceededKind::Rate,
            policy: "usage".into(),
            standing: standing(principal, &terms, when),
            retry_after_seconds: whole_seconds(refusal.wait).max(1),
        });
    }
    let rates = limiters(client, principal.key_limiter.as_deref(), &terms);
    let rates = rates.into_iter().enumerate().filter_map(|(place, limiter)| {
        let snapshot = limiter?.check(0, when.now).ok()?.snapshot;
        Some(LimitView::Rate {
            policy: rate_name(&terms, place, &snapshot)?.to_owned(),
            rate: snapshot.policy.limit.rate.to_string(),
            burst: snapshot.policy.limit.burst.get(),
            remaining: snapshot.remaining,
            reset: whole_seconds(snapshot.reset),
        })
    });
    let quotas = terms.quotas.iter().filter_map(|quotas| {
        let (span, limit) = (quotas.counter.span(when.arrived)?, quotas.enforced()?);
        Some(LimitView::Quota {
            policy: limit.name.to_string(),
            quota: limit.units,
            used: span.used(),
            remaining: limit.units.saturating_sub(span.used()),
            window_start: span.window.start,
            window_end: span.window.end,
        })
    });
    let at_once = terms.concurrency.map(|most| LimitView::Concurrency { most, open: client.open_requests() });
    Ok(Overview { client_id: client.id, at: when.arrived, limits: rates.chain(quotas).chain(at_once).collect() })
}
