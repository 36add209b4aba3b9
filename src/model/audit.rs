//! What the audit holds: who changed what, from where, and how it looked before and after.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::admin::{AdminToken, Operator};
use super::client::Client;
use super::id::ClientId;
use super::key::ApiKey;
use super::operator::{Actor, ActorKind};
use super::plan::Plan;

/// On whose behalf a store is changed.
#[derive(Clone, Debug)]
pub struct Author {
    /// Who.
    pub actor: Arc<Actor>,
    /// By which request.
    pub request_id: Option<String>,
}

impl Author {
    /// Somebody, without a request.
    #[must_use]
    pub fn of(actor: Actor) -> Self {
        Self { actor: Arc::new(actor), request_id: None }
    }
}

/// A row of `audit`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// UUID v7: rises with time.
    pub id: Uuid,
    /// When.
    pub occurred_at: Timestamp,
    /// How the actor showed who it is.
    pub actor_kind: ActorKind,
    /// Its row; nil for shells and the gateway itself.
    pub actor_id: Uuid,
    /// Its name at that time.
    pub actor_name: String,
    /// From where.
    pub address: Option<IpAddr>,
    /// What was done, like `client.create`, `key.revoke`.
    pub action: String,
    /// To what kind of thing: `client`, `key`, `plan`, `operator`, `session`, `token`, `month`, `store`.
    pub subject_kind: String,
    /// Which one: an id, or a month; empty where there is no single one.
    pub subject_id: String,
    /// The client it belongs to.
    pub client_id: Option<ClientId>,
    /// How it looked before; none: it was not there. Never a hash, never a secret.
    pub before: Option<Value>,
    /// How it looked after; none: it is gone.
    pub after: Option<Value>,
    /// By which request.
    pub request_id: Option<String>,
}

impl AuditEntry {
    /// What a person looks for.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::between(self.before.as_ref(), self.after.as_ref())
    }
}

/// What is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The thing was made, or is gone: its name.
    Whole(String),
    /// Members that differ.
    Members(Vec<MemberChange>),
}

/// One member that differs, both sides as people read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    /// Its name.
    pub name: String,
    /// How it looked.
    pub before: String,
    /// How it looks.
    pub after: String,
}

impl Changes {
    /// Of a thing that looked and looks so; null is as good as not there.
    #[must_use]
    pub fn between(before: Option<&Value>, after: Option<&Value>) -> Self {
        let there = |value: Option<&'_ Value>| value.and_then(Value::as_object).cloned();
        let (Some(before), Some(after)) = (there(before), there(after)) else {
            let name = [after, before].into_iter().flatten().find_map(|value| value["name"].as_str());
            return Self::Whole(name.unwrap_or_default().to_owned());
        };
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        let members = after.keys().chain(gone).map(|name| (name, before.get(name), after.get(name)));
        let differing =
            members.filter(|(_, before, after)| before.unwrap_or(&Value::Null) != after.unwrap_or(&Value::Null));
        let tell = |(name, before, after): (&String, _, _)| MemberChange {
            name: name.clone(),
            before: plain(before),
            after: plain(after),
        };
        Self::Members(differing.map(tell).collect())
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(name) => out.write_str(name),
            Self::Members(members) => {
                for (place, MemberChange { name, before, after }) in members.iter().enumerate() {
                    let between = if place > 0 { ", " } else { "" };
                    write!(out, "{between}{name}: {before} → {after}")?;
                }
                Ok(())
            }
        }
    }
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Which rows of the audit.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only what belongs to this client.
    pub client: Option<ClientId>,
    /// Only what this actor did: its id or its name.
    pub actor: Option<String>,
    /// Only this action; one that ends in `.` stands for all that begin so (`key.`).
    pub action: Option<String>,
    /// Only what was done to this subject.
    pub subject: Option<String>,
    /// From then on.
    pub from: Option<Timestamp>,
    /// Before then.
    pub to: Option<Timestamp>,
}

/// A change, before it is a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// What was done.
    pub action: &'static str,
    /// To what kind of thing.
    pub subject_kind: &'static str,
    /// Which one.
    pub subject_id: String,
    /// The client it belongs to.
    pub client_id: Option<ClientId>,
    /// How it looked before.
    pub before: Option<Value>,
    /// How it looks now.
    pub after: Option<Value>,
}

impl Note {
    /// A change of a thing that the audit can show; none: nothing changed.
    #[must_use]
    pub fn of<T: Audited>(action: &'static str, before: Option<&T>, after: Option<&T>) -> Option<Self> {
        let subject = after.or(before)?;
        let (shown_before, shown_after) = (before.map(Audited::shown), after.map(Audited::shown));
        if shown_before == shown_after {
            return None;
        }
        Some(Self {
            action,
            subject_kind: T::KIND,
            subject_id: subject.subject_id(),
            client_id: subject.client_id(),
            before: shown_before,
            after: shown_after,
        })
    }

    /// Something that has neither before nor after.
    #[must_use]
    pub fn of_nothing(action: &'static str, subject_kind: &'static str) -> Self {
        Self { action, subject_kind, subject_id: String::new(), client_id: None, before: None, after: None }
    }

    /// Something that is no change of one row: a run over many.
    #[must_use]
    pub fn of_run(action: &'static str, subject_kind: &'static str, after: Value) -> Self {
        Self { after: Some(after), ..Self::of_nothing(action, subject_kind) }
    }
}

/// A thing whose changes are in the audit.
pub trait Audited {
    /// `audit.subject_kind`
    const KIND: &'static str;

    /// `audit.subject_id`
    fn subject_id(&self) -> String;

    /// The client it belongs to.
    fn client_id(&self) -> Option<ClientId>;

    /// What is shown of it: its columns, without hashes and without those that move by themselves.
    fn shown(&self) -> Value;
}

/// Columns that say when something moved, which the row of the audit says itself.
fn without(mut value: Value, names: &[&str]) -> Value {
    if let Some(object) = value.as_object_mut() {
        for name in names {
            object.remove(*name);
        }
    }
    value
}

fn value_of(thing: &impl Serialize) -> Value {
    serde_json::to_value(thing).unwrap_or_else(|_| Value::Object(Map::new()))
}

impl Audited for Client {
    const KIND: &'static str = "client";

    fn subject_id(&self) -> String {
        self.id.to_string()
    }

    fn client_id(&self) -> Option<ClientId> {
        Some(self.id)
    }

    fn shown(&self) -> Value {
        let mut shown = without(value_of(self), &["updated_at"]);
        shown["quota"] = json!(self.allowance.quota.as_ref().map(ToString::to_string));
        shown["concurrency"] = json!(self.allowance.concurrency);
        shown
    }
}

impl Audited for ApiKey {
    const KIND: &'static str = "key";

    fn subject_id(&self) -> String {
        self.id.to_string()
    }

    fn client_id(&self) -> Option<ClientId> {
        Some(self.client_id)
    }

    fn shown(&self) -> Value {
        without(value_of(self), &["last_used_at", "pepper_version", "hash_kind"])
    }
}

impl Audited for Plan {
    const KIND: &'static str = "plan";

    fn subject_id(&self) -> String {
        self.id.to_string()
    }

    fn client_id(&self) -> Option<ClientId> {
        None
    }

    fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "policies": value_of(&self.policies),
            "concurrency": self.concurrency,
            "created_at": self.created_at,
        })
    }
}

impl Audited for Operator {
    const KIND: &'static str = "operator";

    fn subject_id(&self) -> String {
        self.id.to_string()
    }

    fn client_id(&self) -> Option<ClientId> {
        None
    }

    fn shown(&self) -> Value {
        without(value_of(self), &["updated_at", "last_login_at"])
    }
}

impl Audited for AdminToken {
    const KIND: &'static str = "token";

    fn subject_id(&self) -> String {
        self.id.to_string()
    }

    /// A token for one client belongs to it.
    fn client_id(&self) -> Option<ClientId> {
        match self.clients.as_slice() {
            [client] => Some(*client),
            _ => None,
        }
    }

    fn shown(&self) -> Value {
        without(value_of(self), &["last_used_at"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_is_not_what_it_was() {
        for (before, after, told) in [
            (None, Some(json!({"name": "acme", "rate": null})), "acme"),
            (Some(json!({"name": "acme"})), None, "acme"),
            (Some(Value::Null), Some(json!({"name": "acme"})), "acme"),
            (None, None, ""),
            (
                Some(json!({"name": "acme", "rate": null, "scopes": ["a"], "gone": 1})),
                Some(json!({"name": "acme", "rate": "5/s", "scopes": ["a", "b"], "none": null})),
                "rate: – → 5/s, scopes: [\"a\"] → [\"a\",\"b\"], gone: 1 → –",
            ),
        ] {
            assert_eq!(Changes::between(before.as_ref(), after.as_ref()).to_string(), told);
        }
    }
}
