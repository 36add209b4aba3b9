//! From headers to exactly one credential.
//!
//! Looks only where the route looks; what it does not look at passes on untouched. A request
//! with two credentials is refused rather than read one way: the upstream might read it the
//! other way. Only the Bearer scheme is ours; other schemes belong to somebody else.
//!
//! Refuses to know whether a credential is good.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use serde::de::IgnoredAny;

use super::error::{AuthError, InvalidReason};
use crate::config::route::RouteConfig;

/// What a request presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credential<'h> {
    /// Nothing.
    Absent,
    /// Something to be read as a key. Not printed by whoever holds it.
    Key(&'h [u8]),
    /// A JWT in a Bearer value. Not printed by whoever holds it.
    Jwt(&'h [u8]),
    /// What stands for the subject of a certificate.
    Certificate(&'h [u8]),
}

/// Where a request can have its credential.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// What stands for the subject of the certificate its caller showed
    /// ([`of_certificate`](crate::crypto::key_text::of_certificate)).
    pub certificate: Option<&'r [u8]>,
}

impl<'r> From<&'r HeaderMap> for Presented<'r> {
    fn from(headers: &'r HeaderMap) -> Self {
        Self { headers, certificate: None }
    }
}

/// The one credential of those at which `route` looks.
///
/// # Errors
/// As [`extract`]; a certificate beside a header.
pub(super) fn find<'r>(route: &RouteConfig, presented: Presented<'r>) -> Result<Credential<'r>, AuthError> {
    let in_headers = extract(&route.credentials, presented.headers)?;
    match presented.certificate.filter(|_| route.certificate) {
        None => Ok(in_headers),
        Some(subject) if in_headers == Credential::Absent => Ok(Credential::Certificate(subject)),
        Some(_) => Err(AuthError::Ambiguous("a certificate and a header carry one each")),
    }
}

/// The one credential in `headers`, of those at which the route looks.
///
/// # Errors
/// Two of them, one header twice, an oversized value, a JWT where only keys go.
pub(super) fn extract<'h>(looks_at: &[HeaderName], headers: &'h HeaderMap) -> Result<Credential<'h>, AuthError> {
    let mut found = Credential::Absent;
    for name in looks_at {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(AuthError::Ambiguous("a header that carries credentials came twice"));
        }
        let credential = if *name == AUTHORIZATION {
            let Some(token) = bearer(value.as_bytes()) else { continue };
            bearer_credential(token)?
        } else {
            key_header_credential(value.as_bytes().trim_ascii())?
        };
        if found != Credential::Absent {
            return Err(AuthError::Ambiguous("two headers carry one each"));
        }
        found = credential;
    }
    Ok(found)
}

/// What follows the Bearer scheme, compared case-insensitively (RFC 9110 §11.1); `None` for
/// other schemes. A scheme with nothing after it presents an empty credential.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let (scheme, rest) = value.split_at_checked(BEARER.len())?;
    let ours = scheme.eq_ignore_ascii_case(BEARER) && matches!(rest.first(), None | Some(b' ' | b'\t'));
    ours.then(|| rest.trim_ascii())
}

fn bearer_credential(token: &[u8]) -> Result<Credential<'_>, AuthError> {
    check_length(token)?;
    Ok(if is_jwt(token) { Credential::Jwt(token) } else { Credential::Key(token) })
}

fn key_header_credential(value: &[u8]) -> Result<Credential<'_>, AuthError> {
    check_length(value)?;
    if is_jwt(value) {
        return Err(AuthError::invalid(InvalidReason::WrongKind));
    }
    Ok(Credential::Key(value))
}

fn check_length(value: &[u8]) -> Result<(), AuthError> {
    if value.len() > LENGTH_MAX { Err(AuthError::invalid(InvalidReason::Malformed)) } else { Ok(()) }
}

/// Two dots, and a JSON object in base64url before the first of them: a JWT (RFC 7519). A legacy
/// key may have dots too, so that dots alone decide nothing. They are counted before anything is
/// decoded.
pub(super) fn is_jwt(token: &[u8]) -> bool {
    if !token.contains(&b'.') {
        return false;
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Ok(head) = URL_SAFE_NO_PAD.decode(head) else { return false };
    let starts_an_object = head.trim_ascii_start().first() == Some(&b'{');
    starts_an_object && serde_json::from_slice::<IgnoredAny>(&head).is_ok()
}

/// The one scheme that is ours (RFC 6750).
const BEARER: &[u8] = b"bearer";

/// No key and no token of a sane issuer is longer.
const LENGTH_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "octroi_live_whatever";

    fn jwt() -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode("{}"))
    }

    fn read(looks_at: &[&'static str], sent: &[(&'static str, &str)]) -> Result<String, AuthError> {
        let looks_at: Vec<_> = looks_at.iter().map(|name| HeaderName::from_static(name)).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, value.parse().unwrap());
        }
        extract(&looks_at, &headers).map(|credential| match credential {
            Credential::Absent => "absent".into(),
            Credential::Certificate(_) => "certificate".into(),
            Credential::Key(key) => format!("key {}", String::from_utf8_lossy(key)),
            Credential::Jwt(_) => "jwt".into(),
        })
    }

    #[test]
    fn every_row_of_the_contract() {
        const BOTH: &[&str] = &["authorization", "x-api-key"];
        let jwt = jwt();
        let (bearer_key, bearer_jwt) = (format!("Bearer {KEY}"), format!("Bearer {jwt}"));
        let key = || Ok(format!("key {KEY}"));
        let twice = || Err(AuthError::Ambiguous("a header that carries credentials came twice"));
        let two = || Err(AuthError::Ambiguous("two headers carry one each"));
        let invalid = |reason| Err(AuthError::invalid(reason));
        for (looks_at, sent, expected) in [
            (BOTH, &[][..], Ok("absent".into())),
            (BOTH, &[("x-api-key", KEY)], key()),
            (BOTH, &[("x-api-key", " octroi_live_whatever ")], key()),
            (BOTH, &[("authorization", &bearer_key)], key()),
            (BOTH, &[("authorization", "bearer  octroi_live_whatever ")], key()),
            (BOTH, &[("authorization", "BEARER\toctroi_live_whatever")], key()),
            // Only Bearer is ours; other schemes pass on.
            (BOTH, &[("authorization", "Basic dXNlcjpwYXNz")], Ok("absent".into())),
            (BOTH, &[("authorization", "Bearerish octroi_live_whatever")], Ok("absent".into())),
            (BOTH, &[("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", KEY)], key()),
            // A scheme without a credential presents an empty one, which is malformed later.
            (BOTH, &[("authorization", "Bearer")], Ok("key ".into())),
            (BOTH, &[("x-api-key", "")], Ok("key ".into())),
            // Two, or one header twice.
            (BOTH, &[("authorization", &bearer_key), ("x-api-key", KEY)], two()),
            (BOTH, &[("authorization", &bearer_jwt), ("x-api-key", KEY)], two()),
            (BOTH, &[("authorization", "Bearer"), ("x-api-key", KEY)], two()),
            (BOTH, &[("x-api-key", KEY), ("x-api-key", KEY)], twice()),
            (BOTH, &[("x-api-key", KEY), ("x-api-key", "other")], twice()),
            (BOTH, &[("authorization", &bearer_key), ("authorization", &bearer_key)], twice()),
            (BOTH, &[("authorization", "Basic dXNlcjpwYXNz"), ("authorization", &bearer_key)], twice()),
            (&["x-api-key", "x-token"], &[("x-api-key", KEY), ("x-token", KEY)], two()),
            // Only where the route looks.
            (&["x-api-key"], &[("authorization", &bearer_key), ("x-api-key", KEY)], key()),
            (&["x-api-key"], &[("authorization", &bearer_key)], Ok("absent".into())),
            (&["authorization"], &[("authorization", &bearer_key), ("x-api-key", "other")], key()),
            (&["x-api-key"], &[("authorization", "a"), ("authorization", "b"), ("x-api-key", KEY)], key()),
            (&[], &[("x-api-key", KEY)], Ok("absent".into())),
            // JWTs.
            (BOTH, &[("authorization", &bearer_jwt)], Ok("jwt".into())),
            (BOTH, &[("x-api-key", &jwt)], invalid(InvalidReason::WrongKind)),
            // Two dots alone make no JWT.
            (BOTH, &[("authorization", "Bearer legacy.key.text")], Ok("key legacy.key.text".into())),
            (BOTH, &[("x-api-key", "legacy.key.text")], Ok("key legacy.key.text".into())),
            (BOTH, &[("authorization", "Bearer e30.e30")], Ok("key e30.e30".into())),
            (BOTH, &[("authorization", "Bearer e30.e30.e30")], Ok("jwt".into())),
            (BOTH, &[("authorization", "Bearer e30.e30.e30.e30")], Ok("key e30.e30.e30.e30".into())),
            // `[]` and `{` in base64url: JSON but no object, and no JSON.
            (BOTH, &[("authorization", "Bearer W10.e30.e30")], Ok("key W10.e30.e30".into())),
            (BOTH, &[("authorization", "Bearer ew.e30.e30")], Ok("key ew.e30.e30".into())),
            // At most 8 KiB.
            (BOTH, &[("x-api-key", &"x".repeat(8_193))], invalid(InvalidReason::Malformed)),
            (BOTH, &[("authorization", &format!("Bearer {}", "x".repeat(8_193)))], invalid(InvalidReason::Malformed)),
            (BOTH, &[("x-api-key", &"x".repeat(8_192))], Ok(format!("key {}", "x".repeat(8_192)))),
        ] {
            assert_eq!(read(looks_at, sent), expected, "looking at {looks_at:?}, sent {sent:?}");
        }
    }

    #[test]
    fn a_deeply_nested_head_neither_overflows_nor_passes() {
        let nested = format!("{{\"a\":{}", "[".repeat(5_000));
        let token = format!("Bearer {}.e30.e30", URL_SAFE_NO_PAD.encode(nested));
        assert!(read(&["authorization"], &[("authorization", &token)]).unwrap().starts_with("key "));
    }
}
