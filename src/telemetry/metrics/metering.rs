//! What is counted of usage entries on their way.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::words::Words;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// Entries by the state they reached.
pub(super) struct EntryCounters(Family<StateLabels, Counter>);

impl EntryCounters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let entries = Family::<StateLabels, Counter>::default();
        registry.register("metering_entries", "Usage entries that reached a state", entries.clone());
        Self(entries)
    }

    pub(super) fn of(&self, state: &'static str) -> Counter {
        self.0.get_or_create_owned(&StateLabels { state })
    }
}

/// How the journal stands.
pub(super) struct JournalGauges {
    pub(super) lost: Counter,
    pub(super) lag_seconds: Gauge<f64, AtomicU64>,
    pub(super) bytes: Gauge,
    pub(super) bytes_max: Gauge,
}

impl JournalGauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let lost = Counter::default();
        registry.register("metering_lost", "Requests served without an entry", lost.clone());
        let lag_seconds = Gauge::<f64, AtomicU64>::default();
        registry.register("metering_lag_seconds", "Age of the oldest entry not committed", lag_seconds.clone());
        let bytes = Gauge::default();
        registry.register("metering_journal_bytes", "Bytes of the journal on disk", bytes.clone());
        let bytes_max = Gauge::default();
        let help = "Bytes at which the journal is full (metering.max_bytes)";
        registry.register("metering_journal_max_bytes", help, bytes_max.clone());
        Self { lost, lag_seconds, bytes, bytes_max }
    }
}

/// Store operations that failed.
pub(super) fn register_store_errors(registry: &mut Registry) -> Words {
    let errors = Family::<OperationLabels, Counter>::default();
    registry.register("store_errors", "Failed store operations", errors.clone());
    Words::new(move |operation| errors.get_or_create_owned(&OperationLabels { operation }))
}
