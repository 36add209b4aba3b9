//! When keys were last used, from the events of a batch: coarse, and never a write of its own for
//! a request.
//!
//! `api_keys.last_used_at` follows the drain: once a batch, and a row only when it would move by
//! more than [`STEP`]. It is a word to operators and no part of a bill, so a store that
//! cannot write it loses nothing else.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::model::usage::UsageEvent;

/// A row moves by at least this: a busy key is written once a minute, whatever its traffic.
pub(super) const STEP: SignedDuration = SignedDuration::from_mins(1);

/// The latest use of each key among `events`, by key, so that writers that meet go the same way.
pub(super) fn last_uses(events: &[UsageEvent]) -> BTreeMap<Uuid, Timestamp> {
    let mut uses = BTreeMap::new();
    for event in events {
        if let Some(key) = event.api_key_id.filter(|id| !id.is_nil()) {
            let last = uses.entry(key.0).or_insert(event.occurred_at);
            *last = event.occurred_at.max(*last);
        }
    }
    uses
}
