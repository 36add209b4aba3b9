//! What is counted of workers, of TLS towards callers, of preflights, and of what changes while it serves.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::ResultLabels;
use super::requests::DURATION_BUCKETS;

/// Of whose listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabels {
    pub(super) listener: &'static str,
}

/// How long work waits, and how many refuse some of it.
pub(super) fn register_workers(registry: &mut Registry) -> (Histogram, Gauge) {
    let delay = Histogram::new(DURATION_BUCKETS);
    registry.register("worker_delay_seconds", "How long work waits for its worker", delay.clone());
    let shedding = Gauge::default();
    registry.register("workers_shedding", "Workers that refuse requests because they cannot keep up", shedding.clone());
    (delay, shedding)
}

/// Handshakes by their result, and when the first certificate ends.
pub(super) fn register_tls(registry: &mut Registry) -> (Family<ResultLabels, Counter>, Family<ListenerLabels, Gauge>) {
    let handshakes = Family::<ResultLabels, Counter>::default();
    registry.register("tls_handshakes", "TLS handshakes of callers", handshakes.clone());
    let expiry = Family::<ListenerLabels, Gauge>::default();
    let help = "When the first certificate of a listener (data, admin) ends, in Unix seconds; absent without TLS";
    registry.register("tls_certificate_expiry_seconds", help, expiry.clone());
    (handshakes, expiry)
}

/// Of pages that may not go on, and of those that may.
pub(super) fn register_preflights(registry: &mut Registry) -> [Counter; 2] {
    let preflights = Family::<ResultLabels, Counter>::default();
    registry.register("cors_preflights", "Preflights answered, by result", preflights.clone());
    ["foreign", "allowed"].map(|result| preflights.get_or_create_owned(&ResultLabels { result }))
}

/// Reloads that cannot be used, and that can.
pub(super) fn register_reloads(registry: &mut Registry) -> [Counter; 2] {
    let reloads = Family::<ResultLabels, Counter>::default();
    let help = "Times that what may change while it serves was read again because it had changed, by result";
    registry.register("config_reloads", help, reloads.clone());
    ["failed", "ok"].map(|result| reloads.get_or_create_owned(&ResultLabels { result }))
}
