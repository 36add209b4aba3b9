//! What the spans of a recorded request say. Nothing here runs for any other.
//!
//! Names are those of OpenTelemetry's conventions for HTTP, and `octroi.` for what they have no word
//! for. Left out on purpose: the query, every header, the caller's address, the names of clients and
//! keys. The request id leads to the access log, which has what an operator may see.

use std::time::Duration;

use http::{HeaderMap, Uri};

use super::RequestContext;
use crate::model::clock::Monotonic;
use crate::model::usage::{CountedMethod, Outcome};
use crate::proxy::spans::RequestSpans;
use crate::proxy::trace::TraceId;
use crate::telemetry::traces::{Parent, Span, SpanKind};

/// How a request ended, for its spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) outcome: &'static str,
    /// A word of a closed set: the code of a refusal, why we cut.
    pub(super) reason: Option<&'static str>,
    /// What was wrong with the exchange with the upstream, in a word of a closed set.
    pub(super) fault: Option<&'static str>,
}

impl Ended {
    pub(super) fn well(outcome: &'static str) -> Self {
        Self { outcome, reason: None, fault: None }
    }
}

impl RequestContext {
    /// Decides whether this request is recorded, if any are.
    pub(in crate::proxy) fn may_be_recorded(&mut self, headers: &HeaderMap, uri: &Uri) {
        let Some(recorder) = &self.gateway.recorder else { return };
        self.spans = recorder.begin(self.event, headers, uri);
        if let Some(spans) = &self.spans {
            self.trace = Some(TraceId::of(&spans.trace));
        }
    }

    pub(in crate::proxy) fn spans(&self) -> Option<&RequestSpans> {
        self.spans.as_deref()
    }

    /// The exchange with an upstream begins.
    pub(in crate::proxy) fn exchanges_with(&mut self, upstream: usize) {
        if let Some(spans) = &mut self.spans {
            spans.exchanged = Some((upstream, self.gateway.clock.monotonic()));
        }
    }

    /// Hands its spans over, if it is recorded.
    pub(super) fn record(&mut self, ended: Ended) {
        let Some(spans) = self.spans.take() else { return };
        let Some(recorder) = &self.gateway.recorder else { return };
        let now = self.gateway.clock.monotonic();
        if let Some((upstream, began)) = spans.exchanged {
            recorder.put(self.exchange_span(&spans, upstream, (began, now), ended));
        }
        recorder.put(self.request_span(*spans, now, ended));
    }

    fn request_span(&self, spans: RequestSpans, now: Monotonic, ended: Ended) -> Span {
        let route = self.route.and_then(|route| self.gateway.routes.get(usize::from(route)));
        let (method, path) = (method(self.method), route.map(|route| route.config.path.clone()));
        let failed_by_us = self.status.is_some_and(|status| status >= 500);
        let broke = [Outcome::UpstreamError, Outcome::Cut].iter().any(|outcome| outcome.as_str() == ended.outcome);
        let is_error = failed_by_us || broke;
        let error =
            || ended.reason.or(ended.fault).map_or_else(|| status_or(self.status, ended.outcome), str::to_owned);
        let mut span = Span {
            trace: spans.trace,
            id: spans.request,
            parent: spans.parent,
            state: spans.state,
            kind: SpanKind::Server,
            name: path.as_ref().map_or_else(|| method.to_owned(), |path| format!("{method} {path}")),
            begin: self.nanoseconds(self.started),
            end: self.nanoseconds(now),
            attributes: Vec::with_capacity(14),
            is_error,
        };
        span.tell("http.request.method", Some(method));
        // Of what another proxy asks about, not of its question.
        let asked = self.target.as_ref().map_or(&spans.uri, |(_, uri)| uri);
        span.tell_path(asked.path());
        span.tell("url.scheme", Some(if self.peer.secured().is_some() { "https" } else { "http" }));
        span.tell("server.address", spans.host);
        span.tell("http.route", path);
        span.tell("http.response.status_code", self.status);
        span.tell("error.type", is_error.then(error));
        span.tell("octroi.route", route.map(|route| route.config.name.clone()));
        span.tell("octroi.outcome", Some(ended.outcome));
        span.tell("octroi.reason", ended.reason);
        span.tell("octroi.client_id", (!self.client.is_nil()).then(|| self.client.to_string()));
        span.tell("octroi.request_id", Some(self.request_id.as_str().to_owned()));
        span
    }

    fn exchange_span(
        &self,
        spans: &RequestSpans,
        upstream: usize,
        (began, now): (Monotonic, Monotonic),
        ended: Ended,
    ) -> Span {
        let config = &self.gateway.upstreams[upstream];
        let asked = spans.asked.last();
        let authority = asked.and_then(|(endpoint, _)| config.endpoints.get(endpoint));
        let address = authority.and_then(|endpoint| endpoint.authority.rsplit_once(':'));
        // What its head said; a refusal's status is ours.
        let status = self.status.filter(|_| self.upstream_took.is_some());
        let failed = ended.fault.map(str::to_owned);
        let error = failed.or_else(|| status.filter(|status| *status >= 400).map(|status| status.to_string()));
        let mut span = Span {
            trace: spans.trace,
            id: spans.exchange,
            parent: Some(Parent { span: spans.request, is_remote: false }),
            state: spans.state.clone(),
            kind: SpanKind::Client,
            name: method(self.method).to_owned(),
            begin: self.nanoseconds(began),
            end: self.nanoseconds(now),
            attributes: Vec::with_capacity(8),
            is_error: error.is_some(),
        };
        span.tell("http.request.method", Some(method(self.method)));
        span.tell("server.address", address.map(|(host, _)| host.to_owned()));
        span.tell("server.port", address.and_then(|(_, port)| port.parse::<u16>().ok()));
        span.tell("http.response.status_code", status);
        span.tell("error.type", error);
        let again = asked.and_then(|(_, before)| u16::try_from(before).ok()).filter(|before| *before > 0);
        span.tell("http.request.resend_count", again);
        span.tell("octroi.upstream", Some(config.name.clone()));
        let head = self.upstream_took.and_then(|took| i64::try_from(took.as_micros()).ok());
        span.tell("octroi.upstream.head_us", head);
        span
    }

    /// Wall time: that of its arrival and what passed since, so that a step of the clock in between
    /// makes no span that ends before it begins.
    fn nanoseconds(&self, at: Monotonic) -> u64 {
        let passed: Duration = at.since(self.started);
        let arrived = u64::try_from(self.at.as_nanosecond()).unwrap_or(0);
        arrived.saturating_add(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
    }
}

fn status_or(status: Option<u16>, outcome: &str) -> String {
    status.filter(|status| *status >= 500).map_or_else(|| outcome.to_owned(), |status| status.to_string())
}

fn method(method: CountedMethod) -> &'static str {
    if method == CountedMethod::Other { "_OTHER" } else { method.as_str() }
}
