//! `traceparent` and `tracestate` (W3C Trace Context, level 1).
//!
//! A valid one passes on unchanged with its `tracestate`: we make no span of our own that could be
//! its parent. One that is not valid goes, together with `tracestate`, and like an absent one it is
//! replaced: the upstream's spans, the access log and the caller's answer then share an id. The ids
//! are those of the usage event, a UUID v7 with 62 random bits at its end, so a new one costs no
//! randomness: the trace id is the whole UUID, the parent id its second half, and neither can be
//! zero, because the version and the variant are in them.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::proxy::Traceparent;
use crate::model::id::EventId;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
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
}

/// Makes the headers of a request on its way up say which trace it belongs to; none: it belongs to
/// none.
pub(super) fn pass(headers: &mut HeaderMap, event: EventId, setting: Traceparent) -> Option<TraceId> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    if let (Some(line), None) = (lines.next(), lines.next())
        && let Some(trace) = read(line.as_bytes())
    {
        return Some(trace);
    }
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    let flags = match setting {
        Traceparent::Pass => return None,
        Traceparent::Sampled => *b"01",
        Traceparent::Unsampled => *b"00",
    };
    let (made, trace) = make(event, flags);
    headers.insert(TRACEPARENT, made);
    Some(trace)
}

/// The trace of a valid `traceparent`.
fn read(text: &[u8]) -> Option<TraceId> {
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &[u8]| text.iter().all(|byte| *byte == b'0');
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let (version, trace, parent, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    let is_legal = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    let is_legal = is_legal && [version, trace, parent, flags].into_iter().all(is_hex);
    // Later versions may say more behind a dash (§3.2.4).
    let ends = if version == b"00" { rest.is_empty() } else { matches!(rest.first(), None | Some(b'-')) };
    let is_valid = is_legal && ends && version != b"ff" && !is_zero(trace) && !is_zero(parent);
    is_valid.then(|| trace.try_into().ok().map(TraceId)).flatten()
}

fn make(event: EventId, flags: [u8; 2]) -> (HeaderValue, TraceId) {
    let mut trace = [0; 32];
    for (pair, byte) in trace.chunks_exact_mut(2).zip(event.0.as_bytes()) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..35].copy_from_slice(&trace);
    text[36..52].copy_from_slice(&trace[16..]);
    text[53..].copy_from_slice(&flags);
    (HeaderValue::from_bytes(&text).expect("hex digits and dashes"), TraceId(trace))
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
        let trace = pass(&mut headers, event, setting);
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
                assert_eq!(read(made.as_bytes()), trace, "{made}");
                assert!(trace.is_some() && made.ends_with(flags), "{made}");
            }
            let (headers, trace) = passed(bad, Traceparent::Pass);
            assert_eq!((headers.is_empty(), trace), (true, None), "{bad:?}");
        }
    }
}
