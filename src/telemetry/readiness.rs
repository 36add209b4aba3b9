//! Whether the process should be sent requests, and what is amiss.
//!
//! A dependency that is away is named and is never a reason to leave the pool: every replica
//! would leave it at once. Only what makes *this* process refuse (a full journal, a stop) is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a part of the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Fine,
    /// Away or impaired; requests go on.
    Degraded,
    /// Requests are refused because of it.
    Refusing,
}

type Check = Box<dyn Fn() -> Condition + Send + Sync>;

/// The parts of a process that can be asked how they are.
#[derive(Default)]
pub struct Readiness {
    stopping: AtomicBool,
    checks: Vec<(&'static str, Check)>,
}

impl Readiness {
    /// With no parts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part under a name that the answer's body shows. Its check must not block.
    #[must_use]
    pub fn with(mut self, name: &'static str, check: impl Fn() -> Condition + Send + Sync + 'static) -> Self {
        self.checks.push((name, Box::new(check)));
        self
    }

    /// The same, shared by all who answer probes.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// From now on: not ready, because the process stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// How things are now.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        let mut report =
            ReadinessReport { stopping: self.stopping.load(Ordering::Acquire), ..ReadinessReport::default() };
        for (name, check) in &self.checks {
            match check() {
                Condition::Fine => report.fine.push(name),
                Condition::Degraded => report.degraded.push(name),
                Condition::Refusing => report.refusing.push(name),
            }
        }
        report
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(out)
    }
}

/// What [`Readiness::report`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadinessReport {
    /// Whether the process stops.
    pub stopping: bool,
    /// Parts that are as they should be.
    pub fine: Vec<&'static str>,
    /// Parts that are away or impaired.
    pub degraded: Vec<&'static str>,
    /// Parts because of which requests are refused.
    pub refusing: Vec<&'static str>,
}

impl ReadinessReport {
    /// Whether to send requests here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.stopping && self.refusing.is_empty()
    }

    /// The status a probe gets: 200 or 503.
    #[must_use]
    pub fn status(&self) -> u16 {
        if self.is_ready() { 200 } else { 503 }
    }

    /// The body a probe gets: JSON.
    #[must_use]
    pub fn body(&self) -> String {
        let status = match (self.stopping, self.refusing.is_empty()) {
            (true, _) => "stopping",
            (false, false) => "refusing",
            (false, true) => "ready",
        };
        serde_json::json!({ "status": status, "degraded": self.degraded, "refusing": self.refusing }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_us_refuse_takes_us_out_of_the_pool() {
        use Condition::{Degraded, Fine, Refusing};
        for (store, journal, stopping, status) in [
            (Fine, Fine, false, 200),
            (Degraded, Fine, false, 200),
            (Fine, Refusing, false, 503),
            (Fine, Fine, true, 503),
        ] {
            let readiness = Readiness::new().with("store", move || store).with("journal", move || journal);
            if stopping {
                readiness.stop();
            }
            let report = readiness.report();
            assert_eq!(report.status(), status, "{report:?}");
        }
        let body = Readiness::new().with("store", || Degraded).report().body();
        assert_eq!(body, r#"{"degraded":["store"],"refusing":[],"status":"ready"}"#);
    }
}
