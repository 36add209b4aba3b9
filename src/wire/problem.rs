//! The body of an error: `application/problem+json` (RFC 9457).

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// The media type of error bodies where OAuth is spoken: its clients look for no other.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The media type of every other error body.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a caller is told about an error. Nothing in it is private.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The response's status.
    pub status: StatusCode,
    /// A stable word; also the last part of `type`.
    pub code: &'a str,
    /// A few words, the same for every occurrence.
    pub title: &'a str,
    /// A sentence that helps.
    pub detail: &'a str,
    /// What joins this answer with the log.
    pub request_id: Option<&'a str>,
    /// OAuth's word for it, where OAuth is spoken (RFC 6749 §5.2): the body then has its members,
    /// too, and its media type.
    pub oauth_error: Option<&'a str>,
}

#[derive(Serialize)]
struct Members<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<&'a str>,
}

impl Problem<'_> {
    /// The JSON text.
    ///
    /// # Panics
    /// Never: strings and a number always serialise.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let members = Members {
            r#type: format!("urn:octroi:error:{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code,
            request_id: self.request_id,
            error: self.oauth_error,
            error_description: self.oauth_error.map(|_| self.detail),
        };
        Bytes::from(serde_json::to_vec(&members).expect("strings and a number always serialise"))
    }

    /// A response with this body and its media type.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body());
        *response.status_mut() = self.status;
        let media_type = if self.oauth_error.is_some() { JSON } else { PROBLEM_JSON };
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response
    }
}

/// A response as the bytes of HTTP/1.1, after which the connection closes: for answers that are
/// given before there is a request that could be answered.
#[must_use]
pub fn to_last_bytes(response: &Response<Bytes>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(512 + response.body().len());
    let status = response.status();
    bytes.put_slice(b"HTTP/1.1 ");
    bytes.put_slice(status.as_str().as_bytes());
    bytes.put_slice(b" ");
    bytes.put_slice(status.canonical_reason().unwrap_or("Error").as_bytes());
    bytes.put_slice(b"\r\n");
    for (name, value) in response.headers() {
        bytes.put_slice(name.as_str().as_bytes());
        bytes.put_slice(b": ");
        bytes.put_slice(value.as_bytes());
        bytes.put_slice(b"\r\n");
    }
    bytes.put_slice(b"connection: close\r\n");
    bytes.put_slice(CONTENT_LENGTH.as_str().as_bytes());
    bytes.put_slice(b": ");
    bytes.put_slice(response.body().len().to_string().as_bytes());
    bytes.put_slice(b"\r\n\r\n");
    bytes.put_slice(response.body());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_contract() {
        let problem = Problem {
            status: StatusCode::NOT_FOUND,
            code: "no_route",
            title: "No such route",
            detail: "Say \"please\".",
            request_id: Some("abc"),
            oauth_error: None,
        };
        let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:octroi:error:no_route", "title": "No such route", "status": 404,
            "detail": "Say \"please\".", "code": "no_route", "request_id": "abc",
        });
        assert_eq!(body, expected);
        assert_eq!(problem.response().headers()[CONTENT_TYPE], "application/problem+json");
        let without = Problem { request_id: None, ..problem }.body();
        assert!(!String::from_utf8_lossy(&without).contains("request_id"));

        let oauth = Problem { oauth_error: Some("invalid_request"), ..problem };
        let body: serde_json::Value = serde_json::from_slice(&oauth.body()).unwrap();
        assert_eq!((&body["error"], &body["error_description"]), (&"invalid_request".into(), &body["detail"]));
        assert_eq!(oauth.response().headers()[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn raw_bytes_are_a_framed_last_answer() {
        let problem = Problem {
            status: StatusCode::REQUEST_TIMEOUT,
            code: "request_timeout",
            title: "t",
            detail: "d",
            request_id: None,
            oauth_error: None,
        };
        let bytes = to_last_bytes(&problem.response());
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.starts_with('{') && body.ends_with('}'));
    }
}
