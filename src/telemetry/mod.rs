//! What the program tells of itself: logs, metrics, readiness, one record a request.

pub mod access_log;
pub mod logging;
pub mod metrics;
pub mod readiness;
