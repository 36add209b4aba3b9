//! `traceparent` and `tracestate` (W3C Trace Context, level 1).
//!
//! A valid one passes on unchanged with its `tracestate`, unless the request is recorded (`spans`):
//! then the span of our exchange takes the parent's place in it. One that is not valid goes, together with `tracestate`, and like an absent one it is
//! replaced: the upstream's spans, the access log and the caller's answer then share an id. The ids
//! are those of the usage event, a UUID v7 with 62 random bits at its end, so a new one costs no
//! randomness: the trace id is the whole UUID, the parent id its second half, and neither can be
//! zero, because the version and the variant are in them.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::spans::RequestSpans;
use crate::config::proxy::Traceparent;
use crate::model::id::EventId;
use crate::telemetry::traces::{SpanBytes, TraceBytes};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-` + 32 + `-` + 16 + `-` + 2
const LENGTH: usize = 55;
const HEX: [u8; 16] = *b"0123456789abcdef";

/// 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId([u8; 32]);

impl TraceId {
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(super) fn of(trace: &TraceBytes) -> Self {
        let mut text = [0; 32];
        write_hex(&mut text, trace);
        Self(text)
    }
}

/// What a caller's valid `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    trace: TraceId,
    span: [u8; 16],
    flags: u8,
}

impl Incoming {
    /// None: there is none, or none that is valid.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => read(line.as_bytes()),
            _ => None,
        }
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    pub(super) fn trace_bytes(&self) -> TraceBytes {
        let mut bytes = [0; 16];
        read_hex(&mut bytes, &self.trace.0);
        bytes
    }

    pub(super) fn span_bytes(&self) -> SpanBytes {
        let mut bytes = [0; 8];
        read_hex(&mut bytes, &self.span);
        bytes
    }
}

/// Makes the headers of a request on its way up say which trace it belongs to; none: it belongs to
/// none.
pub(super) fn pass(
    headers: &mut HeaderMap,
    event: EventId,
    setting: Traceparent,
    recorded: Option<&RequestSpans>,
) -> Option<TraceId> {
    if let Some(spans) = recorded {
        if spans.parent.is_none() {
            headers.remove(TRACESTATE);
        }
        let (made, trace) = make(&spans.trace, spans.exchange, *b"01");
        headers.insert(TRACEPARENT, made);
        return Some(trace);
    }
    if let Some(incoming) = Incoming::of(headers) {
        return Some(incoming.trace);
    }
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    let flags = match setting {
        Traceparent::Pass => return None,
        Traceparent::Sampled => *b"01",
        Traceparent::Unsampled => *b"00",
    };
    let trace = event.0.as_bytes();
    let (made, trace) = make(trace, event.0.as_u64_pair().1.to_be_bytes(), flags);
    headers.insert(TRACEPARENT, made);
    Some(trace)
}

fn read(text: &[u8]) -> Option<Incoming> {
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &[u8]| text.iter().all(|byte| *byte == b'0');
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let (version, trace, parent, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    let is_legal = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    let is_legal = is_legal && [version, trace, parent, flags].into_iter().all(is_hex);
    // Later versions may say more behind a dash (§3.2.4).
    let ends = if version == b"00" { rest.is_empty() } else { matches!(rest.first(), None | Some(b'-')) };
    let is_valid = is_legal && ends && version != b"ff" && !is_zero(trace) && !is_zero(parent);
    if !is_valid {
        return None;
    }
    let mut low = [0; 1];
    read_hex(&mut low, flags);
    Some(Incoming { trace: TraceId(trace.try_into().ok()?), span: parent.try_into().ok()?, flags: low[0] })
}

fn make(trace: &TraceBytes, span: SpanBytes, flags: [u8; 2]) -> (HeaderValue, TraceId) {
    let trace = TraceId::of(trace);
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..35].copy_from_slice(&trace.0);
    write_hex(&mut text[36..52], &span);
    text[53..].copy_from_slice(&flags);
    (HeaderValue::from_bytes(&text).expect("hex digits and dashes"), trace)
}

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// Of digits that were looked at.
fn read_hex(bytes: &mut [u8], text: &[u8]) {
    let digit = |byte: u8| if byte.is_ascii_digit() { byte - b'0' } else { (byte | 0x20).wrapping_sub(b'a') + 10 };
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event_id::EventIdGenerator;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn passed(sent: &[&'static str], setting: Traceparent) -> (HeaderMap, Option<TraceId>) {
        let mut headers = HeaderMap::new();
        for line in sent {
            headers.append(TRACEPARENT, HeaderValue::from_static(line));
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        let event = EventIdGenerator::new().next(jiff::Timestamp::UNIX_EPOCH);
        let trace = pass(&mut headers, event, setting, None);
        (headers, trace)
    }

    #[test]
    fn a_valid_one_passes_unchanged() {
        for good in [
            GOOD,
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let (headers, trace) = passed(&[good], Traceparent::Sampled);
            assert_eq!(headers[TRACEPARENT], good);
            assert_eq!(headers[TRACESTATE], "a=1");
            assert_eq!(trace.unwrap().as_str(), "0af7651916cd43dd8448eb211c80319c");
        }
    }

    #[test]
    fn what_it_says_is_read() {
        let said = read(GOOD.as_bytes()).unwrap();
        assert_eq!(said.trace_bytes(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(said.span_bytes(), 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        let flags = |flags: &str| read(format!("{}{flags}", &GOOD[..53]).as_bytes()).unwrap().is_sampled();
        assert_eq!(["00", "01", "02", "03", "fe", "ff"].map(flags), [false, true, false, true, false, true]);
    }

    #[test]
    fn any_other_is_replaced_by_a_valid_one() {
        for bad in [
            &[][..],
            &[GOOD, GOOD],
            &[""],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
            &["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"],
            &["00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01"],
            &["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more"],
        ] {
            for (setting, flags) in [(Traceparent::Sampled, "-01"), (Traceparent::Unsampled, "-00")] {
                let (headers, trace) = passed(bad, setting);
                let made = headers[TRACEPARENT].to_str().unwrap();
                assert!(!headers.contains_key(TRACESTATE), "{bad:?}");
                assert_eq!(read(made.as_bytes()).map(|made| made.trace), trace, "{made}");
                assert!(trace.is_some() && made.ends_with(flags), "{made}");
            }
            let (headers, trace) = passed(bad, Traceparent::Pass);
            assert_eq!((headers.is_empty(), trace), (true, None), "{bad:?}");
        }
    }
}
