//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Standing;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Longest form: a name of 32, two letters and two numbers of 20 digits each, with punctuation.
const LONGEST: usize = 96;

impl Standing {
    /// Writes both fields into a response's head. Appends: an upstream's own limits stay.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.append(POLICY, item(self.policy, *b"qw", u64::from(self.burst), self.window_seconds));
        headers.append(STATE, item(self.policy, *b"rt", u64::from(self.remaining), self.reset_seconds));
    }
}

/// `"name";q=100;w=1`: a structured-field item (RFC 9651), built on the stack.
fn item(name: &str, letters: [u8; 2], first: u64, second: u64) -> HeaderValue {
    let mut text = Text { bytes: [0; LONGEST], length: 0 };
    text.push(b"\"");
    text.push(&name.as_bytes()[..name.len().min(32)]);
    text.push(b"\"");
    for (letter, number) in letters.into_iter().zip([first, second]) {
        text.push(&[b';', letter, b'=']);
        text.push_number(number);
    }
    HeaderValue::from_bytes(&text.bytes[..text.length]).expect("names of policies are visible ASCII")
}

struct Text {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Text {
    fn push(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn push_number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(number % 10).expect("a digit");
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_draft() {
        let standing = Standing { policy: "default", burst: 100, window_seconds: 1, remaining: 99, reset_seconds: 1 };
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-policy", HeaderValue::from_static("\"theirs\";q=1;w=1"));
        standing.write(&mut headers);
        let policies: Vec<_> = headers.get_all("ratelimit-policy").iter().collect();
        assert_eq!(policies, ["\"theirs\";q=1;w=1", "\"default\";q=100;w=1"]);
        assert_eq!(headers["ratelimit"], "\"default\";r=99;t=1");
    }

    #[test]
    fn the_largest_numbers_fit() {
        let standing = Standing {
            policy: "a name that is as long as it can be and longer",
            burst: u32::MAX,
            window_seconds: u64::MAX,
            remaining: u32::MAX,
            reset_seconds: u64::MAX,
        };
        standing.write(&mut HeaderMap::new());
    }
}
