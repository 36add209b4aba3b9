//! The `RateLimit` fields of a response: draft-ietf-httpapi-ratelimit-headers.
//!
//! `RateLimit-Policy: "default";q=100;w=1` says what the limit is, `RateLimit:
//! "default";r=99;t=1` how it stands. Several policies are several items of one list. Every
//! response carries both, so they are written into a buffer on the stack and copied once.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::PolicyStanding;

/// Every policy that applied, as the caller may know it: the two fields, written when the request
/// was charged. None of an open route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    limits: Option<HeaderValue>,
    levels: Option<HeaderValue>,
}

impl Standing {
    /// How these policies stand.
    pub fn of<'n>(policies: impl Iterator<Item = PolicyStanding<'n>>) -> Self {
        let (mut limits, mut levels) = (List::new(), List::new());
        for policy in policies {
            limits.item(policy.policy, [(b"q", policy.quota), (b"w", policy.window_seconds)]);
            levels.item(policy.policy, [(b"r", policy.remaining), (b"t", policy.reset_seconds)]);
        }
        Self { limits: limits.value(), levels: levels.value() }
    }

    /// Both fields as text: what the limits are, and how they stand.
    #[must_use]
    pub fn texts(&self) -> [Option<&str>; 2] {
        [&self.limits, &self.levels].map(|value| value.as_ref().and_then(|value| value.to_str().ok()))
    }

    /// Writes `RateLimit-Policy` and `RateLimit` into a response's head. Appends, so that an
    /// upstream's own fields stay: a caller under two limits is told of both. Nothing applied:
    /// nothing is written.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in [(RATE_LIMIT_POLICY, &self.limits), (RATE_LIMIT, &self.levels)] {
            if let Some(value) = value {
                headers.append(name, value.clone());
            }
        }
    }
}

/// A list of items with two numbers each (RFC 9651), written in place; one of more policies than
/// most clients have goes on in memory of its own.
struct List {
    bytes: [u8; List::INLINE],
    length: usize,
    more: Vec<u8>,
}

impl List {
    /// Two items of a name of at most 20 characters and two numbers of 15 digits take 118.
    const INLINE: usize = 128;

    /// The largest integer of RFC 9651 §3.3.1.
    const INTEGER_MAX: u64 = 999_999_999_999_999;

    fn new() -> Self {
        Self { bytes: [0; Self::INLINE], length: 0, more: Vec::new() }
    }

    fn item(&mut self, name: &str, parameters: [(&[u8; 1], u64); 2]) {
        if self.length > 0 {
            self.push(b", ");
        }
        self.push(b"\"");
        self.push(name.as_bytes());
        self.push(b"\"");
        for (key, number) in parameters {
            self.push(b";");
            self.push(key);
            self.push(b"=");
            self.number(number.min(Self::INTEGER_MAX));
        }
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(number % 10).expect("a digit is below ten");
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn push(&mut self, text: &[u8]) {
        if self.more.is_empty() && self.length + text.len() <= Self::INLINE {
            self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
            self.length += text.len();
        } else {
            if self.more.is_empty() {
                self.more.reserve(4 * Self::INLINE);
                self.more.extend_from_slice(&self.bytes[..self.length]);
            }
            self.more.extend_from_slice(text);
        }
    }

    fn value(&self) -> Option<HeaderValue> {
        let written = if self.more.is_empty() { &self.bytes[..self.length] } else { &self.more };
        if written.is_empty() {
            return None;
        }
        Some(HeaderValue::from_bytes(written).expect("names and digits are visible ASCII"))
    }
}

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

#[cfg(test)]
mod tests {
    use super::*;

    fn written(policies: &[PolicyStanding<'_>]) -> [Vec<String>; 2] {
        let mut headers = HeaderMap::new();
        Standing::of(policies.iter().copied()).write(&mut headers);
        [RATE_LIMIT_POLICY, RATE_LIMIT]
            .map(|name| headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    const DEFAULT: PolicyStanding<'_> =
        PolicyStanding { policy: "default", quota: 100, window_seconds: 1, remaining: 99, reset_seconds: 1 };

    #[test]
    fn fields_read_as_in_the_contract() {
        let key = PolicyStanding { policy: "key", quota: 5, window_seconds: 300, remaining: 0, reset_seconds: 60 };
        assert_eq!(
            written(&[DEFAULT]),
            [[r#""default";q=100;w=1"#.to_string()], [r#""default";r=99;t=1"#.to_string()]]
        );
        assert_eq!(
            written(&[DEFAULT, key]),
            [
                [r#""default";q=100;w=1, "key";q=5;w=300"#.to_string()],
                [r#""default";r=99;t=1, "key";r=0;t=60"#.to_string()]
            ]
        );
        assert_eq!(written(&[]), [Vec::<String>::new(), Vec::new()]);
    }

    #[test]
    fn any_number_of_the_widest_values_fits() {
        let name = "x".repeat(40);
        let widest = PolicyStanding {
            policy: &name,
            quota: u64::MAX,
            window_seconds: u64::MAX,
            remaining: u64::MAX,
            reset_seconds: u64::MAX,
        };
        for count in 1..12 {
            let [limits, _] = written(&vec![widest; count]);
            let item = format!(r#""{name}";q=999999999999999;w=999999999999999"#);
            assert_eq!(limits, [vec![item; count].join(", ")]);
        }
    }

    #[test]
    fn fields_of_the_upstream_stay() {
        let mut headers = HeaderMap::new();
        headers.insert(RATE_LIMIT, HeaderValue::from_static("\"theirs\";r=1"));
        Standing::of([PolicyStanding { policy: "client", remaining: 0, ..DEFAULT }].into_iter()).write(&mut headers);
        let values: Vec<_> = headers.get_all(RATE_LIMIT).iter().collect();
        assert_eq!(values, ["\"theirs\";r=1", "\"client\";r=0;t=1"]);
    }
}
