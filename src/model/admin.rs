//! Operators, their sessions, and admin tokens, as their tables hold them. What they may do is
//! [`super::operator`]'s.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use super::id::ClientId;
use super::key::KeyHash;
use super::operator::Role;

/// What somebody may do, and to whom: a role, and the clients it is confined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// What it is.
    pub role: Role,
    /// The clients it is named for; none unless the role is confined.
    pub clients: Vec<ClientId>,
}

/// Why a role and clients do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReachFault {
    /// A confined role that is named for nobody could do nothing.
    #[error("the role {0} is for named clients: name at least one")]
    NoClients(Role),
    /// A client is no person: it has tokens, which go with it when it is erased.
    #[error("the role client is for tokens: make one for the client, or an operator with the role support")]
    TokensOnly,
    /// Whoever names clients means to confine, and this role is not.
    #[error("the role {0} is for all clients: name none")]
    NotConfined(Role),
}

impl Reach {
    /// Checks that role and clients go together; a client named twice is named once.
    ///
    /// # Errors
    /// They do not.
    pub fn new(role: Role, mut clients: Vec<ClientId>) -> Result<Self, ReachFault> {
        clients.sort_unstable();
        clients.dedup();
        match (role.is_confined(), clients.is_empty()) {
            (true, true) => Err(ReachFault::NoClients(role)),
            (false, false) => Err(ReachFault::NotConfined(role)),
            _ => Ok(Self { role, clients }),
        }
    }

    /// The same of an operator, who is a person.
    ///
    /// # Errors
    /// The role is for tokens only.
    pub fn of_person(self) -> Result<Self, ReachFault> {
        if self.role == Role::Client { Err(ReachFault::TokensOnly) } else { Ok(self) }
    }
}

/// A row of `operators`, without its password's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// `operators.id`
    pub id: Uuid,
    /// What it signs in with; unique.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The clients it is named for.
    pub clients: Vec<ClientId>,
    /// Whether it has a password; one that comes by an issuer has none.
    pub has_password: bool,
    /// The issuer that vouches for it.
    pub issuer: Option<String>,
    /// Its `sub` at that issuer.
    pub subject: Option<String>,
    /// Since when it may not sign in.
    pub disabled_at: Option<Timestamp>,
    /// When it last signed in.
    pub last_login_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Operator {
    /// Whether its row is as it was when `read` was read, but for when it signed in.
    #[must_use]
    pub fn is_still(&self, read: &Self) -> bool {
        let at_rest = |operator: &Self| Self { last_login_at: None, ..operator.clone() };
        at_rest(self) == at_rest(read)
    }
}

/// The hash of a password, as a PHC string (argon2id). Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[password hash]")
    }
}

/// What is needed to store an operator.
#[derive(Clone, Debug)]
pub struct NewOperator {
    /// What it signs in with.
    pub name: String,
    /// What it may, and to whom.
    pub reach: Reach,
    /// Its password; none: it comes by an issuer.
    pub password: Option<PasswordHash>,
    /// The issuer that vouches for it, and its `sub` there.
    pub identity: Option<(String, String)>,
}

/// A change to an operator: each `Some` replaces.
#[derive(Clone, Debug, Default)]
pub struct OperatorChange {
    /// Another role, with its clients.
    pub reach: Option<Reach>,
    /// Disable or enable. Disabling ends all sessions.
    pub disabled: Option<bool>,
    /// Another password.
    pub password: Option<NewPassword>,
    /// Only if the row is still as this one was read.
    pub only_if: Option<Box<Operator>>,
}

/// Another password. All sessions end with it.
#[derive(Clone, Debug)]
pub struct NewPassword {
    /// Its hash.
    pub hash: PasswordHash,
    /// A session that goes on: the one in which it was changed.
    pub keep: Option<Uuid>,
}

/// A row of `operator_sessions`. The token that the browser holds is signed and not stored: it
/// cannot be made from the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// `operator_sessions.id`
    pub id: Uuid,
    /// Whose it is.
    pub operator_id: Uuid,
    /// From where it was begun.
    pub address: Option<IpAddr>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it was last used, coarsely.
    pub last_seen_at: Timestamp,
    /// When it ends, however much it is used.
    pub expires_at: Timestamp,
    /// Since when it is ended.
    pub revoked_at: Option<Timestamp>,
}

/// What is needed to begin a session.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// Whose it is.
    pub operator_id: Uuid,
    /// From where it is begun.
    pub address: Option<IpAddr>,
    /// The time.
    pub at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A row of `admin_tokens`, without its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminToken {
    /// `admin_tokens.id`
    pub id: Uuid,
    /// What people call it; not unique.
    pub name: String,
    /// The public part of its text, up to the secret.
    pub token_id: String,
    /// What it is.
    pub role: Role,
    /// The clients it is named for.
    pub clients: Vec<ClientId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, coarsely.
    pub last_used_at: Option<Timestamp>,
}

impl AdminToken {
    /// Whether it opens anything at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

/// What is needed to store an admin token.
#[derive(Clone, Debug)]
pub struct NewAdminToken {
    /// What people call it.
    pub name: String,
    /// The public part of its text.
    pub token_id: String,
    /// Its hash.
    pub hash: KeyHash,
    /// What it may, and to whom.
    pub reach: Reach,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confined_roles_name_clients_and_others_none() {
        let client = ClientId(Uuid::from_u128(1));
        for role in Role::ALL {
            let (with, without) = (Reach::new(role, vec![client, client]), Reach::new(role, Vec::new()));
            if role.is_confined() {
                assert_eq!(with.map(|reach| reach.clients), Ok(vec![client]), "{role}");
                assert_eq!(without, Err(ReachFault::NoClients(role)));
            } else {
                assert_eq!(with, Err(ReachFault::NotConfined(role)));
                assert_eq!(without.map(|reach| reach.clients), Ok(vec![]), "{role}");
            }
        }
    }
}
