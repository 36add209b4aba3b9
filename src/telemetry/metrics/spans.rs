//! What is counted of spans.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What becomes of spans of sampled requests.
#[derive(Clone, Debug)]
pub struct SpanCounters {
    /// Queued.
    pub recorded: Counter,
    /// Not queued: the queue was full.
    pub dropped: Counter,
    /// Taken by the collector.
    pub sent: Counter,
    /// Given up: the collector refused them, or was away for too long.
    pub failed: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

impl SpanCounters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::<StateLabels, Counter>::default();
        registry.register("trace_spans", "Spans of sampled requests, by what became of them", family.clone());
        let of = |state| family.get_or_create_owned(&StateLabels { state });
        Self { recorded: of("recorded"), dropped: of("dropped"), sent: of("sent"), failed: of("failed") }
    }
}
