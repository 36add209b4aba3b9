//! Spans of sampled requests, on their way to whoever sends them.
//!
//! A worker puts a finished [`Span`] into a bounded queue and never waits: when the queue is full the
//! span is dropped and counted. `server::spans` takes them out, on the control runtime, and only
//! there are they turned into OTLP. Refuses to decide what is sampled and what a span says of a
//! request: `proxy::spans` does.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::masked::masked;
use super::metrics::{Metrics, SpanCounters};

mod otlp;

pub use otlp::{Answer, encode, read_answer};

/// How many spans may wait: some seconds of a busy gateway at one percent, and at most some 8 MiB.
const WAITING_SPANS: usize = 8192;

/// How much of a path is told.
const PATH_MAX: usize = 256;

/// The trace that a span belongs to; never all zeros.
pub type TraceBytes = [u8; 16];
/// Which span of its trace; never all zeros.
pub type SpanBytes = [u8; 8];

/// Whose side of an exchange a span shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that was answered.
    Server,
    /// A request that was sent.
    Client,
}

/// The span that another one stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Which.
    pub span: SpanBytes,
    /// Whether it is of another process.
    pub is_remote: bool,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanValue {
    /// Text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for SpanValue {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u16> for SpanValue {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for SpanValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A piece of work that is over.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: TraceBytes,
    /// Which span of it.
    pub id: SpanBytes,
    /// What it stands in; none: the trace begins here.
    pub parent: Option<Parent>,
    /// `tracestate`, as it came, as far as it is kept.
    pub state: String,
    /// Whose side.
    pub kind: SpanKind,
    /// Of few different ones, so that spans can be grouped by it.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// What is told, in the words of OpenTelemetry's conventions where it has them.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// Whether it failed.
    pub is_error: bool,
}

impl Span {
    /// Tells a path, without the secrets of keys in it, and no more of it than 256 bytes. The
    /// query never belongs here.
    pub fn tell_path(&mut self, path: &str) {
        let mut path = masked(path).into_owned();
        path.truncate(path.floor_char_boundary(PATH_MAX));
        self.attributes.push(("url.path", path.into()));
    }

    /// Tells something, if it is known.
    pub fn tell(&mut self, name: &'static str, value: Option<impl Into<SpanValue>>) {
        self.attributes.extend(value.map(|value| (name, value.into())));
    }
}

/// Where workers put spans.
#[derive(Clone, Debug)]
pub struct SpanQueue {
    spans: Sender<Span>,
    counters: SpanCounters,
}

impl SpanQueue {
    /// A queue, and its other end.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>) -> (Self, Receiver<Span>) {
        let (spans, waiting) = channel(WAITING_SPANS);
        (Self { spans, counters: metrics.spans() }, waiting)
    }

    /// Never waits.
    pub fn put(&self, span: Span) {
        match self.spans.try_send(span) {
            Ok(()) => self.counters.recorded.inc(),
            Err(_) => self.counters.dropped.inc(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn span() -> Span {
        Span {
            trace: [1; 16],
            id: [2; 8],
            parent: None,
            state: String::new(),
            kind: SpanKind::Server,
            name: "GET /".to_owned(),
            begin: 1,
            end: 2,
            attributes: Vec::new(),
            is_error: false,
        }
    }

    #[test]
    fn a_full_queue_costs_spans_and_no_time() {
        let metrics = Metrics::new(&[], &[]);
        let (queue, mut waiting) = SpanQueue::new(&metrics);
        for _ in 0..WAITING_SPANS + 3 {
            queue.put(span());
        }
        let counters = metrics.spans();
        assert_eq!((counters.recorded.get(), counters.dropped.get()), (WAITING_SPANS as u64, 3));
        assert!(waiting.try_recv().is_ok());
        queue.put(span());
        assert_eq!(counters.dropped.get(), 3);
    }

    #[test]
    fn a_key_in_a_path_is_not_told() {
        let mut told = span();
        told.tell_path("/octroi_live_abcdefghijklSECRETSECRET123456/x");
        assert_eq!(told.attributes, [("url.path", "/octroi_live_abcdefghijkl[masked]/x".into())]);
        told.tell("octroi.reason", None::<&'static str>);
        assert_eq!(told.attributes.len(), 1);
        told.tell_path(&format!("/{}", "é".repeat(1_000)));
        let (_, SpanValue::Text(path)) = &told.attributes[1] else { panic!("{told:?}") };
        assert_eq!(path.len(), 256 - 1, "whole characters only");
    }
}
