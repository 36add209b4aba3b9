//! Who operates the gateway, and what each role may.
//!
//! An operator is a person with a password or an account at an issuer; a machine holds an admin
//! token; a client may hold one too, for its own keys. All of them are an [`Actor`] once known.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::id::ClientId;

/// What somebody is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May do everything, operators and erasure included.
    Owner,
    /// May change clients, keys and plans.
    Operator,
    /// Sees everything, changes nothing.
    Auditor,
    /// Sees the clients it is named for, and changes their keys.
    Support,
    /// A client itself: sees its own usage, changes its own keys.
    Client,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Operator, Self::Auditor, Self::Support, Self::Client];

    /// Its word in tables and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Support => "support",
            Self::Client => "client",
        }
    }

    /// Whether it may, for clients it is not barred from ([`Actor::may`]).
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        use Permission as P;
        match self {
            Self::Owner => true,
            Self::Operator => !matches!(permission, P::EraseClients | P::AdoptKeys | P::ManageOperators),
            Self::Auditor => !permission.is_a_change(),
            Self::Support => {
                matches!(permission, P::ReadClients | P::ReadKeys | P::WriteKeys | P::ReadUsage | P::Explain)
            }
            Self::Client => matches!(permission, P::ReadClients | P::ReadKeys | P::WriteKeys | P::ReadUsage),
        }
    }

    /// Whether it sees named clients only, and none without a name.
    #[must_use]
    pub fn is_confined(self) -> bool {
        matches!(self, Self::Support | Self::Client)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A word that names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of owner, operator, auditor, support, client")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// What one may be allowed to do. Each row of the admin API names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the deed it names")]
pub enum Permission {
    ReadClients,
    WriteClients,
    EraseClients,
    ReadKeys,
    WriteKeys,
    /// Keys that were made elsewhere, of any client.
    ImportKeys,
    /// Raw keys of an adopted database, which the gateway then reads.
    AdoptKeys,
    ReadPlans,
    WritePlans,
    /// Sums and single events.
    ReadUsage,
    ReadAudit,
    /// Settings in force, nodes, peppers; whether the books of all clients balance.
    ReadGateway,
    /// Why a request was or would be answered as it is; recent refusals.
    Explain,
    /// Operators and admin tokens.
    ManageOperators,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::ReadClients,
        Self::WriteClients,
        Self::EraseClients,
        Self::ReadKeys,
        Self::WriteKeys,
        Self::ImportKeys,
        Self::AdoptKeys,
        Self::ReadPlans,
        Self::WritePlans,
        Self::ReadUsage,
        Self::ReadAudit,
        Self::ReadGateway,
        Self::Explain,
        Self::ManageOperators,
    ];

    /// Whether it lets anything be changed.
    #[must_use]
    pub fn is_a_change(self) -> bool {
        matches!(
            self,
            Self::WriteClients
                | Self::EraseClients
                | Self::WriteKeys
                | Self::ImportKeys
                | Self::AdoptKeys
                | Self::WritePlans
                | Self::ManageOperators
        )
    }
}

/// How an actor showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// A person, in a session.
    Operator,
    /// A machine or a client, with an admin token.
    Token,
    /// Whoever runs the command line beside the store.
    Shell,
    /// The gateway itself, or a program that opened the store and said nothing of whom it serves.
    System,
}

impl ActorKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Operator, Self::Token, Self::Shell, Self::System];

    /// As the column holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Token => "token",
            Self::Shell => "shell",
            Self::System => "system",
        }
    }

    /// Reads the column; `None` when it holds something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Somebody known who asks for something: what the audit calls them, and how far they may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// How it showed who it is.
    pub kind: ActorKind,
    /// Its row; nil on the command line.
    pub id: Uuid,
    /// An operator's name, a token's name, or the system's user.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The clients it is named for, when its role is confined to those.
    pub clients: Vec<ClientId>,
    /// From where: an address; none on the command line.
    pub address: Option<std::net::IpAddr>,
}

impl Actor {
    /// Whoever can open the store may do all that the command line does.
    #[must_use]
    pub fn shell(user: String) -> Self {
        let kind = ActorKind::Shell;
        Self { kind, id: Uuid::nil(), name: user, role: Role::Owner, clients: Vec::new(), address: None }
    }

    /// The gateway itself.
    #[must_use]
    pub fn system() -> Self {
        Self { kind: ActorKind::System, ..Self::shell("octroi".to_owned()) }
    }

    /// Whether it may do this to `client`; none: to what belongs to no single client.
    #[must_use]
    pub fn may(&self, permission: Permission, client: Option<ClientId>) -> bool {
        let is_its_own = client.is_some_and(|client| self.clients.contains(&client));
        self.role.may(permission) && (!self.role.is_confined() || is_its_own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_back_from_its_word() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(UnknownRole));
    }

    #[test]
    fn what_each_role_may() {
        use Permission as P;
        let table: [(P, &str); 14] = [
            (P::ReadClients, "owner operator auditor support client"),
            (P::WriteClients, "owner operator"),
            (P::EraseClients, "owner"),
            (P::ReadKeys, "owner operator auditor support client"),
            (P::WriteKeys, "owner operator support client"),
            (P::ImportKeys, "owner operator"),
            (P::AdoptKeys, "owner"),
            (P::ReadPlans, "owner operator auditor"),
            (P::WritePlans, "owner operator"),
            (P::ReadUsage, "owner operator auditor support client"),
            (P::ReadAudit, "owner operator auditor"),
            (P::ReadGateway, "owner operator auditor"),
            (P::Explain, "owner operator auditor support"),
            (P::ManageOperators, "owner"),
        ];
        assert_eq!(table.map(|(permission, _)| permission), P::ALL);
        for (permission, roles) in table {
            let may: Vec<_> = Role::ALL.into_iter().filter(|role| role.may(permission)).map(Role::as_str).collect();
            assert_eq!(may.join(" "), roles, "{permission:?}");
        }
    }

    #[test]
    fn confined_roles_reach_their_clients_and_nothing_without_one() {
        let (own, other) = (ClientId(Uuid::from_u128(1)), ClientId(Uuid::from_u128(2)));
        for role in [Role::Support, Role::Client] {
            let actor = Actor { role, clients: vec![own], ..Actor::shell("anna".to_owned()) };
            assert!(actor.may(Permission::WriteKeys, Some(own)), "{role}");
            assert!(!actor.may(Permission::WriteKeys, Some(other)), "{role}");
            assert!(!actor.may(Permission::ReadKeys, None), "{role}");
        }
        assert!(Actor::shell("anna".to_owned()).may(Permission::ReadKeys, None));
    }
}
