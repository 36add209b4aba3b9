//! Who may operate the gateway: operators who sign in, and tokens that machines and clients hold.
//!
//! Owns: logins and how often they may be tried, sessions and their ends, admin tokens, and that
//! whoever comes with either is an [`Actor`]. Refuses to own: what an actor may do
//! ([`Actor::may`], asked by whoever serves it), cookies and origins (`api`), and writing the audit
//! (the store does, in the transaction of each change).
//!
//! Changes are made through [`Operators::store_for`]: the store in the hand of whoever asks.

mod fault;
mod manage;
mod noting;
pub mod password;
mod sessions;
mod throttle;
mod tokens;
mod upkeep;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use uuid::Uuid;

pub use fault::{LoginFault, OperatorFault, Unknown};
pub use manage::{NewPerson, create_first, create_operator, reset_password};
pub use tokens::{MadeToken, create_token};

use crate::config::admin::SessionsConfig;
use crate::crypto::session_text::SessionTexts;
use crate::model::admin::{AdminToken, Operator, Session};
use crate::model::audit::Author;
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::key::KeyHash;
use crate::model::operator::{Actor, ActorKind};
use crate::model::secret::{SecretBytes, SecretText};
use crate::store::Store;
use password::Passwords;
use throttle::Throttle;

/// How long a row that was read is believed: so long after its revocation a session or a token may
/// still pass, in other processes than the one that revoked it.
const BELIEVED: Duration = Duration::from_secs(1);

/// How coarsely it is noted when a session or a token was used.
const NOTED_EVERY: Duration = Duration::from_mins(1);

/// The most sessions and tokens that are remembered, each.
const REMEMBERED: u64 = 10_000;

/// Operators, their sessions and admin tokens.
pub struct Operators {
    store: Store,
    lifetimes: SessionsConfig,
    /// None: there is no `JWT_SECRET`, and nobody can sign in.
    texts: Option<SessionTexts>,
    clock: SharedClock,
    passwords: Passwords,
    throttle: Throttle,
    sessions: Cache<Uuid, Seen<(Session, Operator)>>,
    tokens: Cache<KeyHash, Seen<AdminToken>>,
    unwritten: Cache<Uuid, noting::Unwritten>,
}

/// A row, and when it was read.
#[derive(Clone)]
struct Seen<T> {
    row: Arc<T>,
    at: Monotonic,
}

/// Somebody who is signed in, or holds a token.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who.
    pub actor: Arc<Actor>,
    /// The session that showed it; none: a token did.
    pub session: Option<Uuid>,
}

/// Who a request comes from, besides whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attendance {
    /// A person, or a program, that asks.
    Attended,
    /// A page that refreshes itself: it keeps no session alive.
    Unattended,
}

/// A login that succeeded.
#[derive(Debug)]
pub struct SignedIn {
    /// The text for the cookie: a JWT.
    pub text: SecretText,
    /// Who signed in, and in which session.
    pub known: Known,
    /// When the session ends, however much it is used.
    pub expires_at: Timestamp,
}

impl Operators {
    /// Operators of this store. `secret` is `JWT_SECRET`.
    #[must_use]
    pub fn new(store: Store, lifetimes: SessionsConfig, secret: Option<&SecretBytes>, clock: SharedClock) -> Self {
        Self {
            store,
            lifetimes,
            texts: secret.map(SessionTexts::new),
            clock,
            passwords: Passwords::new(),
            throttle: Throttle::new(),
            sessions: Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build(),
            tokens: Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build(),
            unwritten: Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build(),
        }
    }

    /// The store in the hand of `actor`: what is changed with it stands in the audit as its doing.
    #[must_use]
    pub fn store_for(&self, actor: &Arc<Actor>, request_id: Option<&str>) -> Store {
        self.store.acting_as(Author { actor: Arc::clone(actor), request_id: request_id.map(ToOwned::to_owned) })
    }

    fn actor_of(operator: &Operator, address: Option<IpAddr>) -> Arc<Actor> {
        Arc::new(Actor {
            kind: ActorKind::Operator,
            id: operator.id,
            name: operator.name.clone(),
            role: operator.role,
            clients: operator.clients.clone(),
            address,
        })
    }

    fn is_fresh(&self, at: Monotonic) -> bool {
        self.clock.monotonic().since(at) < BELIEVED
    }
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[operators]")
    }
}
