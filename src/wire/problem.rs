//! Problem documents (RFC 9457): the one form in which we refuse.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// The media type.
pub const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a refused caller is told.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The status.
    pub status: u16,
    /// A word for programs; `type` is `urn:octroi:error:` and it.
    pub code: &'static str,
    /// The same for every problem of this code.
    pub title: &'static str,
    /// What helps this caller.
    pub detail: &'a str,
    /// The request's id; empty where a request never came to be.
    pub request_id: &'a str,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
}

impl Problem<'_> {
    /// The document.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let document = Document {
            r#type: format!("urn:octroi:error:{}", self.code),
            title: self.title,
            status: self.status,
            detail: self.detail,
            code: self.code,
            request_id: self.request_id,
        };
        // A struct of texts and a number always serialises.
        Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
    }

    /// The response, with its media type.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
        response
    }

    /// The whole answer as bytes, closing the connection: for where no request could be read.
    #[must_use]
    pub fn wire(&self, reason_phrase: &str) -> Vec<u8> {
        let body = self.body();
        let mut bytes = format!(
            "HTTP/1.1 {} {reason_phrase}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            self.status,
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_an_rfc_9457_document() {
        let problem = Problem {
            status: 404,
            code: "no_route",
            title: "No route",
            detail: "a \"quoted\" path",
            request_id: "id-1",
        };
        let response = problem.response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(document["type"], "urn:octroi:error:no_route");
        assert_eq!(document["detail"], "a \"quoted\" path");
        assert!(problem.wire("Not Found").starts_with(b"HTTP/1.1 404 Not Found\r\n"));
    }
}
