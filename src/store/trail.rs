//! Who holds a store's handle, and rows of the audit made of notes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;

use crate::model::audit::{AuditEntry, Author, Note};
use crate::model::client::{Client, ClientStatus};
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::event_id::EventIdGenerator;
use crate::model::key::ImportedKey;
use crate::model::month::Month;
use crate::model::operator::Actor;

/// What a handle writes the audit with.
#[derive(Clone)]
pub(super) struct Pen {
    author: Author,
    /// One for all handles of a store: rows of one process are in the order in which they were written.
    ids: Arc<Mutex<EventIdGenerator>>,
    clock: SharedClock,
}

impl Pen {
    /// That of a handle of which nobody said for whom it is.
    pub(super) fn of_system() -> Self {
        let ids = Arc::new(Mutex::new(EventIdGenerator::new()));
        Self { author: Author::of(Actor::system()), ids, clock: SystemClock::shared() }
    }

    /// The same in another's hand.
    pub(super) fn held_by(&self, author: Author) -> Self {
        Self { author, ids: Arc::clone(&self.ids), clock: Arc::clone(&self.clock) }
    }

    /// A row of the audit.
    pub(super) fn entry(&self, note: Note) -> AuditEntry {
        let occurred_at = self.clock.wall();
        // A short section: an id is made, nothing is awaited.
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(occurred_at);
        let actor = &self.author.actor;
        AuditEntry {
            id: id.0,
            occurred_at,
            actor_kind: actor.kind,
            actor_id: actor.id,
            actor_name: actor.name.clone(),
            address: actor.address,
            action: note.action.to_owned(),
            subject_kind: note.subject_kind.to_owned(),
            subject_id: note.subject_id,
            client_id: note.client_id,
            before: note.before,
            after: note.after,
            request_id: self.author.request_id.clone(),
        }
    }
}

/// What the audit is told of a change to a client.
pub(super) fn client_note(before: &Client, after: Option<&Client>) -> Option<Note> {
    let action = match (before.status, after?.status) {
        (ClientStatus::Active, ClientStatus::Suspended) => "client.suspend",
        (ClientStatus::Suspended, ClientStatus::Active) => "client.resume",
        _ => "client.update",
    };
    Note::of(action, Some(before), after)
}

/// What the audit is told of keys that were made elsewhere: one row, however many there are.
pub(super) fn import_note(keys: &[ImportedKey]) -> Note {
    let clients: BTreeSet<_> = keys.iter().map(|key| key.client_id).collect();
    Note::of_run("key.import", "key", json!({ "keys": keys.len(), "clients": clients.len() }))
}

/// What the audit is told of a month that was closed.
pub(super) fn month_note(month: Month, without: &[String]) -> Note {
    Note { subject_id: month.to_string(), ..Note::of_run("month.close", "month", json!({ "without": without })) }
}

/// What the audit is told of hours whose sums were made anew; none: of no hour.
pub(super) fn rebuild_note(hours: &[Timestamp]) -> Option<Note> {
    let (first, last) = (hours.iter().min()?, hours.iter().max()?);
    Some(Note::of_run("usage.rebuild", "store", json!({ "hours": hours.len(), "first": first, "last": last })))
}
