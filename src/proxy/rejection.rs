//! Why a request was not served: one exhaustive table of status, code and text.
//!
//! Two views of each: plain words for the caller, who learns no more than helps; the private
//! reason for the log and the rollup. A new variant does not compile until it has both.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};

use super::path::PathError;
use crate::auth::AuthError;
use crate::limit::Exceeded;
use crate::wire::head::HeadError;
use crate::wire::problem::Problem;

/// A request that was not served.
#[derive(Clone, Debug)]
pub enum Rejection {
    /// The head could be read in two ways.
    BadHead(HeadError),
    /// The path could be read in two ways.
    BadPath(PathError),
    /// A header name with an underscore, where those are refused.
    UnderscoreHeader,
    /// The target is too long.
    UriTooLong,
    /// The headers are too large or too many.
    HeadersTooLarge,
    /// No route.
    NoRoute,
    /// A route, but not for this method; the methods it takes.
    MethodNotAllowed(String),
    /// Authentication or authorization said no.
    Auth(AuthError, Option<String>),
    /// A limit is spent.
    RateLimited(Exceeded),
    /// The journal takes nothing.
    MeteringUnavailable,
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// The body did not come.
    BodyTimeout,
    /// The caller's body broke off or was malformed.
    BodyBroken,
    /// The upstream refused, reset or spoke nonsense.
    UpstreamUnavailable,
    /// A deadline of an upstream passed.
    UpstreamTimeout,
    /// Something of ours broke.
    Internal,
}

/// What the table says of a rejection.
struct Row {
    status: u16,
    code: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
}

impl Rejection {
    fn row(&self) -> Row {
        let row =
            |status, code, title, detail: &'static str| Row { status, code, title, detail: Cow::Borrowed(detail) };
        match self {
            Self::BadHead(HeadError::Method) => {
                row(405, "method_not_allowed", "Method not allowed", "this method is never forwarded")
            }
            Self::BadHead(error) => Row { detail: error.to_string().into(), ..bad_request() },
            Self::BadPath(error) => Row { detail: error.to_string().into(), ..bad_request() },
            Self::UnderscoreHeader => {
                Row { detail: "header names with an underscore are refused here".into(), ..bad_request() }
            }
            Self::BodyBroken => Row { detail: "the request's body ended before it was whole".into(), ..bad_request() },
            Self::UriTooLong => row(414, "uri_too_long", "Target too long", "shorten the path or the query"),
            Self::HeadersTooLarge => {
                row(431, "headers_too_large", "Headers too large", "send fewer or shorter headers")
            }
            Self::NoRoute => row(404, "no_route", "No route", "nothing is served under this host and path"),
            Self::MethodNotAllowed(_) => {
                row(405, "method_not_allowed", "Method not allowed", "the Allow field lists the methods served here")
            }
            Self::Auth(error, _) => auth_row(error),
            Self::RateLimited(_) => {
                row(429, "rate_limited", "Rate limit exceeded", "slow down; Retry-After says when to try again")
            }
            Self::MeteringUnavailable => row(
                503,
                "metering_unavailable",
                "Temporarily unavailable",
                "usage cannot be recorded now; try again later",
            ),
            Self::BodyTooLarge => {
                row(413, "body_too_large", "Body too large", "the body is larger than is accepted here")
            }
            Self::BodyTimeout => {
                row(408, "request_timeout", "The request took too long", "the request's body did not arrive in time")
            }
            Self::UpstreamUnavailable => {
                row(502, "upstream_unavailable", "Upstream unavailable", "the service behind did not answer properly")
            }
            Self::UpstreamTimeout => {
                row(504, "upstream_timeout", "Upstream timed out", "the service behind did not answer in time")
            }
            Self::Internal => {
                row(500, "internal", "Internal error", "this is our fault; the request id helps to find it")
            }
        }
    }

    /// The status the caller is sent.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// The code: public, and the reason in the rollups.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The private reason, for the log: more than the caller is told.
    #[must_use]
    pub fn private_reason(&self) -> &'static str {
        match self {
            Self::Auth(error, _) => error.reason(),
            other => other.code(),
        }
    }

    /// The answer. `request_id` joins it to the log.
    #[must_use]
    pub fn response(&self, request_id: &str) -> Response<Bytes> {
        let Row { status, code, title, detail } = self.row();
        let mut response = Problem { status, code, title, detail: &detail, request_id }.response();
        self.write_fields(response.headers_mut());
        response
    }

    fn write_fields(&self, headers: &mut HeaderMap) {
        match self {
            // Where framing is in doubt, nothing more is read from this connection.
            Self::BadHead(_)
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::HeadersTooLarge
            | Self::UriTooLong => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                if matches!(self, Self::BadHead(HeadError::Method)) {
                    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
                }
            }
            Self::MethodNotAllowed(allowed) => {
                if let Ok(allowed) = HeaderValue::try_from(allowed) {
                    headers.insert(ALLOW, allowed);
                }
            }
            Self::Auth(error, scopes) => write_auth_fields(headers, error, scopes.as_deref()),
            Self::RateLimited(exceeded) => {
                exceeded.standing.write(headers);
                headers.insert(RETRY_AFTER, exceeded.retry_after_seconds.into());
            }
            Self::MeteringUnavailable => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::BadPath(_)
            | Self::UnderscoreHeader
            | Self::NoRoute
            | Self::UpstreamUnavailable
            | Self::UpstreamTimeout
            | Self::Internal => {}
        }
    }
}

fn bad_request() -> Row {
    Row { status: 400, code: "bad_request", title: "Bad request", detail: Cow::Borrowed("") }
}

/// Unknown, expired, revoked and forged credentials look alike: one row.
fn auth_row(error: &AuthError) -> Row {
    let row = |status, code, title, detail: &'static str| Row { status, code, title, detail: Cow::Borrowed(detail) };
    match error {
        AuthError::Missing => row(
            401,
            "missing_credentials",
            "Credentials needed",
            "send an API key as X-API-Key, or as Authorization: Bearer",
        ),
        AuthError::Ambiguous => {
            row(400, "ambiguous_credentials", "More than one credential", "send exactly one credential, once")
        }
        AuthError::Invalid { .. } => {
            row(401, "invalid_credentials", "Invalid credentials", "the credential is not valid")
        }
        AuthError::ClientSuspended { .. } => {
            row(403, "client_suspended", "Client suspended", "this client is suspended; ask whoever runs this service")
        }
        AuthError::InsufficientScope => {
            row(403, "insufficient_scope", "Insufficient scope", "the credential lacks a scope that is needed here")
        }
        AuthError::TooManyFailures { .. } => row(
            429,
            "too_many_failures",
            "Too many failures",
            "too many invalid credentials came from this address; Retry-After says when to try again",
        ),
        AuthError::Unavailable => row(
            503,
            "auth_unavailable",
            "Temporarily unavailable",
            "the credential cannot be checked now; this says nothing about it; try again",
        ),
    }
}

fn write_auth_fields(headers: &mut HeaderMap, error: &AuthError, scopes: Option<&str>) {
    match error {
        // RFC 6750 §3.1: no error code where nothing was presented.
        AuthError::Missing => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"octroi\""));
        }
        AuthError::Invalid { .. } => {
            const INVALID: &str = "Bearer realm=\"octroi\", error=\"invalid_token\"";
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(INVALID));
        }
        AuthError::InsufficientScope => {
            let scopes = scopes.unwrap_or_default();
            let text = format!("Bearer realm=\"octroi\", error=\"insufficient_scope\", scope=\"{scopes}\"");
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(WWW_AUTHENTICATE, value);
            }
        }
        AuthError::TooManyFailures { retry_after_seconds } => {
            headers.insert(RETRY_AFTER, (*retry_after_seconds).into());
        }
        AuthError::Unavailable => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        AuthError::Ambiguous | AuthError::ClientSuspended { .. } => {}
    }
}

impl From<HeadError> for Rejection {
    fn from(error: HeadError) -> Self {
        Self::BadHead(error)
    }
}

impl From<PathError> for Rejection {
    fn from(error: PathError) -> Self {
        Self::BadPath(error)
    }
}

impl From<Exceeded> for Rejection {
    fn from(exceeded: Exceeded) -> Self {
        Self::RateLimited(exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::InvalidReason;

    #[test]
    fn what_must_look_alike_looks_alike() {
        let answers: Vec<(u16, HeaderMap, Bytes)> =
            [InvalidReason::Unknown, InvalidReason::Revoked, InvalidReason::Expired, InvalidReason::Malformed]
                .map(|reason| Rejection::Auth(AuthError::invalid(reason), None).response("id"))
                .map(|response| (response.status().as_u16(), response.headers().clone(), response.into_body()))
                .to_vec();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn statuses_codes_and_fields() {
        let auth = |error| Rejection::Auth(error, Some("orders:read".into()));
        for (rejection, status, code, field) in [
            (Rejection::BadHead(HeadError::Host), 400, "bad_request", Some("connection")),
            (Rejection::BadHead(HeadError::Method), 405, "method_not_allowed", Some("allow")),
            (Rejection::BadPath(PathError::DotSegment), 400, "bad_request", None),
            (Rejection::UriTooLong, 414, "uri_too_long", None),
            (Rejection::HeadersTooLarge, 431, "headers_too_large", None),
            (Rejection::NoRoute, 404, "no_route", None),
            (Rejection::MethodNotAllowed("GET".into()), 405, "method_not_allowed", Some("allow")),
            (auth(AuthError::Missing), 401, "missing_credentials", Some("www-authenticate")),
            (auth(AuthError::Ambiguous), 400, "ambiguous_credentials", None),
            (auth(AuthError::invalid(InvalidReason::Unknown)), 401, "invalid_credentials", Some("www-authenticate")),
            (auth(AuthError::InsufficientScope), 403, "insufficient_scope", Some("www-authenticate")),
            (
                auth(AuthError::TooManyFailures { retry_after_seconds: 3 }),
                429,
                "too_many_failures",
                Some("retry-after"),
            ),
            (auth(AuthError::Unavailable), 503, "auth_unavailable", Some("retry-after")),
            (Rejection::MeteringUnavailable, 503, "metering_unavailable", Some("retry-after")),
            (Rejection::BodyTooLarge, 413, "body_too_large", Some("connection")),
            (Rejection::BodyTimeout, 408, "request_timeout", Some("connection")),
            (Rejection::UpstreamUnavailable, 502, "upstream_unavailable", None),
            (Rejection::UpstreamTimeout, 504, "upstream_timeout", None),
            (Rejection::Internal, 500, "internal", None),
        ] {
            let response = rejection.response("id");
            assert_eq!((response.status().as_u16(), rejection.code()), (status, code));
            if let Some(field) = field {
                assert!(response.headers().contains_key(field), "{code}: {field}");
            }
        }
    }
}
