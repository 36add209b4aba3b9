//! Which requests are recorded as spans, and under which ids.
//!
//! Decided once, when the head is there: a caller's own decision is followed where the configuration
//! says so, all others are drawn by their trace id, whose last 56 bits are random (W3C Trace Context,
//! level 2), so that whoever else draws the same share by the same id draws the same traces. A request
//! that is not drawn costs the reading of its `traceparent` and one comparison; while traces are off
//! there is no recorder, and a request costs one branch.
//!
//! Ids are those of the usage event, as in `trace`: the request's span is the second half of the
//! UUID, whose first two bits are `10`; the span of the exchange with the upstream has `11` there.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use http::{HeaderMap, Uri};

use super::trace::{Incoming, TRACESTATE};
use crate::config::traces::Sampler;
use crate::model::clock::Monotonic;
use crate::model::id::EventId;
use crate::telemetry::traces::{Parent, Span, SpanBytes, SpanQueue, TraceBytes};
use crate::wire::head::named_host;

/// How many bits of a trace id are drawn by.
const RANDOM_BITS: u32 = 56;
/// No endpoint was asked.
const NONE: usize = usize::MAX;

/// Decides what is recorded, and takes it.
#[derive(Debug)]
pub struct Recorder {
    follows_parent: bool,
    /// Trace ids whose last 56 bits are at least this are recorded.
    threshold: u64,
    queue: SpanQueue,
}

/// The spans of a request that is recorded.
#[derive(Debug)]
pub(super) struct RequestSpans {
    pub(super) trace: TraceBytes,
    pub(super) parent: Option<Parent>,
    pub(super) state: String,
    /// Of the request.
    pub(super) request: SpanBytes,
    /// Of the exchange with the upstream.
    pub(super) exchange: SpanBytes,
    pub(super) uri: Uri,
    pub(super) host: Option<String>,
    /// The upstream, and when the exchange with it began.
    pub(super) exchanged: Option<(usize, Monotonic)>,
    pub(super) asked: AskedEndpoints,
}

/// Which endpoints were asked. Atomic, because an exchange under way shares its request.
#[derive(Debug)]
pub(super) struct AskedEndpoints {
    last: AtomicUsize,
    count: AtomicU32,
}

impl AskedEndpoints {
    pub(super) fn note(&self, endpoint: usize) {
        self.last.store(endpoint, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// The last one, and how many were asked before it.
    pub(super) fn last(&self) -> Option<(usize, u32)> {
        let last = Some(self.last.load(Relaxed)).filter(|last| *last != NONE);
        last.map(|last| (last, self.count.load(Relaxed).saturating_sub(1)))
    }
}

impl Recorder {
    /// One that draws as `sampler` says.
    #[must_use]
    pub fn new(sampler: Sampler, queue: SpanQueue) -> Self {
        Self { follows_parent: sampler.follows_parent, threshold: threshold(sampler.share), queue }
    }

    /// The spans of a request, if it is recorded.
    pub(super) fn begin(&self, event: EventId, headers: &HeaderMap, uri: &Uri) -> Option<Box<RequestSpans>> {
        let incoming = Incoming::of(headers);
        let trace = incoming.as_ref().map_or(*event.0.as_bytes(), Incoming::trace_bytes);
        if !self.records(trace, incoming.as_ref().map(Incoming::is_sampled)) {
            return None;
        }
        let request = event.0.as_u64_pair().1;
        Some(Box::new(RequestSpans {
            trace,
            parent: incoming.as_ref().map(|incoming| Parent { span: incoming.span_bytes(), is_remote: true }),
            state: incoming.map(|_| state(headers)).unwrap_or_default(),
            request: request.to_be_bytes(),
            exchange: (request | 1 << 62).to_be_bytes(),
            uri: uri.clone(),
            host: named_host(headers, uri).map(str::to_owned),
            exchanged: None,
            asked: AskedEndpoints { last: AtomicUsize::new(NONE), count: AtomicU32::new(0) },
        }))
    }

    fn records(&self, trace: TraceBytes, parent_is_recorded: Option<bool>) -> bool {
        match parent_is_recorded {
            Some(is_recorded) if self.follows_parent => is_recorded,
            _ => drawn(trace) >= self.threshold,
        }
    }

    pub(super) fn put(&self, span: Span) {
        self.queue.put(span);
    }
}

/// What a trace is drawn by.
fn drawn(trace: TraceBytes) -> u64 {
    let (_, last) = trace.split_at(8);
    let last = last.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    last & ((1 << RANDOM_BITS) - 1)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of 2^56"
)]
fn threshold(share: f64) -> u64 {
    ((1.0 - share.clamp(0.0, 1.0)) * (1_u64 << RANDOM_BITS) as f64).round() as u64
}

/// All lines of `tracestate` as one (RFC 9110 §5.3); what is no text is left out, and so is what comes
/// after [`STATE_MAX`] bytes, by whole members (Trace Context §3.3.1.5): spans wait in memory.
fn state(headers: &HeaderMap) -> String {
    let lines = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok());
    let mut kept = String::new();
    for member in lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty()) {
        if kept.len() + 1 + member.len() > STATE_MAX {
            break;
        }
        if !kept.is_empty() {
            kept.push(',');
        }
        kept.push_str(member);
    }
    kept
}

/// How much of `tracestate` a span keeps: what everybody should carry.
const STATE_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::model::event_id::EventIdGenerator;
    use crate::telemetry::metrics::Metrics;

    fn recorder(follows_parent: bool, share: f64) -> Recorder {
        let (queue, _) = SpanQueue::new(&Metrics::new(&[], &[]));
        Recorder::new(Sampler { follows_parent, share }, queue)
    }

    fn begun(recorder: &Recorder, traceparent: Option<&'static str>) -> Option<Box<RequestSpans>> {
        let event = EventIdGenerator::new().next(jiff::Timestamp::UNIX_EPOCH);
        let mut headers = HeaderMap::new();
        if let Some(line) = traceparent {
            headers.insert("traceparent", HeaderValue::from_static(line));
            headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
            headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        }
        recorder.begin(event, &headers, &Uri::from_static("/x?secret"))
    }

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn of_a_long_state_whole_members_are_kept() {
        let mut headers = HeaderMap::new();
        headers.append(TRACESTATE, HeaderValue::from_static("a=1, b=2,,"));
        assert_eq!(state(&headers), "a=1,b=2");
        let long = format!("c={}", "x".repeat(300));
        for _ in 0..3 {
            headers.append(TRACESTATE, long.parse().unwrap());
        }
        assert_eq!(state(&headers), format!("a=1,b=2,{long}"));
    }

    #[test]
    fn the_share_is_kept_and_its_ends_are_exact() {
        let mut ids = EventIdGenerator::new();
        let now = jiff::Timestamp::UNIX_EPOCH;
        for (share, least, most) in [(0.0, 0, 0), (0.01, 120, 280), (0.5, 9_500, 10_500), (1.0, 20_000, 20_000)] {
            let recorder = recorder(true, share);
            let count = (0..20_000).filter(|_| recorder.records(*ids.next(now).0.as_bytes(), None)).count();
            // Seven standard deviations of 20,000 draws and more.
            assert!((least..=most).contains(&count), "{share}: {count}");
        }
    }

    #[test]
    fn one_trace_is_drawn_alike_wherever_it_is_drawn() {
        let (few, many) = (recorder(false, 0.1), recorder(false, 0.4));
        let mut ids = EventIdGenerator::new();
        for _ in 0..2_000 {
            let trace = *ids.next(jiff::Timestamp::UNIX_EPOCH).0.as_bytes();
            assert!(many.records(trace, None) || !few.records(trace, None), "a smaller share is part of a larger one");
        }
    }

    #[test]
    fn a_caller_s_decision_is_followed_where_that_is_asked_for() {
        assert!(begun(&recorder(true, 0.0), Some(SAMPLED)).is_some());
        assert!(begun(&recorder(true, 1.0), Some(UNSAMPLED)).is_none());
        assert!(begun(&recorder(false, 0.0), Some(SAMPLED)).is_none());
        assert!(begun(&recorder(false, 1.0), Some(UNSAMPLED)).is_some());
        // One that is none decides nothing.
        assert!(begun(&recorder(true, 0.0), Some("00-x")).is_none());
        assert!(begun(&recorder(true, 1.0), Some("00-x")).unwrap().parent.is_none());
    }

    #[test]
    fn a_trace_goes_on_with_ids_of_its_own_or_begins_with_the_event_s() {
        let goes_on = begun(&recorder(true, 0.0), Some(SAMPLED)).unwrap();
        let parent = Parent { span: 0xb7ad_6b71_6920_3331_u64.to_be_bytes(), is_remote: true };
        assert_eq!(goes_on.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!((goes_on.parent, goes_on.state.as_str()), (Some(parent), "a=1,b=2"));
        let begins = begun(&recorder(true, 1.0), None).unwrap();
        assert_eq!((begins.parent, begins.state.as_str()), (None, ""));
        assert_eq!(begins.trace[8..], begins.request);
        assert_eq!((begins.request[0] >> 6, begins.exchange[0] >> 6), (0b10, 0b11));
    }

    #[test]
    fn the_last_endpoint_that_was_asked_is_told() {
        let spans = begun(&recorder(true, 1.0), None).unwrap();
        assert_eq!(spans.asked.last(), None);
        spans.asked.note(0);
        assert_eq!(spans.asked.last(), Some((0, 0)));
        spans.asked.note(3);
        assert_eq!(spans.asked.last(), Some((3, 1)));
    }
}
