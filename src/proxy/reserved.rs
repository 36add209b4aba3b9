//! `/.octroi/…` on the data listener: ours, never an upstream's.
//!
//! Probes are not requests: they are neither metered nor logged, so that a balancer that asks
//! each second writes nothing.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};

use super::path::CanonicalPath;
use super::rejection::Rejection;
use super::tokens::{Endpoint, METADATA};
use crate::limit::Overview;
use crate::telemetry::readiness::Readiness;
use bytes::Bytes;

/// What follows it is ours.
const PREFIX: &str = "/.octroi/";

const PROBES: HeaderValue = HeaderValue::from_static("GET, HEAD");

/// A place of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// Whether the process lives, and serves.
    Probe(Probe),
    /// A client's own limits and usage.
    Usage,
    /// Another proxy asks whether a request may pass.
    Check,
    /// The token issuer.
    Tokens(Endpoint),
}

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// `livez`
    Alive,
    /// `readyz`
    Ready,
}

/// Whether a path is ours in any reading of it.
pub(super) fn owns(path: &CanonicalPath<'_>) -> bool {
    let ours = |path: &str| path.starts_with(PREFIX) || path == PREFIX.trim_end_matches('/') || path == METADATA;
    ours(path.as_str()) || path.with_plain_slashes().is_some_and(|plain| ours(&plain))
}

/// What is at a path that is ours.
pub(super) fn find(path: &CanonicalPath<'_>) -> Result<Reserved, Rejection> {
    if path.as_str() == METADATA {
        return Ok(Reserved::Tokens(Endpoint::Metadata));
    }
    match path.as_str().strip_prefix(PREFIX) {
        Some("livez") => Ok(Reserved::Probe(Probe::Alive)),
        Some("readyz") => Ok(Reserved::Probe(Probe::Ready)),
        Some("usage") => Ok(Reserved::Usage),
        Some(path) if path == "check" || path.starts_with("check/") => Ok(Reserved::Check),
        Some(path) => Endpoint::below(path).map(Reserved::Tokens).ok_or(Rejection::NoRoute),
        None => Err(Rejection::NoRoute),
    }
}

impl Probe {
    /// Its answer.
    pub(super) fn answer(self, method: &Method, readiness: &Readiness) -> Result<Response<Bytes>, Rejection> {
        reads(method)?;
        let (status, body) = match self {
            Self::Alive => (StatusCode::OK, Bytes::from_static(b"{\"status\":\"alive\"}")),
            Self::Ready => {
                let report = readiness.report();
                let status = if report.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, Bytes::from(report.body()))
            }
        };
        Ok(json(status, body))
    }
}

/// What an authority finds that looks whether a name is ours (RFC 8555 §8.3).
pub(super) fn challenge(method: &Method, text: String) -> Result<Response<Bytes>, Rejection> {
    reads(method)?;
    let mut response = Response::new(Bytes::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Whether a client's own usage is read, and not written.
pub(super) fn reads(method: &Method) -> Result<(), Rejection> {
    if matches!(*method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Rejection::Method(PROBES)) }
}

/// A client's own limits and usage, for nobody else's cache.
pub(super) fn usage(overview: &Overview) -> Response<Bytes> {
    json(StatusCode::OK, Bytes::from(serde_json::to_vec(overview).expect("names, numbers and times")))
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::super::path::canonicalise;
    use super::*;
    use crate::telemetry::readiness::Condition;

    #[test]
    fn all_of_it_is_ours_however_it_is_written() {
        for (path, ours) in [
            ("/.octroi/livez", true),
            ("/.octroi/", true),
            ("/.octroi", true),
            ("/%2Eoctroi/secret", true),
            ("//.octroi/secret", true),
            ("/.octroi%2Fsecret", true),
            ("/.octroix", false),
            ("/x/.octroi/livez", false),
            ("/.well-known/oauth-authorization-server", true),
            ("/.well-known/openid-configuration", false),
        ] {
            assert_eq!(owns(&canonicalise(path).unwrap()), ours, "{path}");
        }
    }

    #[test]
    fn probes_answer_and_nothing_else_does() {
        let readiness = Readiness::new().with("store", || Condition::Degraded);
        let ask = |path, method| match find(&canonicalise(path).unwrap())? {
            Reserved::Probe(probe) => probe.answer(&method, &readiness),
            other => panic!("{path} is no probe but {other:?}"),
        };
        assert_eq!(ask("/.octroi/livez", Method::GET).unwrap().status(), 200);
        let ready = ask("/.octroi/readyz", Method::HEAD).unwrap();
        assert_eq!(ready.status(), 200);
        assert!(String::from_utf8_lossy(ready.body()).contains("store"));
        readiness.stop();
        assert_eq!(ask("/.octroi/readyz", Method::GET).unwrap().status(), 503);
        assert!(matches!(ask("/.octroi/livez", Method::POST), Err(Rejection::Method(_))));
        assert!(matches!(ask("/.octroi/other", Method::GET), Err(Rejection::NoRoute)));
    }
}
