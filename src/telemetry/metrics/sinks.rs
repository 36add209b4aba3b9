//! What is counted of sinks.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is counted of a sink.
#[derive(Clone, Debug)]
pub struct SinkMetrics {
    /// Records that it has taken.
    pub sent: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Records that it refuses for their content, set aside.
    pub refused: Counter,
    /// Records that it will never get: the outbox was at its bound, or damaged.
    pub missed: Counter,
    /// Age of the oldest record that it does not have, in seconds.
    pub lag_seconds: Gauge<f64, AtomicU64>,
}

#[derive(Debug, Default)]
pub(super) struct SinkFamilies {
    sent: Family<SinkLabels, Counter>,
    failures: Family<SinkLabels, Counter>,
    refused: Family<SinkLabels, Counter>,
    missed: Family<SinkLabels, Counter>,
    lag_seconds: Family<SinkLabels, Gauge<f64, AtomicU64>>,
}

impl SinkFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let sinks = Self::default();
        registry.register("sink_sent", "Records that a sink has taken", sinks.sent.clone());
        registry.register("sink_failures", "Attempts at a sink that failed", sinks.failures.clone());
        registry.register("sink_refused", "Records that a sink refused, set aside", sinks.refused.clone());
        registry.register("sink_missed", "Records that a sink will never get", sinks.missed.clone());
        registry.register("sink_lag_seconds", "Age of the oldest record a sink lacks", sinks.lag_seconds.clone());
        sinks
    }

    pub(super) fn of(&self, name: &str) -> SinkMetrics {
        let labels = SinkLabels { sink: name.to_owned() };
        SinkMetrics {
            sent: self.sent.get_or_create_owned(&labels),
            failures: self.failures.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
            missed: self.missed.get_or_create_owned(&labels),
            lag_seconds: self.lag_seconds.get_or_create_owned(&labels),
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
}
