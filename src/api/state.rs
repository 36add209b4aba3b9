//! What the admin API answers from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::gateway::RunningGateway;
use super::oidc::Oidc;
use super::remembered::Remembered;
use super::turns::Turns;
use crate::auth::Mint;
use crate::crypto::pepper::Peppers;
use crate::crypto::shell_text::ShellTexts;
use crate::issuer::TokenIssuer;
use crate::model::clock::SharedClock;
use crate::model::event_id::EventIdGenerator;
use crate::model::rate::RateLimit;
use crate::operators::Operators;
use crate::store::{Store, UsageSum};
use crate::tasks::Tasks;
use crate::telemetry::readiness::Readiness;

/// What the app gives the admin API.
pub struct Parts {
    /// Who may come.
    pub operators: Arc<Operators>,
    /// Where operators may sign in besides here.
    pub oidc: Option<Oidc>,
    /// Texts of the command line on this machine; none: it could not be given a secret.
    pub shells: Option<ShellTexts>,
    /// Where everything lives, for reading; changes go through [`Operators::store_for`].
    pub store: Store,
    /// Makes keys.
    pub mint: Mint,
    /// `auth.prefix`, and the live peppers: what raw keys are judged and hashed by.
    pub prefix: String,
    /// See `prefix`.
    pub peppers: Peppers,
    /// Time.
    pub clock: SharedClock,
    /// Settings in force, secrets masked.
    pub settings: Value,
    /// Names under which browsers may come, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Whether browsers reach it over TLS: then cookies are `Secure`.
    pub secure: bool,
    /// The origin of our own pages, where a setting says it (`https://admin.example.com`); none: the
    /// listener's, under the host that was asked for.
    pub origin: Option<String>,
    /// For clients without a limit of their own.
    pub default_limit: RateLimit,
    /// Whether rates are charged by units.
    pub rates_by_cost: bool,
    /// The folder of this machine's journals: `metering.dir`.
    pub journals: PathBuf,
    /// Signs statements; none: nothing is configured that signs.
    pub issuer: Option<Arc<TokenIssuer>>,
    /// The gateway that serves beside it.
    pub gateway: Arc<dyn RunningGateway>,
    /// Health, for the overview.
    pub readiness: Arc<Readiness>,
    /// Where changes run, so that they end when their callers do not wait.
    pub tasks: Tasks,
}

/// The parts, and what handlers share.
pub struct Api {
    pub(super) parts: Parts,
    /// Books are read as a whole one after the other: the store's readers are for others, too.
    pub(super) books: tokio::sync::Mutex<()>,
    /// What this machine has is sent again by one at a time.
    pub(super) redraining: tokio::sync::Mutex<()>,
    /// The requests of the last day by hour, of all clients: each open overview shows them again every
    /// few seconds, and the store sums a day of everybody for it.
    pub(super) hours: Remembered<Vec<UsageSum>>,
    /// Turns at what reads much of the store ([`super::caller::Caller::turn`]): of each who operates the
    /// gateway, of each customer, and of all customers together.
    pub(super) operators_turns: Turns,
    pub(super) customers_turns: Turns,
    pub(super) customers_turn: Arc<Semaphore>,
    /// Who watches what goes on, of roles that are for some clients.
    pub(super) watching: Turns,
    ids: Mutex<EventIdGenerator>,
}

/// How old the sums of the last day may be that an overview shows.
const HOURS_HELD: Duration = Duration::from_secs(30);

/// How many reports one who operates the gateway may have read at once: a page and some scripts.
const OPERATORS_REPORTS: usize = 4;

/// How many tails one who is for some clients only may watch at once.
const CUSTOMERS_TAILS: usize = 2;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Api {
    /// Of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let ids = Mutex::new(EventIdGenerator::new());
        let mutex = || tokio::sync::Mutex::new(());
        Arc::new(Self {
            parts,
            books: mutex(),
            redraining: mutex(),
            hours: Remembered::new(HOURS_HELD),
            operators_turns: Turns::new(OPERATORS_REPORTS),
            customers_turns: Turns::new(1),
            customers_turn: Arc::new(Semaphore::new(1)),
            watching: Turns::new(CUSTOMERS_TAILS),
            ids,
        })
    }

    /// The id of a request that came now.
    pub(super) fn request_id(&self) -> String {
        let now = self.parts.clock.wall();
        // A short section: an id is made, nothing is awaited.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now).to_string()
    }
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[admin API]")
    }
}
