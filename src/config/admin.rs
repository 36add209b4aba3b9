//! `[admin]`

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};

/// Where operators and scrapers connect.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The admin listener.
    pub listen: SocketAddr,
    /// A second one with only `/livez`, `/readyz` and `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
    /// `[admin.sessions]`
    pub sessions: SessionsConfig,
}

/// How long operators stay signed in.
#[derive(Clone, Copy, Debug)]
pub struct SessionsConfig {
    /// Without doing anything.
    pub idle: Duration,
    /// At most.
    pub absolute: Duration,
}

/// `[admin]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: String,
    pub(super) metrics_listen: String,
    pub(super) sessions: RawSessions,
}

/// `[admin.sessions]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSessions {
    pub(super) idle: String,
    pub(super) absolute: String,
}

impl Default for RawSessions {
    fn default() -> Self {
        // A browser that was left open, and a working day (OWASP's Session Management Cheat Sheet).
        Self { idle: "30m".to_owned(), absolute: "12h".to_owned() }
    }
}

impl RawSessions {
    fn resolve(&self, check: &Check<'_>) -> SessionsConfig {
        let idle = check.duration("idle", &self.idle, Zero::Refused);
        let absolute = check.duration("absolute", &self.absolute, Zero::Refused);
        if absolute > LONGEST && !check.has_problem("absolute") {
            check.refuse("absolute", "whoever finds such a session has it for good", "write at most \"30d\"");
        }
        if idle > absolute && !check.has_problem("idle") && !check.has_problem("absolute") {
            check.refuse("idle", "a session ends before it has been idle so long", "write at most `absolute`");
        }
        SessionsConfig { idle, absolute }
    }
}

/// The longest life of a session.
const LONGEST: Duration = Duration::from_hours(30 * 24);

impl Default for RawAdmin {
    fn default() -> Self {
        // This machine only: what operators do must not be one firewall rule away from strangers.
        Self { listen: "127.0.0.1:8081".to_owned(), metrics_listen: String::new(), sessions: RawSessions::default() }
    }
}

impl RawAdmin {
    pub(super) fn resolve(&self, check: &Check<'_>) -> AdminConfig {
        let metrics_listen =
            (!self.metrics_listen.is_empty()).then(|| check.address("metrics_listen", &self.metrics_listen));
        AdminConfig {
            listen: check.address("listen", &self.listen),
            metrics_listen,
            sessions: self.sessions.resolve(&check.below("sessions")),
        }
    }
}
