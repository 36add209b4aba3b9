//! `/.octroi/`: what the gateway answers itself on the data listener.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};

use super::rejection::Rejection;
use crate::telemetry::readiness::Readiness;

/// The reserved space; nothing in it is ever proxied.
const SPACE: &str = "/.octroi";

/// Whether a path is ours.
pub(super) fn is_reserved(path: &str) -> bool {
    path.strip_prefix(SPACE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a path of ours.
pub(super) fn answer(method: &Method, path: &str, readiness: &Readiness) -> Result<Response<Bytes>, Rejection> {
    let (status, body, media) = match &path[SPACE.len()..] {
        "/livez" => (StatusCode::OK, Bytes::from_static(b"alive\n"), "text/plain; charset=utf-8"),
        "/readyz" => {
            let report = readiness.report();
            let status = StatusCode::from_u16(report.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            (status, Bytes::from(report.body()), "application/json")
        }
        _ => return Err(Rejection::NoRoute),
    };
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Rejection::MethodNotAllowed("GET, HEAD".to_owned()));
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_ends_at_a_segment() {
        for (path, ours) in
            [("/.octroi", true), ("/.octroi/livez", true), ("/.octroi/x", true), ("/.octroid", false), ("/", false)]
        {
            assert_eq!(is_reserved(path), ours, "{path}");
        }
    }
}
