//! From headers to exactly one credential.
//!
//! Only where the route looks: what it does not look at is none of ours and passes on. Two
//! credentials, or one header twice, are refused and never chosen between: which of two the
//! gateway took and which the upstream would have taken must not be a question.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::error::{AuthError, InvalidReason};

/// The longest credential: a JWT with many claims fits, a flood of bytes does not.
const LONGEST: usize = 8 * 1024;

/// A presented credential, borrowed from its header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    /// An API key's text.
    Key(&'a [u8]),
    /// A JWT.
    Jwt(&'a [u8]),
}

/// Finds the one credential; none is [`AuthError::Missing`].
pub(super) fn extract<'a>(places: &[HeaderName], headers: &'a HeaderMap) -> Result<Credential<'a>, AuthError> {
    let mut found = None;
    for place in places {
        let mut values = headers.get_all(place).iter().filter_map(|value| candidate(place, value));
        let Some(credential) = values.next() else { continue };
        if values.next().is_some() || found.is_some() {
            return Err(AuthError::Ambiguous);
        }
        found = Some(credential);
    }
    found.unwrap_or(Err(AuthError::Missing))
}

/// What a header's value holds; none when it is not ours (another scheme than Bearer).
fn candidate<'a>(place: &HeaderName, value: &'a HeaderValue) -> Option<Result<Credential<'a>, AuthError>> {
    let bearer = *place == AUTHORIZATION;
    let text = if bearer { after_bearer(value.as_bytes())? } else { value.as_bytes() };
    if text.is_empty() || text.len() > LONGEST {
        return Some(Err(AuthError::invalid(InvalidReason::Malformed)));
    }
    Some(match (is_jwt(text), bearer) {
        (true, true) => Ok(Credential::Jwt(text)),
        (true, false) => Err(AuthError::invalid(InvalidReason::WrongKind)),
        (false, _) => Ok(Credential::Key(text)),
    })
}

/// What follows `Bearer ` (any case, one or more spaces: RFC 9110 §11.4).
fn after_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") || rest.first().is_some_and(|byte| *byte != b' ') {
        return None;
    }
    Some(rest.trim_ascii())
}

/// Two dots, and the first part is a JSON object: the form of a signed JWT (RFC 7515 §3.1).
fn is_jwt(text: &[u8]) -> bool {
    let mut parts = text.split(|byte| *byte == b'.');
    let Some(head) = parts.next() else { return false };
    // Counting first: a text full of dots is never decoded.
    if parts.next().is_none() || parts.next().is_none() || parts.next().is_some() {
        return false;
    }
    let Ok(head) = URL_SAFE_NO_PAD.decode(head) else { return false };
    matches!(serde_json::from_slice(&head), Ok(serde_json::Value::Object(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln";

    fn word(headers: &[(&'static str, &str)], places: &[&'static str]) -> &'static str {
        let places: Vec<_> = places.iter().map(|place| HeaderName::from_static(place)).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match extract(&places, &map) {
            Ok(Credential::Key(text)) => {
                assert_eq!(text, b"some-api-key");
                "key"
            }
            Ok(Credential::Jwt(_)) => "jwt",
            Err(error) => error.reason(),
        }
    }

    #[test]
    fn exactly_one_credential_where_the_route_looks() {
        let both = &["authorization", "x-api-key"][..];
        let long = "x".repeat(LONGEST + 1);
        for (headers, places, expected) in [
            (&[][..], both, "missing"),
            (&[("x-api-key", "some-api-key")], both, "key"),
            (&[("authorization", "Bearer some-api-key")], both, "key"),
            (&[("authorization", "bearer   some-api-key")], both, "key"),
            (&[("authorization", "BEARER some-api-key ")], both, "key"),
            (&[("authorization", "Basic dTpw")], both, "missing"),
            (&[("authorization", "Bearerx some-api-key")], both, "missing"),
            (&[("authorization", "Basic dTpw"), ("x-api-key", "some-api-key")], both, "key"),
            (&[("authorization", "Bearer ")], both, "malformed"),
            (&[("authorization", "Bearer")], both, "malformed"),
            (&[("x-api-key", "")], both, "malformed"),
            (&[("x-api-key", &long)], both, "malformed"),
            (&[("authorization", &format!("Bearer {JWT}"))], both, "jwt"),
            (&[("x-api-key", JWT)], both, "wrong_kind"),
            (&[("authorization", "Bearer a.b.c")], both, "ambiguous-not"),
            (&[("x-api-key", "some-api-key"), ("x-api-key", "some-api-key")], both, "ambiguous"),
            (&[("authorization", "Bearer some-api-key"), ("x-api-key", "some-api-key")], both, "ambiguous"),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], both, "ambiguous"),
            (&[("x-api-key", "some-api-key")], &["authorization"], "missing"),
            (&[("authorization", "Bearer x"), ("x-api-key", "some-api-key")], &["x-api-key"], "key"),
        ] {
            if expected == "ambiguous-not" {
                // Three parts whose first is no JSON object: a key of any shape.
                let places: Vec<_> = places.iter().map(|place| HeaderName::from_static(place)).collect();
                let mut map = HeaderMap::new();
                map.append("authorization", HeaderValue::from_static("Bearer a.b.c"));
                assert!(matches!(extract(&places, &map), Ok(Credential::Key(b"a.b.c"))));
                continue;
            }
            assert_eq!(word(headers, places), expected, "{headers:?}");
        }
    }
}
