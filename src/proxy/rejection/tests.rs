//! The table against the contract, row by row.

use super::*;
use crate::auth::InvalidReason;
use crate::issuer::RefreshFault;
use crate::limit::Standing;
use crate::model::id::{ApiKeyId, ClientId};

fn all() -> Vec<(Rejection, u16, &'static str, &'static [&'static str])> {
    let limit = Exceeded {
        what: ExceededKind::Rate,
        policy: "client".into(),
        standing: Standing::default(),
        retry_after_seconds: 7,
    };
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    vec![
        (HeadFault::Malformed("x").into(), 400, "bad_request", &["connection"]),
        (HeadFault::Method.into(), 405, "method_not_allowed", &["allow", "connection"]),
        (HeadFault::UriTooLong.into(), 414, "uri_too_long", &["connection"]),
        (HeadFault::HeadersTooLarge.into(), 431, "headers_too_large", &["connection"]),
        (Rejection::Fragment, 400, "bad_request", &["connection"]),
        (PathFault::DotSegment.into(), 400, "bad_request", &[]),
        (Rejection::UnderscoreName, 400, "bad_request", &[]),
        (Rejection::Server(Refusal::Malformed), 400, "bad_request", &[]),
        (Rejection::Server(Refusal::UriTooLong), 414, "uri_too_long", &[]),
        (Rejection::Server(Refusal::HeadersTooLarge), 431, "headers_too_large", &[]),
        (Rejection::Server(Refusal::HeadTimeout), 408, "request_timeout", &[]),
        (Rejection::Server(Refusal::Overloaded), 503, "overloaded", &["retry-after"]),
        (Rejection::Overloaded, 503, "overloaded", &["retry-after"]),
        (
            Rejection::Maintenance(Maintenance { message: "".into(), retry_after: std::time::Duration::from_mins(5) }),
            503,
            "maintenance",
            &["retry-after"],
        ),
        (Rejection::Loop, 508, "loop_detected", &[]),
        (Rejection::NoRoute, 404, "no_route", &[]),
        (Rejection::Method(HeaderValue::from_static("GET")), 405, "method_not_allowed", &["allow"]),
        (AuthError::Missing.into(), 401, "missing_credentials", &["www-authenticate"]),
        (AuthError::Ambiguous("twice").into(), 400, "ambiguous_credentials", &[]),
        (AuthError::invalid(InvalidReason::Revoked).into(), 401, "invalid_credentials", &["www-authenticate"]),
        (AuthError::ClientSuspended { client: ClientId::NIL, key: ApiKeyId::NIL }.into(), 403, "client_suspended", &[]),
        (Rejection::CallerGone, 400, "bad_request", &["connection"]),
        (AuthError::InsufficientScope.into(), 403, "insufficient_scope", &["www-authenticate"]),
        (AuthError::AddressDenied.into(), 403, "address_denied", &[]),
        (AuthError::TooManyFailures { retry_after_seconds: 3 }.into(), 429, "too_many_failures", &["retry-after"]),
        (AuthError::Unavailable.into(), 503, "auth_unavailable", &["retry-after"]),
        (AuthError::IssuerUnavailable.into(), 503, "auth_unavailable", &["retry-after"]),
        (JournalFull.into(), 503, "metering_unavailable", &["retry-after"]),
        (Rejection::BodyTooLarge, 413, "body_too_large", &[]),
        (Rejection::BodyLate, 408, "request_timeout", &["connection"]),
        (ExchangeFault::Connect { authority: "a".into(), source: refused() }.into(), 502, "upstream_unavailable", &[]),
        (ExchangeFault::ConnectLate { authority: "a".into() }.into(), 504, "upstream_timeout", &[]),
        (ExchangeFault::SwitchedProtocols.into(), 502, "upstream_unavailable", &[]),
        (ExchangeFault::Late.into(), 504, "upstream_timeout", &[]),
        (Rejection::NoIssuer, 503, "auth_unavailable", &["retry-after"]),
        (FormFault::Duplicate.into(), 400, "bad_request", &[]),
        (Rejection::UnsupportedGrant, 400, "unsupported_grant_type", &[]),
        (GrantFault::Scope.into(), 400, "invalid_scope", &[]),
        (GrantFault::NoRefreshTokens.into(), 400, "invalid_scope", &[]),
        (GrantFault::Audience.into(), 400, "invalid_target", &[]),
        (GrantFault::Refresh(RefreshFault::Reused).into(), 400, "invalid_grant", &[]),
        (GrantFault::Unavailable.into(), 503, "auth_unavailable", &["retry-after"]),
        (GrantFault::Signing.into(), 500, "internal", &[]),
        (Rejection::Internal, 500, "internal", &[]),
        (Rejection::Limit(limit), 429, "rate_limited", &["retry-after"]),
    ]
}

#[test]
fn the_table_is_the_contract_s() {
    for (rejection, status, code, headers) in all() {
        let public = rejection.public();
        assert_eq!((public.status.as_u16(), public.code), (status, code), "{rejection}");
        assert!(!public.title.is_empty() && public.detail.ends_with('.'), "{rejection}");
        if matches!(rejection, Rejection::Limit(_)) {
            continue; // Its further headers are the limit's own.
        }
        let mut written = HeaderMap::new();
        rejection.write_headers(&mut written);
        let mut names: Vec<&str> = written.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, headers, "{rejection}");
    }
}

#[test]
fn oauth_has_words_of_its_own() {
    let (client, key) = (ClientId::NIL, ApiKeyId::NIL);
    for (rejection, error) in [
        (AuthError::Missing.into(), "invalid_client"),
        (AuthError::invalid(InvalidReason::Unknown).into(), "invalid_client"),
        (AuthError::Ambiguous("twice").into(), "invalid_request"),
        (AuthError::ClientSuspended { client, key }.into(), "unauthorized_client"),
        (AuthError::Unavailable.into(), "temporarily_unavailable"),
        (Rejection::NoIssuer, "temporarily_unavailable"),
        (FormFault::Missing.into(), "invalid_request"),
        (Rejection::BodyTooLarge, "invalid_request"),
        (Rejection::UnsupportedGrant, "unsupported_grant_type"),
        (GrantFault::Scope.into(), "invalid_scope"),
        (GrantFault::Audience.into(), "invalid_target"),
        (GrantFault::Refresh(RefreshFault::Unknown).into(), "invalid_grant"),
        (GrantFault::Unavailable.into(), "temporarily_unavailable"),
        (GrantFault::Signing.into(), "server_error"),
    ] {
        let rejection: Rejection = rejection;
        assert_eq!(rejection.oauth_error(), error, "{rejection}");
    }
}

#[test]
fn what_was_presented_decides_the_challenge() {
    let challenge = |error: AuthError| {
        let mut headers = HeaderMap::new();
        Rejection::from(error).write_headers(&mut headers);
        headers[WWW_AUTHENTICATE].to_str().unwrap().to_owned()
    };
    assert!(!challenge(AuthError::Missing).contains("error"));
    assert!(challenge(AuthError::InsufficientScope).contains("error=\"insufficient_scope\""));
}
