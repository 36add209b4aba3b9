//! What the program tells of itself: logs, metrics, readiness, one record a request, recent refusals, spans.

pub mod access_log;
pub mod logging;
mod masked;
pub mod metrics;
pub mod readiness;
pub mod refusals;
pub mod traces;
