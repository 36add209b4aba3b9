//! Every refusal: its private cause, and the one table of what the caller is told.
//!
//! The two views differ on purpose. `Display` is the cause, for the log; [`Rejection::public`]
//! is the answer, and it is less: unknown, expired, revoked and forged credentials look alike.
//! The request id joins the two. A new variant does not compile until it has its row.

use http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use thiserror::Error;

use super::gateway::CheckFault;
use super::path::PathFault;
use super::tokens::FormFault;
use super::upstream::ExchangeFault;
use crate::auth::AuthError;
use crate::config::shaping::Maintenance;
use crate::issuer::GrantFault;
use crate::limit::{Exceeded, ExceededKind, QuotasUnknown};
use crate::metering::JournalFull;
use crate::model::usage::{CutReason, Outcome};
use crate::server::Refusal;
use crate::wire::head::HeadFault;
use crate::wire::problem::Problem;

/// Why a request is not answered by its upstream.
#[derive(Debug, Error)]
pub enum Rejection {
    /// The head is not one.
    #[error(transparent)]
    Head(#[from] HeadFault),
    /// The target has a fragment.
    #[error("a fragment in the target")]
    Fragment,
    /// The path is ambiguous.
    #[error(transparent)]
    Path(#[from] PathFault),
    /// A header's name has an underscore, and `server.underscore_headers` is `refuse`.
    #[error("an underscore in a header's name")]
    UnderscoreName,
    /// No request: turned away by the server.
    #[error("{0:?}")]
    Server(Refusal),
    /// Nothing serves this host and path.
    #[error("no route")]
    NoRoute,
    /// Something does, and only by these methods.
    #[error("the route does not serve the method")]
    Method(HeaderValue),
    /// The route is under maintenance.
    #[error("the route is under maintenance")]
    Maintenance(Maintenance),
    /// It was here too often.
    #[error("the request goes round in circles")]
    Loop,
    /// Not let in.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Over a limit.
    #[error("over the limit `{}`", .0.policy)]
    Limit(Exceeded),
    /// What is left of its client's quotas is not known.
    #[error(transparent)]
    Quotas(#[from] QuotasUnknown),
    /// It could not be counted.
    #[error(transparent)]
    Journal(#[from] JournalFull),
    /// The worker cannot keep up, and this client sends more than its share.
    #[error("the worker cannot keep up, and the client sends more than its share")]
    Overloaded,
    /// The body is larger than the route allows.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// The body stood still.
    #[error("the request body stood still")]
    BodyLate,
    /// The caller broke its body off: the answer is for the log only.
    #[error("the caller left")]
    CallerGone,
    /// The upstream did not answer.
    #[error(transparent)]
    Upstream(#[from] ExchangeFault),
    /// No tokens are issued here.
    #[error("neither a secret nor a signing key is configured")]
    NoIssuer,
    /// The parameters at an endpoint of the token issuer cannot be read.
    #[error(transparent)]
    Form(#[from] FormFault),
    /// A kind of grant that is not known.
    #[error("an unknown grant_type")]
    UnsupportedGrant,
    /// No token was issued.
    #[error(transparent)]
    Grant(#[from] GrantFault),
    /// Another proxy asks about a request, and may not or cannot be understood.
    #[error(transparent)]
    Check(#[from] CheckFault),
    /// A fault of ours.
    #[error("a panic while the request was handled")]
    Internal,
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public {
    /// The response's status.
    pub status: StatusCode,
    /// CONTRACT's word for it; also the reason in the rollups.
    pub code: &'static str,
    /// A few words.
    pub title: &'static str,
    /// A sentence.
    pub detail: &'static str,
}

const fn row(status: StatusCode, code: &'static str, title: &'static str, detail: &'static str) -> Public {
    Public { status, code, title, detail }
}

const BAD_REQUEST: Public = row(
    StatusCode::BAD_REQUEST,
    "bad_request",
    "Bad request",
    "The request is malformed or can be read in more than one way.",
);
const METHOD: Public = row(
    StatusCode::METHOD_NOT_ALLOWED,
    "method_not_allowed",
    "Method not allowed",
    "The resource is not served by this method; see the Allow field.",
);
const URI_TOO_LONG: Public =
    row(StatusCode::URI_TOO_LONG, "uri_too_long", "Target too long", "The request target is longer than allowed.");
const HEADERS_TOO_LARGE: Public = row(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "headers_too_large",
    "Headers too large",
    "The header section is larger than allowed or has too many fields.",
);
const REQUEST_TIMEOUT: Public =
    row(StatusCode::REQUEST_TIMEOUT, "request_timeout", "Request timeout", "The request did not arrive in time.");
const INVALID_CREDENTIALS: Public =
    row(StatusCode::UNAUTHORIZED, "invalid_credentials", "Invalid credentials", "The credential is not valid here.");
const NO_ROUTE: Public =
    row(StatusCode::NOT_FOUND, "no_route", "No such route", "Nothing is served at this host and path.");
const MAINTENANCE: Public = row(
    StatusCode::SERVICE_UNAVAILABLE,
    "maintenance",
    "Maintenance",
    "The service is under maintenance; try again after the time in Retry-After.",
);
const LOOP: Public = row(
    StatusCode::LOOP_DETECTED,
    "loop_detected",
    "Loop detected",
    "The request has passed this gateway too often: what is behind it leads back to it.",
);
const UNAVAILABLE: Public = row(
    StatusCode::BAD_GATEWAY,
    "upstream_unavailable",
    "Upstream unavailable",
    "The service behind the gateway could not be reached or broke off.",
);
const INTERNAL: Public = row(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "Internal error",
    "The gateway failed; the request id leads to the reason.",
);
const UPSTREAM_TIMEOUT: Public = row(
    StatusCode::GATEWAY_TIMEOUT,
    "upstream_timeout",
    "Upstream timeout",
    "The service behind the gateway did not answer in time.",
);

/// Methods of [`Rejection::Head`]'s `Allow`: those that are ever served.
const SERVED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
const NOTHING_PRESENTED: HeaderValue = HeaderValue::from_static("Bearer realm=\"octroi\"");
const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer realm=\"octroi\", error=\"invalid_token\"");
const INSUFFICIENT_SCOPE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"octroi\", error=\"insufficient_scope\"");

impl Rejection {
    /// The table.
    #[must_use]
    pub fn public(&self) -> Public {
        match self {
            Self::Head(HeadFault::Malformed(_))
            | Self::Fragment
            | Self::Path(_)
            | Self::UnderscoreName
            | Self::CallerGone
            | Self::Server(Refusal::Malformed)
            | Self::Form(_) => BAD_REQUEST,
            Self::Head(HeadFault::Method) | Self::Method(_) => METHOD,
            Self::Head(HeadFault::UriTooLong) | Self::Server(Refusal::UriTooLong) => URI_TOO_LONG,
            Self::Head(HeadFault::HeadersTooLarge) | Self::Server(Refusal::HeadersTooLarge) => HEADERS_TOO_LARGE,
            Self::BodyLate | Self::Server(Refusal::HeadTimeout) => REQUEST_TIMEOUT,
            Self::Server(Refusal::Overloaded) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Overloaded",
                "Too many connections are open; try again later.",
            ),
            Self::Overloaded => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Overloaded",
                "More requests come than can be served, and many of them are yours; send fewer, and try again.",
            ),
            Self::NoRoute => NO_ROUTE,
            Self::Maintenance(_) => MAINTENANCE,
            Self::Loop => LOOP,
            Self::Auth(error) => of_auth(error),
            Self::Limit(Exceeded { what: ExceededKind::Quota, .. }) => row(
                StatusCode::TOO_MANY_REQUESTS,
                "quota_exhausted",
                "Quota exhausted",
                "The quota of this period is used up; the next one begins after the time in Retry-After.",
            ),
            Self::Limit(Exceeded { what: ExceededKind::Concurrency, .. }) => row(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many requests",
                "Too many requests of this client are open; try again when one has ended.",
            ),
            Self::Limit(_) => row(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many requests",
                "The limit is used up; try again after the time in Retry-After.",
            ),
            Self::Journal(JournalFull) | Self::Quotas(QuotasUnknown) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "metering_unavailable",
                "Metering unavailable",
                "The request could not be counted and was not forwarded; try again later.",
            ),
            Self::BodyTooLarge => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "Body too large",
                "The request body is larger than allowed.",
            ),
            Self::Upstream(fault) => of_exchange(fault),
            Self::NoIssuer => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "auth_unavailable",
                "No tokens are issued",
                "This gateway issues no tokens: it has neither JWT_SECRET nor a signing key.",
            ),
            Self::UnsupportedGrant => row(
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "Unsupported grant",
                "The grant_type is neither client_credentials nor refresh_token.",
            ),
            Self::Grant(fault) => of_grant(*fault),
            Self::Check(fault) => of_check(fault),
            Self::Internal => INTERNAL,
        }
    }

    /// What was wrong with the exchange with an upstream, in a word of a closed set.
    pub(super) fn upstream_fault(&self) -> Option<&'static str> {
        match self {
            Self::Upstream(fault) => Some(fault.word()),
            _ => None,
        }
    }

    /// How the request is counted if it was admitted before.
    #[must_use]
    pub fn outcome(&self) -> (Outcome, Option<CutReason>) {
        match self {
            Self::BodyTooLarge => (Outcome::Cut, Some(CutReason::BodyTooLarge)),
            Self::BodyLate => (Outcome::Cut, Some(CutReason::Deadline)),
            Self::CallerGone => (Outcome::ClientGone, None),
            Self::Upstream(_) => (Outcome::UpstreamError, None),
            // Refused before admission, all but the last; after it, we ended it.
            Self::Head(_)
            | Self::Fragment
            | Self::Path(_)
            | Self::UnderscoreName
            | Self::Server(_)
            | Self::NoRoute
            | Self::Overloaded
            | Self::Method(_)
            | Self::Maintenance(_)
            | Self::Loop
            | Self::Auth(_)
            | Self::Limit(_)
            | Self::Journal(_)
            | Self::NoIssuer
            | Self::Form(_)
            | Self::UnsupportedGrant
            | Self::Grant(_)
            | Self::Quotas(_)
            | Self::Check(_)
            | Self::Internal => (Outcome::Cut, None),
        }
    }

    /// The headers that belong to the answer, besides those of every problem.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::Method(allow) => drop(headers.insert(ALLOW, allow.clone())),
            Self::Head(HeadFault::Method) => drop(headers.insert(ALLOW, SERVED_METHODS)),
            Self::Limit(exceeded) => exceeded.standing.write(headers),
            Self::Auth(AuthError::Missing) => drop(headers.insert(WWW_AUTHENTICATE, NOTHING_PRESENTED)),
            Self::Auth(AuthError::Invalid { .. }) => drop(headers.insert(WWW_AUTHENTICATE, INVALID_TOKEN)),
            Self::Auth(AuthError::InsufficientScope) => drop(headers.insert(WWW_AUTHENTICATE, INSUFFICIENT_SCOPE)),
            _ => {}
        }
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// The body.
    #[must_use]
    pub fn problem<'a>(&'a self, request_id: &'a str) -> Problem<'a> {
        let Public { status, code, title, .. } = self.public();
        let detail = self.detail();
        Problem { status, code, title, detail, request_id: Some(request_id), oauth_error: None }
    }

    /// The sentence that helps; an operator's, where there is one.
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Maintenance(maintenance) if !maintenance.message.is_empty() => &maintenance.message,
            _ => self.public().detail,
        }
    }

    /// OAuth's word for it (RFC 6749 §5.2, RFC 8707 §2).
    pub(super) fn oauth_error(&self) -> &'static str {
        let public = self.public();
        match self {
            Self::Auth(AuthError::Missing | AuthError::Invalid { .. }) => "invalid_client",
            Self::Auth(AuthError::ClientSuspended { .. } | AuthError::AddressDenied) => "unauthorized_client",
            Self::Grant(_) | Self::UnsupportedGrant if public.status == StatusCode::BAD_REQUEST => public.code,
            _ if public.status == StatusCode::INTERNAL_SERVER_ERROR => "server_error",
            _ if self.retry_after_seconds().is_some() => "temporarily_unavailable",
            _ => "invalid_request",
        }
    }

    /// Every 429 and 503 says when to try again.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Limit(exceeded) => Some(exceeded.retry_after_seconds),
            Self::Maintenance(maintenance) => Some(maintenance.retry_after.as_secs()),
            Self::Auth(AuthError::TooManyFailures { retry_after_seconds }) => Some(*retry_after_seconds),
            _ => (self.public().status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// Whether nobody can say where the next request on the connection would begin.
    fn closes(&self) -> bool {
        matches!(self, Self::Head(_) | Self::Fragment | Self::BodyLate | Self::CallerGone)
    }
}

fn of_auth(error: &AuthError) -> Public {
    match error {
        AuthError::Missing => row(
            StatusCode::UNAUTHORIZED,
            "missing_credentials",
            "Missing credentials",
            "The route asks for a credential and none was presented.",
        ),
        AuthError::Ambiguous(_) => row(
            StatusCode::BAD_REQUEST,
            "ambiguous_credentials",
            "Ambiguous credentials",
            "More than one credential was presented; send exactly one.",
        ),
        AuthError::Invalid { .. } => INVALID_CREDENTIALS,
        AuthError::ClientSuspended { .. } => {
            row(StatusCode::FORBIDDEN, "client_suspended", "Client suspended", "The client is suspended.")
        }
        AuthError::InsufficientScope => row(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "Insufficient scope",
            "The credential lacks a scope that the route asks for.",
        ),
        AuthError::AddressDenied => row(
            StatusCode::FORBIDDEN,
            "address_denied",
            "Address denied",
            "The credential may not be used from this address.",
        ),
        AuthError::TooManyFailures { .. } => row(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_failures",
            "Too many failures",
            "Too many unknown credentials came from this address; try again later.",
        ),
        AuthError::Unavailable | AuthError::IssuerUnavailable => row(
            StatusCode::SERVICE_UNAVAILABLE,
            "auth_unavailable",
            "Authentication unavailable",
            "The credential could not be checked; try again later.",
        ),
    }
}

fn of_grant(fault: GrantFault) -> Public {
    match fault {
        GrantFault::Scope | GrantFault::TooManyScopes => row(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            "Invalid scope",
            "A scope was asked for that is not granted, or more than a token carries.",
        ),
        GrantFault::NoRefreshTokens | GrantFault::LegacyHash => row(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            "No refresh token",
            "offline_access is not granted here: it needs JWT_SECRET on the gateway, and a key with a row.",
        ),
        GrantFault::Audience => row(
            StatusCode::BAD_REQUEST,
            "invalid_target",
            "Invalid audience",
            "An audience was asked for that is malformed or not granted.",
        ),
        GrantFault::Refresh(_) => {
            row(StatusCode::BAD_REQUEST, "invalid_grant", "Invalid grant", "The refresh token is not valid here.")
        }
        GrantFault::Unavailable => row(
            StatusCode::SERVICE_UNAVAILABLE,
            "auth_unavailable",
            "Token store unavailable",
            "The token could not be stored or looked up; try again later.",
        ),
        GrantFault::Signing => INTERNAL,
    }
}

fn of_check(fault: &CheckFault) -> Public {
    match fault {
        CheckFault::UntrustedPeer => row(
            StatusCode::FORBIDDEN,
            "untrusted_peer",
            "Untrusted peer",
            "Only proxies that server.trusted_proxies names may ask about requests.",
        ),
        CheckFault::Unclear(_) => row(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "Bad request",
            "The check does not say, in one way and once, which request it asks about: method, host and target.",
        ),
    }
}

fn of_exchange(fault: &ExchangeFault) -> Public {
    match fault {
        ExchangeFault::Connect { .. }
        | ExchangeFault::Broken(_)
        | ExchangeFault::SwitchedProtocols
        | ExchangeFault::NoTunnel => UNAVAILABLE,
        ExchangeFault::ConnectLate { .. } | ExchangeFault::Late => UPSTREAM_TIMEOUT,
        ExchangeFault::NoEndpoint => row(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_healthy_upstream",
            "No healthy upstream",
            "The service behind this route is down; try again later.",
        ),
        ExchangeFault::Full => row(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "Overloaded",
            "The service behind this route has as many requests as it takes; try again later.",
        ),
    }
}

#[cfg(test)]
mod tests;
