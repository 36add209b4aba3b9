//! A request that comes back to where it was is turned away before it does so for ever.
//!
//! Every request that leaves carries a `Via` with this process's name, which is drawn at start: so
//! two gateways behind each other are no loop, nor is a service that calls back through the gateway
//! a few times. A request that was here more than [`PASSES_MAX`] times is answered 508. A caller
//! that writes our name harms itself.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// How often a request may have been here before.
const PASSES_MAX: usize = 3;

/// This process in `Via`.
#[derive(Clone, Debug)]
pub(super) struct Pseudonym {
    name: String,
    over_1_0: HeaderValue,
    over_1_1: HeaderValue,
    over_2: HeaderValue,
}

impl Pseudonym {
    /// The process that drew `number`.
    #[must_use]
    pub(super) fn new(number: u32) -> Self {
        let name = format!("octroi-{number:08x}");
        let over = |version: &str| HeaderValue::try_from(format!("{version} {name}")).expect("a pseudonym is a token");
        Self { over_1_0: over("1.0"), over_1_1: over("1.1"), over_2: over("2"), name }
    }

    /// One that was drawn.
    #[must_use]
    pub(super) fn draw() -> Self {
        let mut number = [0; 4];
        getrandom::fill(&mut number).expect("the kernel gives randomness once it has booted");
        Self::new(u32::from_be_bytes(number))
    }

    /// What a request that came by `version` carries on its way (RFC 9110 §7.6.3).
    #[must_use]
    pub(super) fn via(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_10 => &self.over_1_0,
            Version::HTTP_2 => &self.over_2,
            _ => &self.over_1_1,
        }
    }

    /// Whether a request was here too often.
    #[must_use]
    pub(super) fn is_going_round(&self, headers: &HeaderMap) -> bool {
        let is_here = |part: &&[u8]| {
            let mut words = part.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.next().is_some() && words.next() == Some(self.name.as_bytes())
        };
        let lines = headers.get_all(VIA).iter();
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).filter(is_here).nth(PASSES_MAX).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_name_is_counted() {
        let us = Pseudonym::new(0x2a);
        assert_eq!(us.via(Version::HTTP_11), "1.1 octroi-0000002a");
        assert_eq!(us.via(Version::HTTP_2), "2 octroi-0000002a");
        for (lines, round) in [
            (&[][..], false),
            (&["1.1 octroi-0000002a, 1.1 octroi-0000002a, 1.1 octroi-0000002a"], false),
            (&["1.1 octroi-0000002a,2  octroi-0000002a , 1.0 octroi-0000002a (x)", "1.1 octroi-0000002a"], true),
            (&["1.1 octroi-0000002b, 1.1 octroi-0000002b, 1.1 octroi-0000002b, 1.1 octroi-0000002b"], false),
            (&["octroi-0000002a, octroi-0000002a, octroi-0000002a, octroi-0000002a"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(VIA, HeaderValue::from_static(line));
            }
            assert_eq!(us.is_going_round(&headers), round, "{lines:?}");
        }
    }
}
