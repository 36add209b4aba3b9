//! What crosses to the upstream: nothing in our name, nothing for one hop, no credential.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clients::IdentityHeaders;
use crate::config::proxy::IdentityWords;
use crate::config::server::UnderscoreHeaders;
use crate::proxy::headers::{Rewrite, Shape, strip_response};

/// The caller's words in the name of others; none of ours is among them.
const FORGED: &[u8] = b"forged";

/// The first byte holds the switches; the rest are header lines.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (switches, lines) = super::split(data);
    let sent = lines_of(lines);
    check_request(&sent, switches);
    check_response(&sent);
}

fn lines_of(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(40) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(FORGED));
        let name = HeaderName::from_bytes(name.trim_ascii());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}

fn check_request(sent: &HeaderMap, switches: u8) {
    const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];
    let (peer, id) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("our-id"));
    let client = HeaderValue::from_static("our-client");
    let identity = IdentityHeaders { client_id: Some(client.clone()), ..IdentityHeaders::default() };
    let rewrite = Rewrite {
        credentials: &CREDENTIALS,
        underscores: if switches & 1 == 0 { UnderscoreHeaders::Drop } else { UnderscoreHeaders::Forward },
        trusted: switches & 2 != 0,
        peer: &peer,
        request_id: &id,
        identity: (switches & 4 == 0).then_some(&identity),
        shape: Shape {
            identity: if switches & 8 == 0 { IdentityWords::Octroi } else { IdentityWords::Kong },
            forwards_overrides: switches & 16 != 0,
            ..Shape::default()
        },
    };
    let mut headers = sent.clone();
    rewrite.apply(&mut headers);
    let only = |name: &str, value: Option<&HeaderValue>| {
        assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), value.into_iter().collect::<Vec<_>>(), "{sent:?}");
    };
    only("x-request-id", Some(&id));
    only("x-octroi-client-id", rewrite.identity.map(|_| &client));
    for (name, value) in &headers {
        let folded: String = name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let is_ours = folded == "x-octroi" || folded.starts_with("x-octroi-");
        assert!(!is_ours || *value == client, "{name}: {value:?} of {sent:?}");
        assert!(!is_for_one_hop(&folded), "{name} of {sent:?}");
        let is_of_kong = folded.starts_with("x-consumer-") || folded.starts_with("x-credential-");
        let is_our_word = name == "x-consumer-id" && *value == client;
        let is_ours_to_say = rewrite.shape.identity == IdentityWords::Kong;
        assert!(!is_of_kong || !is_ours_to_say || is_our_word, "{name}: {value:?} of {sent:?}");
        let overrides = matches!(folded.as_str(), "x-http-method-override" | "x-original-url");
        assert!(!overrides || rewrite.shape.forwards_overrides, "{name} of {sent:?}");
        assert!(folded != "x-api-key", "{name} of {sent:?}");
        let tells =
            matches!(folded.as_str(), "forwarded" | "x-real-ip" | "x-request-id") || folded.starts_with("x-forwarded-");
        assert!(!tells || rewrite.trusted || set_by_us(name.as_str()), "{name} of {sent:?}");
        assert!(!tells || folded == name.as_str(), "another spelling: {name} of {sent:?}");
        assert!(
            rewrite.underscores == UnderscoreHeaders::Forward || !name.as_str().contains('_'),
            "{name} of {sent:?}"
        );
    }
    if !rewrite.trusted {
        only("x-forwarded-for", Some(&peer));
        only("x-forwarded-proto", Some(&HeaderValue::from_static("http")));
    }
    let bearer = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"bearer");
    let crossed = headers.get_all(AUTHORIZATION).iter().filter(|value| bearer(value));
    for value in crossed {
        let scheme = value.as_bytes().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        assert!(!scheme.eq_ignore_ascii_case(b"bearer"), "{value:?} crossed");
    }
    // An upstream that is asked through us twice finds the same rules.
    let mut again = headers.clone();
    rewrite.apply(&mut again);
    assert_eq!(again.len(), again.keys().map(|name| again.get_all(name).iter().count()).sum::<usize>());
}

fn set_by_us(name: &str) -> bool {
    matches!(name, "x-request-id" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host")
}

fn is_for_one_hop(folded: &str) -> bool {
    let named =
        ["connection", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive", "http2-settings"];
    named.contains(&folded) || folded == "proxy" || folded.starts_with("proxy-")
}

fn check_response(sent: &HeaderMap) {
    let mut headers = sent.clone();
    strip_response(&mut headers);
    let named: Vec<String> = sent
        .get_all("connection")
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_lowercase())
        .collect();
    for name in headers.keys().map(HeaderName::as_str) {
        assert!(name == "trailer" || !is_for_one_hop(name), "{name} of {sent:?}");
        assert!(name == "content-length" || !named.iter().any(|named| named == name), "{name} of {sent:?}");
        assert!(name != "x-request-id", "{sent:?}");
    }
    let both = sent.contains_key("transfer-encoding") && headers.contains_key("content-length");
    assert!(!both, "a length beside a coding: {sent:?}");
}
