//! Why a request to the admin listener was not done: a status, a word for programs, a sentence for
//! people. The cause behind a 5xx is for the log.

use std::borrow::Cow;

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::auth::PepperError;
use crate::issuer::StatementFault;
use crate::limit::ReplayFault;
use crate::metering::{ReconcileError, RedrainError};
use crate::model::causes::with_causes;
use crate::model::own_limit::InvalidLimit;
use crate::operators::{LoginFault, OperatorFault, Unknown};
use crate::store::StoreError;

/// The answer of a handler.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// A refusal or a failure, before it is problem+json (RFC 9457) or a page.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: Cow<'static, str>,
    /// Seconds after which to try again.
    pub(super) retry_after: Option<u64>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None }
    }

    /// What was sent makes no sense.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// Nobody is signed in, and there is no token.
    pub(super) fn missing_credentials() -> Self {
        let detail =
            "sign in, or send an admin token: `Authorization: Bearer octroi_admin_…` (octroi admin token create)";
        Self::new(StatusCode::UNAUTHORIZED, "missing_credentials", detail)
    }

    /// The session or token is not, or no longer, good.
    pub(super) fn invalid_credentials() -> Self {
        let detail = "this session or token is unknown, over or revoked";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_credentials", detail)
    }

    /// Known, and not allowed.
    pub(super) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// A page of another site is behind it.
    pub(super) fn cross_site() -> Self {
        let detail = "this comes from a page of another site; sign in here, or use a token instead of the cookie";
        Self::new(StatusCode::FORBIDDEN, "cross_site", detail)
    }

    /// What was named is not there, or not for whoever asks.
    pub(super) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// There is something there, and it does not do this.
    pub(super) fn method_not_allowed() -> Self {
        let detail = "this method is not for this path; /docs lists what is";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// It cannot be, as things are.
    pub(super) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// Raw keys are not forgotten yet.
    pub(super) fn not_verified(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "not_verified", detail)
    }

    /// It is not as the caller last saw it.
    pub(super) fn precondition_failed() -> Self {
        let detail = "it changed since its ETag was read: read it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
    }

    /// More than is read.
    pub(super) fn too_large(most: usize) -> Self {
        let detail = format!("the body is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    /// It did not come in time (RFC 9110 §15.5.9).
    pub(super) fn too_slow(patience: Duration) -> Self {
        let detail = format!("the body did not come within {} s", patience.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
    }

    /// Not JSON.
    pub(super) fn unsupported_media_type(wanted: &'static str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", format!("send {wanted}"))
    }

    /// The same `Idempotency-Key` for something else.
    pub(super) fn idempotency_mismatch() -> Self {
        let detail = "this Idempotency-Key was used for another request: make a new one for each";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch", detail)
    }

    /// Too many tries.
    pub(super) fn too_many(seconds: u64) -> Self {
        let seconds = seconds.max(1);
        let detail = format!("too many tries; again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail) }
    }

    /// Not now.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// The journals of this machine cannot be read.
    fn of_disk(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = with_causes(error), "the admin API could not read the journals");
        Self::internal()
    }

    /// Our own fault.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here; the log says what")
    }
}

/// It is rendered where the request id is known ([`super::enter`]).
impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(detail) => Self::conflict(detail),
            StoreError::Changed => Self::precondition_failed(),
            StoreError::Unavailable { .. } => {
                tracing::warn!(error = with_causes(&error), "the admin API waits for the store");
                Self::unavailable("store_unavailable", "the store does not answer")
            }
            StoreError::Corrupt { .. } | StoreError::Refused { .. } | StoreError::PastRetention { .. } => {
                tracing::error!(error = with_causes(&error), "the admin API failed");
                Self::internal()
            }
        }
    }
}

impl From<PepperError> for Fault {
    fn from(error: PepperError) -> Self {
        match error {
            PepperError::Store(error) => error.into(),
            PepperError::Mismatch | PepperError::Needed { .. } => Self::conflict(error.to_string()),
        }
    }
}

impl From<InvalidLimit> for Fault {
    fn from(error: InvalidLimit) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Unknown> for Fault {
    fn from(why: Unknown) -> Self {
        match why {
            Unknown::Store(error) => error.into(),
            Unknown::Text | Unknown::Revoked | Unknown::Expired => Self::invalid_credentials(),
        }
    }
}

impl From<LoginFault> for Fault {
    fn from(fault: LoginFault) -> Self {
        match fault {
            LoginFault::Wrong => {
                Self::new(StatusCode::UNAUTHORIZED, "invalid_credentials", "the name or the password is wrong")
            }
            LoginFault::TooMany(wait) => Self::too_many(wait.as_secs()),
            LoginFault::NoSecret => {
                Self::unavailable("no_session_secret", "nobody can sign in: JWT_SECRET is not set (admin tokens work)")
            }
            LoginFault::Store(error) => error.into(),
        }
    }
}

impl From<ReconcileError> for Fault {
    fn from(error: ReconcileError) -> Self {
        match error {
            ReconcileError::Store(error) => error.into(),
            ReconcileError::Disk(_) => Self::of_disk(&error),
            ReconcileError::TooManyHours(_) | ReconcileError::NotRebuilt(_) => Self::conflict(error.to_string()),
        }
    }
}

impl From<RedrainError> for Fault {
    fn from(error: RedrainError) -> Self {
        match error {
            RedrainError::Store(error) => error.into(),
            RedrainError::Disk(_) => Self::of_disk(&error),
        }
    }
}

impl From<StatementFault> for Fault {
    fn from(fault: StatementFault) -> Self {
        match fault {
            StatementFault::Store(error) => error.into(),
            // Nobody need try again before it is configured.
            StatementFault::NoKey => {
                Self { retry_after: None, ..Self::unavailable("no_signing_key", fault.to_string()) }
            }
            StatementFault::NotClosed(month) => Self::not_found(format!("{month} is not closed")),
            StatementFault::Signing => {
                tracing::error!(error = with_causes(&fault), "a statement was not signed");
                Self::internal()
            }
        }
    }
}

impl From<ReplayFault> for Fault {
    fn from(fault: ReplayFault) -> Self {
        match fault {
            ReplayFault::Store(error) => error.into(),
            ReplayFault::Deleted { .. } => Self::bad_request(fault.to_string()),
        }
    }
}

impl From<OperatorFault> for Fault {
    fn from(fault: OperatorFault) -> Self {
        match fault {
            OperatorFault::Store(error) => error.into(),
            OperatorFault::NotFound => Self::not_found(fault.to_string()),
            OperatorFault::TooMany(wait) => Self::too_many(wait.as_secs()),
            OperatorFault::NoSecret => Self::unavailable("no_session_secret", fault.to_string()),
            OperatorFault::Wrong | OperatorFault::Disabled => Self::forbidden(fault.to_string()),
            OperatorFault::NoPassword => Self::conflict(fault.to_string()),
            OperatorFault::Password(_) | OperatorFault::Reach(_) | OperatorFault::Name => {
                Self::bad_request(with_causes(&fault))
            }
        }
    }
}
