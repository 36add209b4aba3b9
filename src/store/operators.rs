//! `operators`, `operator_sessions`, `admin_tokens`. Every change of an operator or a token, the
//! beginning and the end of a session included, writes its row of the audit in the same step.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Page, Result};
use crate::model::admin::{
    AdminToken, NewAdminToken, NewOperator, NewSession, Operator, OperatorChange, PasswordHash, Session,
};
use crate::model::audit::Note;
use crate::model::key::KeyHash;

/// Operators and their sessions.
#[async_trait]
pub trait OperatorStore: Send + Sync {
    /// Makes an operator. A name that is there already is a conflict, and so is an identity.
    async fn create(&self, operator: NewOperator) -> Result<Operator>;
    /// Makes an operator if there is none at all yet; none: there was one.
    async fn create_first(&self, operator: NewOperator) -> Result<Option<Operator>>;
    /// The operator with this id.
    async fn find(&self, id: Uuid) -> Result<Option<Operator>>;
    /// The operator of this name.
    async fn find_by_name(&self, name: &str) -> Result<Option<Operator>>;
    /// The operator that an issuer vouches for under this subject.
    async fn find_by_identity(&self, issuer: &str, subject: &str) -> Result<Option<Operator>>;
    /// The hash of an operator's password.
    async fn password(&self, id: Uuid) -> Result<Option<PasswordHash>>;
    /// Operators in order of (created_at, id), after the one named; after an unknown one, none.
    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Operator>>;
    /// Changes an operator, and ends the sessions that the change ends; none: there is no such
    /// operator. What would leave no owner who may sign in is a conflict.
    async fn update(&self, id: Uuid, change: OperatorChange, at: Timestamp) -> Result<Option<Operator>>;

    /// Begins a session, and notes that the operator signed in.
    async fn begin_session(&self, session: NewSession) -> Result<Session>;
    /// The session and whose it is, ended ones too.
    async fn find_session(&self, id: Uuid) -> Result<Option<(Session, Operator)>>;
    /// The sessions of an operator that are not ended, the latest first.
    async fn sessions(&self, operator: Uuid, now: Timestamp) -> Result<Vec<Session>>;
    /// Notes that a session was used. No change in the sense of the audit.
    async fn note_session(&self, id: Uuid, at: Timestamp) -> Result<()>;
    /// Ends a session; whether it was not ended before.
    async fn end_session(&self, id: Uuid, at: Timestamp) -> Result<bool>;
    /// Ends all sessions of an operator; how many there were.
    async fn end_sessions(&self, operator: Uuid, at: Timestamp) -> Result<u64>;
    /// Deletes sessions that ended before this time; returns how many.
    async fn prune_sessions(&self, before: Timestamp) -> Result<u64>;
}

/// Admin tokens.
#[async_trait]
pub trait AdminTokenStore: Send + Sync {
    /// Stores a token.
    async fn create(&self, token: NewAdminToken) -> Result<AdminToken>;
    /// The token with this id.
    async fn find(&self, id: Uuid) -> Result<Option<AdminToken>>;
    /// The token with this hash.
    async fn find_by_hash(&self, hash: &KeyHash) -> Result<Option<AdminToken>>;
    /// The token with this public id.
    async fn find_by_token_id(&self, token_id: &str) -> Result<Option<AdminToken>>;
    /// Tokens in order of (created_at, id), after the one named; after an unknown one, none.
    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<AdminToken>>;
    /// Revokes a token; one revoked already keeps its time. None: there is no such token.
    async fn revoke(&self, id: Uuid, at: Timestamp) -> Result<Option<AdminToken>>;
    /// Notes that a token was used. No change in the sense of the audit.
    async fn note_use(&self, id: Uuid, at: Timestamp) -> Result<()>;
}

/// What a conflict says that would lock everybody out.
pub(super) const LAST_OWNER: &str =
    "this is the last owner who may sign in: make another one first, or nobody could undo it";

/// What the audit calls the beginning of a session.
pub(super) const SESSION_BEGUN: &str = "session.begin";
/// What it calls its end.
pub(super) const SESSION_ENDED: &str = "session.end";
/// What it calls the end of all of an operator's.
pub(super) const SESSIONS_ENDED: &str = "session.end_all";

/// What the audit is told of a session: the subject of [`SESSIONS_ENDED`] is the operator.
pub(super) fn session_note(action: &'static str, subject: Uuid) -> Note {
    Note { subject_id: subject.to_string(), ..Note::of_nothing(action, "session") }
}

/// What the audit is told of a change to an operator. Of a password it is told that it changed.
pub(super) fn change_notes(before: &Operator, after: &Operator, change: &OperatorChange) -> Vec<Note> {
    let action = match (before.disabled_at, after.disabled_at) {
        (None, Some(_)) => "operator.disable",
        (Some(_), None) => "operator.enable",
        _ => "operator.update",
    };
    let changed = Note::of(action, Some(before), Some(after));
    let password = change
        .password
        .as_ref()
        .map(|_| Note { subject_id: after.id.to_string(), ..Note::of_nothing("operator.passwd", "operator") });
    changed.into_iter().chain(password).collect()
}
