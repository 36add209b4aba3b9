//! What the program tells of itself: logs, metrics, readiness, one record a request, recent refusals,
//! what goes on, spans.

pub mod access_log;
pub mod logging;
pub mod masked;
pub mod metrics;
pub mod readiness;
pub mod refusals;
pub mod snapshot;
pub mod tail;
pub mod traces;
