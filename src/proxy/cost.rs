//! What the upstream says that a request cost: a header of the response or, for streams, a trailer.
//!
//! Only the upstream is believed: it knows what it did, and whether an operation was a repeat of one
//! that was paid for. Nothing that the caller sends is looked at. What is said is bounded by
//! `metering.cost_max`, and never reaches the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::header::TRAILER;
use http::{HeaderMap, HeaderName};
use prometheus_client::metrics::counter::Counter;

/// Where upstreams say it.
#[derive(Clone, Debug)]
pub(super) struct CostHeader {
    pub(super) name: HeaderName,
    /// The most that is believed.
    pub(super) most: u32,
    /// Costs that were bounded.
    pub(super) capped: Counter,
    /// Costs that were none, and left as they were.
    pub(super) invalid: Counter,
}

/// What one response said. Written where its body is read, read when it has ended; one thread.
#[derive(Debug)]
pub(super) struct DeclaredCost {
    header: CostHeader,
    units: AtomicU64,
}

/// Nothing was said.
const NOTHING: u64 = u64::MAX;

impl DeclaredCost {
    /// Nothing said yet.
    pub(super) fn new(header: &CostHeader) -> Arc<Self> {
        Arc::new(Self { header: header.clone(), units: AtomicU64::new(NOTHING) })
    }

    /// What was said; the last of header and trailer.
    pub(super) fn units(&self) -> Option<u32> {
        u32::try_from(self.units.load(Relaxed)).ok()
    }

    /// Takes it out of a response's head or trailers.
    pub(super) fn take(&self, headers: &mut HeaderMap) {
        let CostHeader { name, most, capped, invalid } = &self.header;
        let only_ours = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(name.as_str().as_bytes());
        if headers.get(TRAILER).is_some_and(only_ours) {
            headers.remove(TRAILER);
        }
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else { return };
        let said = if values.next().is_some() { None } else { read(first.as_bytes()) };
        match said {
            Some(units) => {
                if units > u64::from(*most) {
                    capped.inc();
                }
                self.units.store(units.min((*most).into()), Relaxed);
            }
            None => {
                invalid.inc();
            }
        }
        headers.remove(name);
    }
}

/// A whole number. One that is too large for 64 bits is as large as can be.
fn read(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(text.iter().fold(0, digit).min(NOTHING - 1))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_whole_number_is_a_cost_and_it_is_bounded() {
        let name = HeaderName::from_static("x-cost");
        for (values, units, capped, invalid) in [
            (&[][..], None, 0, 0),
            (&["0"], Some(0), 0, 0),
            (&["7"], Some(7), 0, 0),
            (&["0099"], Some(99), 0, 0),
            (&["100"], Some(100), 0, 0),
            (&["101"], Some(100), 1, 0),
            (&["99999999999999999999999999"], Some(100), 1, 0),
            (&["18446744073709551615"], Some(100), 1, 0),
            (&["-1"], None, 0, 1),
            (&["+1"], None, 0, 1),
            (&["1.5"], None, 0, 1),
            (&["1, 2"], None, 0, 1),
            (&[""], None, 0, 1),
            (&["1", "2"], None, 0, 1),
        ] {
            let header =
                CostHeader { name: name.clone(), most: 100, capped: Counter::default(), invalid: Counter::default() };
            let declared = DeclaredCost::new(&header);
            let mut headers = HeaderMap::new();
            headers.insert("x-other", HeaderValue::from_static("1"));
            for value in values {
                headers.append(&name, HeaderValue::from_static(value));
            }
            declared.take(&mut headers);
            assert_eq!(declared.units(), units, "{values:?}");
            assert_eq!((header.capped.get(), header.invalid.get()), (capped, invalid), "{values:?}");
            assert_eq!(headers.len(), 1, "it goes no further");
        }
    }
}
