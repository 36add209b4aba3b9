//! What is shown of clients, keys, plans and the rest: the JSON of the admin API, which has the names
//! and forms of `octroi --output json`.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::model::admin::{AdminToken, Operator, Session};
use crate::model::audit::AuditEntry;
use crate::model::client::Client;
use crate::model::key::ApiKey;
use crate::model::plan::Plan;
use crate::store::Page;
use crate::store::events::EventRow;

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed<T> {
    /// The rows.
    pub(super) items: Vec<T>,
    /// What to give as `after` for those that follow; null at the end.
    #[schema(required)]
    pub(super) next: Option<String>,
}

impl<T> Listed<T> {
    /// A page of a store, as what is shown; `id` names the cursor of a row.
    pub(super) fn of<R>(page: &Page<R>, id: impl Fn(&R) -> String, show: impl Fn(&R) -> T) -> Self {
        let next = page.items.last().filter(|_| page.more).map(id);
        Self { items: page.items.iter().map(show).collect(), next }
    }

    /// All that there is.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// A client: the customer that has keys, limits and a bill.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ClientView {
    pub(super) id: Uuid,
    /// What people call it; not unique.
    pub(super) name: String,
    /// `active` or `suspended`.
    #[schema(pattern = "^(active|suspended)$")]
    pub(super) status: &'static str,
    /// A rate of its own, like `100/s`; null: its plan's, or that of `[limits.default]`.
    #[schema(required)]
    pub(super) rate: Option<String>,
    /// How much of its rate may be spent at once.
    #[schema(required)]
    pub(super) burst: Option<u32>,
    /// The plan it is on.
    #[schema(required)]
    pub(super) plan_id: Option<Uuid>,
    /// Whatever its owner keeps with it.
    #[schema(value_type = Object)]
    pub(super) metadata: Value,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    /// A quota of its own, like `1000000/month`.
    #[schema(required)]
    pub(super) quota: Option<String>,
    /// How many requests it may have open at once.
    #[schema(required)]
    pub(super) concurrency: Option<u32>,
}

impl From<&Client> for ClientView {
    fn from(client: &Client) -> Self {
        Self {
            id: client.id.0,
            name: client.name.clone(),
            status: client.status.as_str(),
            rate: client.rate.map(|rate| rate.to_string()),
            burst: client.burst.map(std::num::NonZeroU32::get),
            plan_id: client.plan_id,
            metadata: client.metadata.clone(),
            created_at: client.created_at,
            updated_at: client.updated_at,
            quota: client.allowance.quota.as_ref().map(ToString::to_string),
            concurrency: client.allowance.concurrency.map(std::num::NonZeroU32::get),
        }
    }
}

/// What is known of a key: everything but its text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct KeyView {
    pub(super) id: Uuid,
    pub(super) client_id: Uuid,
    /// What people call it.
    pub(super) name: String,
    /// The public part of its text; null: it was made elsewhere, or a certificate stands for it.
    #[schema(required)]
    pub(super) key_id: Option<String>,
    /// How its hash was made: `hmac` or `sha256`.
    pub(super) hash_kind: &'static str,
    /// Which pepper its hash was made with.
    #[schema(required)]
    pub(super) pepper_version: Option<i32>,
    pub(super) scopes: Vec<String>,
    /// A rate of its own, that narrows its client's.
    #[schema(required)]
    pub(super) rate: Option<String>,
    #[schema(required)]
    pub(super) burst: Option<u32>,
    /// From where it may be used; empty: from everywhere.
    pub(super) allowed_addresses: Vec<String>,
    pub(super) created_at: Timestamp,
    #[schema(required)]
    pub(super) expires_at: Option<Timestamp>,
    #[schema(required)]
    pub(super) revoked_at: Option<Timestamp>,
    /// Coarsely.
    #[schema(required)]
    pub(super) last_used_at: Option<Timestamp>,
    /// The key that took its place.
    #[schema(required)]
    pub(super) replaced_by: Option<Uuid>,
}

impl From<&ApiKey> for KeyView {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.0,
            client_id: key.client_id.0,
            name: key.name.clone(),
            key_id: key.key_id.clone(),
            hash_kind: key.hash_kind.as_str(),
            pepper_version: key.pepper_version,
            scopes: key.scopes.iter().map(ToOwned::to_owned).collect(),
            rate: key.rate.map(|rate| rate.to_string()),
            burst: key.burst.map(std::num::NonZeroU32::get),
            allowed_addresses: key.allowed_addresses.iter().collect(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            replaced_by: key.replaced_by.map(|id| id.0),
        }
    }
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MadeKeyView {
    /// The key itself: it is shown this once. Left out where the write was done before
    /// (`Idempotency-Replayed`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(flatten)]
    pub(super) row: KeyView,
}

/// A plan: limits that many clients have in common.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PlanView {
    pub(super) id: Uuid,
    /// Unique.
    pub(super) name: String,
    /// What it allows, each `{"name", "rate" | "quota", "burst", "mode"}`.
    #[schema(value_type = Vec<Object>)]
    pub(super) policies: Value,
    /// How many requests each of its clients may have open at once.
    #[schema(required)]
    pub(super) concurrency: Option<u32>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        Self {
            id: plan.id,
            name: plan.name.clone(),
            policies: serde_json::to_value(&plan.policies).unwrap_or_default(),
            concurrency: plan.concurrency.map(std::num::NonZeroU32::get),
            created_at: plan.created_at,
            updated_at: plan.updated_at,
        }
    }
}

/// Who operates the gateway.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct OperatorView {
    pub(super) id: Uuid,
    /// What it signs in with.
    pub(super) name: String,
    /// `owner`, `operator`, `auditor`, `support` or `client`.
    pub(super) role: &'static str,
    /// The clients that a support or client role is for.
    pub(super) clients: Vec<Uuid>,
    pub(super) has_password: bool,
    #[schema(required)]
    pub(super) issuer: Option<String>,
    #[schema(required)]
    pub(super) subject: Option<String>,
    #[schema(required)]
    pub(super) disabled_at: Option<Timestamp>,
    #[schema(required)]
    pub(super) last_login_at: Option<Timestamp>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}

impl From<&Operator> for OperatorView {
    fn from(operator: &Operator) -> Self {
        Self {
            id: operator.id,
            name: operator.name.clone(),
            role: operator.role.as_str(),
            clients: operator.clients.iter().map(|client| client.0).collect(),
            has_password: operator.has_password,
            issuer: operator.issuer.clone(),
            subject: operator.subject.clone(),
            disabled_at: operator.disabled_at,
            last_login_at: operator.last_login_at,
            created_at: operator.created_at,
            updated_at: operator.updated_at,
        }
    }
}

/// An admin token, without its text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TokenView {
    pub(super) id: Uuid,
    pub(super) name: String,
    /// The public part of its text.
    pub(super) token_id: String,
    /// `owner`, `operator`, `auditor`, `support` or `client`.
    pub(super) role: &'static str,
    /// The clients that a support or client role is for.
    pub(super) clients: Vec<Uuid>,
    pub(super) created_at: Timestamp,
    #[schema(required)]
    pub(super) expires_at: Option<Timestamp>,
    #[schema(required)]
    pub(super) revoked_at: Option<Timestamp>,
    #[schema(required)]
    pub(super) last_used_at: Option<Timestamp>,
}

impl From<&AdminToken> for TokenView {
    fn from(token: &AdminToken) -> Self {
        Self {
            id: token.id,
            name: token.name.clone(),
            token_id: token.token_id.clone(),
            role: token.role.as_str(),
            clients: token.clients.iter().map(|client| client.0).collect(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// An admin token that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MadeTokenView {
    /// The token itself: it is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(flatten)]
    pub(super) row: TokenView,
}

/// A session of an operator.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct SessionView {
    pub(super) id: Uuid,
    /// From where it was begun.
    #[schema(required)]
    pub(super) address: Option<String>,
    pub(super) created_at: Timestamp,
    /// Coarsely.
    pub(super) last_seen_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// Whether it is the one that asks.
    pub(super) current: bool,
}

impl SessionView {
    pub(super) fn of(session: &Session, asking: Option<Uuid>) -> Self {
        Self {
            id: session.id,
            address: session.address.map(|address| address.to_string()),
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            current: asking == Some(session.id),
        }
    }
}

/// Who changed what.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct AuditView {
    pub(super) id: Uuid,
    pub(super) occurred_at: Timestamp,
    /// `operator`, `token`, `shell` or `system`.
    pub(super) actor_kind: &'static str,
    pub(super) actor_id: Uuid,
    pub(super) actor_name: String,
    #[schema(required)]
    pub(super) address: Option<String>,
    /// Like `key.revoke`.
    pub(super) action: String,
    pub(super) subject_kind: String,
    pub(super) subject_id: String,
    #[schema(required)]
    pub(super) client_id: Option<Uuid>,
    /// How it looked; null: it was not there.
    #[schema(value_type = Option<Object>, required)]
    pub(super) before: Option<Value>,
    /// How it looks; null: it is gone.
    #[schema(value_type = Option<Object>, required)]
    pub(super) after: Option<Value>,
    #[schema(required)]
    pub(super) request_id: Option<String>,
}

impl From<&AuditEntry> for AuditView {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            id: entry.id,
            occurred_at: entry.occurred_at,
            actor_kind: entry.actor_kind.as_str(),
            actor_id: entry.actor_id,
            actor_name: entry.actor_name.clone(),
            address: entry.address.map(|address| address.to_string()),
            action: entry.action.clone(),
            subject_kind: entry.subject_kind.clone(),
            subject_id: entry.subject_id.clone(),
            client_id: entry.client_id.map(|client| client.0),
            before: entry.before.clone(),
            after: entry.after.clone(),
            request_id: entry.request_id.clone(),
        }
    }
}

/// A usage event: one request that was admitted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    pub(super) id: Uuid,
    pub(super) request_id: String,
    pub(super) client_id: Uuid,
    #[schema(required)]
    pub(super) api_key_id: Option<Uuid>,
    #[schema(required)]
    pub(super) token_id: Option<Uuid>,
    pub(super) occurred_at: Timestamp,
    pub(super) route: String,
    pub(super) method: String,
    /// What the caller was sent; null when nothing was.
    #[schema(required)]
    pub(super) status: Option<i32>,
    pub(super) outcome: String,
    #[schema(required)]
    pub(super) reason: Option<String>,
    pub(super) duration_us: i64,
    pub(super) bytes_in: i64,
    pub(super) bytes_out: i64,
    pub(super) units: i64,
    pub(super) node: String,
    /// `request`, `stream`, `adjustment` or `delegated`.
    pub(super) kind: String,
    #[schema(required)]
    pub(super) parent_id: Option<Uuid>,
    #[schema(required)]
    pub(super) corrects: Option<Uuid>,
}

impl From<&EventRow> for EventView {
    fn from(event: &EventRow) -> Self {
        let event = event.clone();
        Self {
            id: event.id,
            request_id: event.request_id,
            client_id: event.client_id,
            api_key_id: event.api_key_id,
            token_id: event.token_id,
            occurred_at: event.occurred_at,
            route: event.route,
            method: event.method,
            status: event.status,
            outcome: event.outcome,
            reason: event.reason,
            duration_us: event.duration_us,
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            units: event.units,
            node: event.node,
            kind: event.kind,
            parent_id: event.parent_id,
            corrects: event.corrects,
        }
    }
}

/// What went wrong (RFC 9457), `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemView {
    /// `urn:octroi:error:` and the code.
    pub(super) r#type: String,
    pub(super) title: String,
    pub(super) status: u16,
    /// What to do about it.
    pub(super) detail: String,
    /// A word for programs.
    pub(super) code: String,
    pub(super) request_id: Option<String>,
}
