//! The `RateLimit` fields of a response: draft-ietf-httpapi-ratelimit-headers.
//!
//! `RateLimit-Policy: "default";q=100;w=1` says what the limit is, `RateLimit:
//! "default";r=99;t=1` how it stands. Several policies are several items of one list. Every
//! response carries both, so they are written into a buffer on the stack and copied once.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Standing;

impl Standing {
    /// Writes `RateLimit-Policy` and `RateLimit` into a response's head. Appends, so that an
    /// upstream's own fields stay: a caller under two limits is told of both. Nothing applied:
    /// nothing is written.
    pub fn write(&self, headers: &mut HeaderMap) {
        let (mut limits, mut levels) = (List::new(), List::new());
        for policy in self.policies() {
            limits.item(policy.policy, [(b"q", policy.burst.into()), (b"w", policy.window_seconds)]);
            levels.item(policy.policy, [(b"r", policy.remaining.into()), (b"t", policy.reset_seconds)]);
        }
        for (name, list) in [(RATE_LIMIT_POLICY, limits), (RATE_LIMIT, levels)] {
            if let Some(value) = list.value() {
                headers.append(name, value);
            }
        }
    }
}

/// A list of items with two numbers each (RFC 9651), written in place.
struct List {
    bytes: [u8; List::CAPACITY],
    length: usize,
}

impl List {
    /// Two items of a name of at most 20 characters and two numbers of 15 digits take 118.
    const CAPACITY: usize = 128;

    /// The largest integer of RFC 9651 §3.3.1.
    const INTEGER_MAX: u64 = 999_999_999_999_999;

    fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
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
        self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    fn value(&self) -> Option<HeaderValue> {
        if self.length == 0 {
            return None;
        }
        Some(HeaderValue::from_bytes(&self.bytes[..self.length]).expect("names and digits are visible ASCII"))
    }
}

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

#[cfg(test)]
mod tests {
    use super::super::PolicyStanding;
    use super::*;

    fn written(policies: [Option<PolicyStanding>; 2]) -> [Vec<String>; 2] {
        let mut headers = HeaderMap::new();
        Standing { policies }.write(&mut headers);
        [RATE_LIMIT_POLICY, RATE_LIMIT]
            .map(|name| headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn fields_read_as_in_the_contract() {
        let default =
            PolicyStanding { policy: "default", burst: 100, window_seconds: 1, remaining: 99, reset_seconds: 1 };
        let key = PolicyStanding { policy: "key", burst: 5, window_seconds: 300, remaining: 0, reset_seconds: 60 };
        assert_eq!(
            written([Some(default), None]),
            [[r#""default";q=100;w=1"#.to_string()], [r#""default";r=99;t=1"#.to_string()]]
        );
        assert_eq!(
            written([Some(default), Some(key)]),
            [
                [r#""default";q=100;w=1, "key";q=5;w=300"#.to_string()],
                [r#""default";r=99;t=1, "key";r=0;t=60"#.to_string()]
            ]
        );
        assert_eq!(written([None, None]), [Vec::<String>::new(), Vec::new()]);
    }

    #[test]
    fn the_widest_values_fit() {
        let widest = PolicyStanding {
            policy: "default",
            burst: u32::MAX,
            window_seconds: u64::MAX,
            remaining: u32::MAX,
            reset_seconds: u64::MAX,
        };
        let [limits, _] = written([Some(widest), Some(widest)]);
        assert!(limits[0].starts_with(r#""default";q=4294967295;w=999999999999999, "#), "{}", limits[0]);
    }

    #[test]
    fn fields_of_the_upstream_stay() {
        let mut headers = HeaderMap::new();
        headers.insert(RATE_LIMIT, HeaderValue::from_static("\"theirs\";r=1"));
        let ours = PolicyStanding { policy: "client", burst: 1, window_seconds: 1, remaining: 0, reset_seconds: 1 };
        Standing { policies: [Some(ours), None] }.write(&mut headers);
        let values: Vec<_> = headers.get_all(RATE_LIMIT).iter().collect();
        assert_eq!(values, ["\"theirs\";r=1", "\"client\";r=0;t=1"]);
    }
}
