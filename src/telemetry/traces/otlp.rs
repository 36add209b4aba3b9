//! OTLP's messages, as far as spans need them (opentelemetry-proto 1.x: `trace/v1/trace.proto`,
//! `common/v1/common.proto`, `collector/trace/v1/trace_service.proto`). Tags are those files'; a test
//! has what is written read by the messages that are generated from them.

use prost::Message;

use super::{Span, SpanKind, SpanValue};

/// Who recorded the spans.
const SCOPE: &str = "octroi";

/// `SpanFlags`: sampled (W3C), and that it is known whether the parent is of another process.
const FLAGS: u32 = 0x0101;
/// The parent is of another process.
const PARENT_IS_REMOTE: u32 = 0x0200;
/// `Status.StatusCode`
const STATUS_ERROR: i32 = 2;

/// The body of a post.
#[must_use]
pub fn encode(resource: &[(String, String)], spans: Vec<Span>) -> Vec<u8> {
    let attributes = resource.iter().map(|(name, value)| text(name, value)).collect();
    let scope = Scope { name: SCOPE.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.into_iter().map(message).collect();
    let of_scope = ScopeSpans { scope: Some(scope), spans };
    let of_resource = ResourceSpans { resource: Some(Resource { attributes }), scope_spans: vec![of_scope] };
    Export { resource_spans: vec![of_resource] }.encode_to_vec()
}

/// What a collector that took a post says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How many of the spans it did not take after all.
    pub rejected: u64,
    /// Why not.
    pub reason: String,
}

/// Reads it; what cannot be read says that all is well.
#[must_use]
pub fn read_answer(body: &[u8]) -> Answer {
    let partial = Exported::decode(body).ok().and_then(|exported| exported.partial_success).unwrap_or_default();
    Answer { rejected: u64::try_from(partial.rejected_spans).unwrap_or(0), reason: partial.error_message }
}

fn message(span: Span) -> SpanMessage {
    let value = |value| match value {
        SpanValue::Text(text) => Value::Text(text.into_owned()),
        SpanValue::Number(number) => Value::Number(number),
    };
    let attribute = |(name, given): (&'static str, SpanValue)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value(given)) }),
    };
    let is_remote = span.parent.is_some_and(|parent| parent.is_remote);
    SpanMessage {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        trace_state: span.state,
        parent_span_id: span.parent.map(|parent| parent.span.to_vec()).unwrap_or_default(),
        name: span.name,
        kind: match span.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: span.begin,
        end_time_unix_nano: span.end,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        status: span.is_error.then_some(Status { code: STATUS_ERROR }),
        flags: if is_remote { FLAGS | PARENT_IS_REMOTE } else { FLAGS },
    }
}

fn text(name: &str, value: &str) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(Value::Text(value.to_owned())) }) }
}

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct Exported {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Theirs;
    use opentelemetry_proto::tonic::trace::v1::span::SpanKind as TheirKind;
    use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

    use super::super::Parent;
    use super::super::tests::span;
    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_protocol_s_own_messages() {
        let parent = Some(Parent { span: [3; 8], is_remote: true });
        let attributes = vec![("http.response.status_code", 502_u16.into()), ("octroi.outcome", "cut".into())];
        let given = Span { parent, state: "a=1".to_owned(), attributes, is_error: true, ..span() };
        let body = encode(&[("service.name".to_owned(), "edge".to_owned())], vec![given]);

        let read = ExportTraceServiceRequest::decode(&*body).unwrap();
        let of_resource = &read.resource_spans[0];
        let name = &of_resource.resource.as_ref().unwrap().attributes[0];
        let told = |value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>| value.clone().unwrap().value;
        assert_eq!((name.key.as_str(), told(&name.value)), ("service.name", Some(Theirs::StringValue("edge".into()))));
        assert_eq!(of_resource.scope_spans[0].scope.as_ref().unwrap().name, "octroi");
        let read = &of_resource.scope_spans[0].spans[0];
        assert_eq!((&read.trace_id[..], &read.span_id[..]), (&[1; 16][..], &[2; 8][..]));
        assert_eq!((&read.parent_span_id[..], read.trace_state.as_str()), (&[3; 8][..], "a=1"));
        assert_eq!((read.name.as_str(), read.kind()), ("GET /", TheirKind::Server));
        assert_eq!((read.start_time_unix_nano, read.end_time_unix_nano, read.flags), (1, 2, 0x301));
        assert_eq!(told(&read.attributes[0].value), Some(Theirs::IntValue(502)));
        assert_eq!(told(&read.attributes[1].value), Some(Theirs::StringValue("cut".into())));
        assert_eq!(read.status.as_ref().unwrap().code(), StatusCode::Error);
    }

    #[test]
    fn what_a_collector_does_not_take_is_read() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(read_answer(&body), Answer { rejected: 3, reason: "too old".to_owned() });
        assert_eq!(read_answer(b""), Answer::default());
        assert_eq!(read_answer(b"{}"), Answer::default());
    }
}
