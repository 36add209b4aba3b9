//! Traces: what a collector gets of a request, and what the upstream and the caller notice of it.

use std::time::Instant;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::callers::{Answer, fetch};
use crate::collector::{Collector, find};
use crate::harness::{Gateway, Key, Setup, eventually};
use crate::upstream::Upstream;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

struct Scene {
    setup: Setup,
    upstream: Upstream,
    collector: Collector,
    key: Key,
    client: String,
}

impl Scene {
    /// A gateway that is told of a collector by the usual variables, and these.
    fn new(variables: &[(&str, &str)]) -> Self {
        let (upstream, collector) = (Upstream::start(), Collector::start());
        let mut setup = Setup::sqlite(upstream.address);
        setup.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address));
        for (name, value) in variables {
            setup.set(name, value);
        }
        let client = setup.client(&["acme", "--rate", "100000/s"]);
        let key = setup.key(&client, &[]);
        Self { setup, upstream, collector, key, client }
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        let key = format!("X-API-Key: {}", self.key.raw);
        fetch(self.setup.data, path, &[&[key.as_str()], headers].concat())
    }

    /// What the upstream got last.
    fn arrived(&self, name: &str) -> Option<String> {
        let headers = self.upstream.last().headers;
        let mut lines = headers.get_all(name).iter();
        let line = lines.next().map(|line| line.to_str().unwrap().to_owned());
        assert!(lines.next().is_none(), "{name} stands twice");
        line
    }

    fn spans(&self, count: usize) -> Vec<Span> {
        eventually("spans arrive", || self.collector.spans().len() >= count);
        let spans = self.collector.spans();
        assert_eq!(spans.len(), count, "{spans:?}");
        spans
    }

    fn metric(&self, state: &str) -> u64 {
        let name = format!("octroi_trace_spans_total{{state=\"{state}\"}} ");
        let text = fetch(self.setup.admin, "/metrics", &[]).body;
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{text}"));
        line.parse().unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The two spans of one request, the exchange's and the request's.
fn pair(spans: &[Span]) -> (&Span, &Span) {
    let of = |kind| spans.iter().find(|span| span.kind() == kind).unwrap_or_else(|| panic!("no {kind:?}: {spans:?}"));
    (of(SpanKind::Client), of(SpanKind::Server))
}

fn told(span: &Span, name: &str) -> String {
    find(&span.attributes, name).unwrap_or_else(|| panic!("no {name} in {span:?}"))
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

#[test]
fn a_request_is_two_spans_and_the_upstream_is_told_the_inner_one() {
    let scene = Scene::new(&[
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=let%20me"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ]);
    let gateway = scene.setup.start();
    let answer = scene.get("/orders/7?token=hidden", &["tracestate: alone=1"]);
    assert_eq!(answer.status, 200);
    let spans = scene.spans(2);
    let (exchange, request) = pair(&spans);

    assert_eq!(exchange.trace_id, request.trace_id);
    assert!(request.parent_span_id.is_empty() && exchange.parent_span_id == request.span_id, "{spans:?}");
    let parent = format!("00-{}-{}-01", hex(&exchange.trace_id), hex(&exchange.span_id));
    assert_eq!((scene.arrived("traceparent"), scene.arrived("tracestate")), (Some(parent), None));
    assert!(request.start_time_unix_nano <= exchange.start_time_unix_nano);
    assert!(exchange.start_time_unix_nano <= exchange.end_time_unix_nano);
    assert!(exchange.end_time_unix_nano <= request.end_time_unix_nano);

    assert_eq!((request.name.as_str(), exchange.name.as_str()), ("GET /", "GET"));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("http.route", "/"),
        ("http.response.status_code", "200"),
        ("octroi.route", "all"),
        ("octroi.outcome", "complete"),
        ("octroi.client_id", &scene.client),
        ("octroi.request_id", answer.header("x-request-id").unwrap()),
    ] {
        assert_eq!(told(request, name), value, "{name}");
    }
    for (name, value) in [
        ("server.address", "127.0.0.1".to_owned()),
        ("server.port", scene.upstream.address.port().to_string()),
        ("http.response.status_code", "200".to_owned()),
        ("octroi.upstream", "up".to_owned()),
    ] {
        assert_eq!(told(exchange, name), value, "{name}");
    }
    assert!(!is_error(request) && !is_error(exchange));
    let (target, headers) = scene.collector.head();
    assert_eq!((target.as_str(), &headers["content-type"]), ("/v1/traces", &"application/x-protobuf".parse().unwrap()));
    assert_eq!(headers["x-collector-key"], "let me");
    assert_eq!(scene.collector.resource("service.name").as_deref(), Some("edge"));
    assert_eq!(scene.collector.resource("deployment.environment.name").as_deref(), Some("test"));
    let written = scene.collector.bytes();
    for secret in [scene.key.raw.as_bytes(), b"hidden", b"acme", b"alone=1"] {
        assert!(!written.windows(secret.len()).any(|part| part == secret), "{}", String::from_utf8_lossy(secret));
    }
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_trace_that_is_recorded_goes_on() {
    // Nothing is drawn here: it is the caller that decided.
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "parentbased_always_off")]);
    let _gateway = scene.setup.start();
    scene.get("/", &[&format!("traceparent: {SAMPLED}"), "tracestate: a=1", "tracestate: b=2"]);
    let spans = scene.spans(2);
    let (exchange, request) = pair(&spans);
    assert_eq!(hex(&request.trace_id), &SAMPLED[3..35]);
    assert_eq!(hex(&request.parent_span_id), &SAMPLED[36..52]);
    assert_eq!((request.trace_state.as_str(), exchange.trace_state.as_str()), ("a=1,b=2", "a=1,b=2"));
    assert_eq!(scene.arrived("traceparent").unwrap(), format!("{}-{}-01", &SAMPLED[..35], hex(&exchange.span_id)));
    let states = scene.upstream.last().headers;
    let states: Vec<&str> = states.get_all("tracestate").iter().map(|line| line.to_str().unwrap()).collect();
    assert_eq!(states, ["a=1", "b=2"]);
}

#[test]
fn spans_gather_before_they_are_posted() {
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    let gateway = scene.setup.start();
    let began = Instant::now();
    for _ in 0..200 {
        scene.get("/", &[]);
    }
    let lasted = began.elapsed();
    scene.spans(400);
    // One for each half second that something came in, and one for what was left.
    let most = u32::try_from(lasted.as_millis() / 500).unwrap() + 2;
    assert!(scene.collector.posts() <= most, "{} posts of 200 requests in {lasted:?}", scene.collector.posts());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn what_is_not_recorded_passes_on_and_says_so() {
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "parentbased_always_on")]);
    let gateway = scene.setup.start();
    scene.get("/", &[&format!("traceparent: {UNSAMPLED}"), "tracestate: a=1"]);
    assert_eq!(scene.arrived("traceparent").as_deref(), Some(UNSAMPLED));
    assert_eq!(scene.arrived("tracestate").as_deref(), Some("a=1"));
    // One that is recorded, to be sure that the first one would have come by now.
    scene.get("/second", &[]);
    assert!(scene.spans(2).iter().all(|span| span.kind() != SpanKind::Server || told(span, "url.path") == "/second"));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(scene.collector.spans().len(), 2);

    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "always_off")]);
    let gateway = scene.setup.start();
    scene.get("/", &[]);
    let made = scene.arrived("traceparent").unwrap();
    assert!(made.ends_with("-00"), "nobody behind records what was not drawn here: {made}");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(scene.collector.posts(), 0);
}

#[test]
fn refusals_and_broken_upstreams_are_told_with_their_reason() {
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    let config = scene.setup.config();
    let nobody = format!("{config}[[upstreams]]\nname = \"nobody\"\nendpoints = [\"http://127.0.0.1:9\"]\n");
    scene.setup.write_config(&format!("{nobody}[[routes]]\npath = \"/nobody\"\nupstream = \"nobody\"\n"));
    let _gateway = scene.setup.start();
    let refused = fetch(scene.setup.data, "/", &["X-API-Key: octroi_live_wrong"]);
    assert_eq!(refused.status, 401);
    let spans = scene.spans(1);
    assert_eq!((spans[0].kind(), is_error(&spans[0])), (SpanKind::Server, false));
    for (name, value) in
        [("octroi.outcome", "rejected"), ("octroi.reason", "invalid_credentials"), ("http.response.status_code", "401")]
    {
        assert_eq!(told(&spans[0], name), value);
    }

    assert_eq!(scene.get("/nobody", &[]).status, 502);
    let spans = scene.spans(3);
    let (exchange, request) = pair(&spans[1..]);
    assert!(is_error(exchange) && is_error(request));
    assert_eq!(told(exchange, "error.type"), "connection_refused");
    assert_eq!(find(&exchange.attributes, "http.response.status_code"), None);
    assert_eq!((told(exchange, "server.port").as_str(), told(exchange, "octroi.upstream").as_str()), ("9", "nobody"));
    assert_eq!(told(request, "error.type"), "upstream_unavailable");
    assert_eq!(told(request, "octroi.outcome"), "upstream_error");

    // The service's own failure is told as it is.
    assert_eq!(scene.get("/status/503", &[]).status, 503);
    let spans = scene.spans(5);
    let (exchange, request) = pair(&spans[3..]);
    assert_eq!((told(exchange, "error.type").as_str(), told(request, "error.type").as_str()), ("503", "503"));
}

#[test]
fn a_collector_that_is_away_costs_no_request() {
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    scene.collector.fail(2);
    let gateway = scene.setup.start();
    scene.get("/", &[]);
    gateway.wait_for_log("the collector of traces does not take spans");
    // Tried again, and taken once.
    scene.spans(2);
    gateway.wait_for_log("takes spans again");
    assert_eq!((scene.metric("recorded"), scene.metric("sent"), scene.metric("failed")), (2, 2, 0));
    scene.collector.fail(u32::MAX);
    for _ in 0..50 {
        assert_eq!(scene.get("/", &[]).status, 200);
    }
    assert_eq!((scene.metric("recorded"), scene.metric("sent")), (102, 2));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn nobody_listening_costs_no_request_and_a_stop_does_not_wait_long() {
    let scene = Scene::new(&[
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces"),
    ]);
    let gateway = scene.setup.start();
    for _ in 0..20 {
        assert_eq!(scene.get("/", &[]).status, 200);
    }
    let began = Instant::now();
    assert_eq!(gateway.stop(), 0);
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    assert_eq!(scene.collector.posts(), 0);
}

#[test]
fn a_stop_sends_what_waits() {
    let scene = Scene::new(&[("OTEL_TRACES_SAMPLER", "always_on")]);
    let gateway: Gateway = scene.setup.start();
    for _ in 0..300 {
        scene.get("/", &[]);
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(scene.collector.spans().len(), 600);
}

#[test]
fn off_sends_nothing_and_changes_nothing() {
    let scene = Scene::new(&[("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_on")]);
    let gateway = scene.setup.start();
    scene.get("/", &[&format!("traceparent: {SAMPLED}"), "tracestate: a=1"]);
    assert_eq!(scene.arrived("traceparent").as_deref(), Some(SAMPLED));
    assert_eq!(scene.arrived("tracestate").as_deref(), Some("a=1"));
    scene.get("/", &[]);
    assert!(scene.arrived("traceparent").unwrap().ends_with("-01"), "as `proxy.traceparent` says");
    assert_eq!(scene.metric("recorded"), 0);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(scene.collector.posts(), 0);
}
