//! Refusals as gRPC puts them: HTTP 200, the status in the headers, no body ("trailers-only",
//! PROTOCOL-HTTP2.md of gRPC). Its clients read nothing else: of a 429 with a problem document
//! they would make UNKNOWN or UNAVAILABLE.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::wire::problem::Problem;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Which of its forms a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/grpc`
    Grpc,
    /// `application/grpc-web`
    Web,
    /// `application/grpc-web-text`
    WebText,
}

impl Media {
    /// None: the request is not one of gRPC, which are all POSTs.
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if *method != Method::POST {
            return None;
        }
        let sent = headers.get(CONTENT_TYPE)?.as_bytes().to_ascii_lowercase();
        let rest = sent.strip_prefix(b"application/grpc")?;
        let is_at_end = |rest: &[u8]| matches!(rest.first(), None | Some(b'+' | b';' | b' '));
        match rest.strip_prefix(b"-web") {
            None if is_at_end(rest) => Some(Self::Grpc),
            Some(rest) if is_at_end(rest) => Some(Self::Web),
            Some(rest) if rest.strip_prefix(b"-text").is_some_and(is_at_end) => Some(Self::WebText),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text+proto",
        })
    }
}

/// The answer of a refusal that says `problem`, with `retry_after` in seconds. Further headers are
/// the refusal's own.
pub(super) fn refusal(media: Media, problem: &Problem<'_>, retry_after: Option<u64>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media.content_type());
    headers.insert(GRPC_STATUS, HeaderValue::from(status(problem.status)));
    headers.insert(GRPC_MESSAGE, message(problem.code, problem.detail));
    if let Some(seconds) = retry_after {
        headers.insert(PUSHBACK, HeaderValue::from(seconds.max(1).saturating_mul(1000)));
    }
    response
}

/// The status that stands for one of HTTP. Unlike the table for proxies that know nothing of gRPC
/// (http-grpc-status-mapping.md) it tells our own limits from an absent service: 429 is not
/// UNAVAILABLE, which clients try again at once.
fn status(of: StatusCode) -> u16 {
    match of.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        // What nobody serves is UNIMPLEMENTED, as at a gRPC server.
        404 | 405 | 501 => 12,
        // The call may have been carried out: to UNAVAILABLE clients would repeat it.
        408 | 504 => 4,
        413 | 414 | 429 | 431 => 8,
        502 | 503 => 14,
        _ => 13,
    }
}

/// Percent-encoded outside printable ASCII, as gRPC asks.
fn message(code: &str, detail: &str) -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let mut text = Vec::with_capacity(code.len() + 2 + detail.len());
    for byte in code.bytes().chain(*b": ").chain(detail.bytes()) {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(byte);
        } else {
            text.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    HeaderValue::try_from(text).expect("printable ASCII is a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_grpc_are_told_by_their_media_type() {
        for (method, sent, media) in [
            (Method::POST, "application/grpc", Some(Media::Grpc)),
            (Method::POST, "Application/gRPC+proto", Some(Media::Grpc)),
            (Method::POST, "application/grpc;charset=x", Some(Media::Grpc)),
            (Method::POST, "application/grpc-web+proto", Some(Media::Web)),
            (Method::POST, "application/grpc-web-text", Some(Media::WebText)),
            (Method::POST, "application/grpcx", None),
            (Method::POST, "application/grpc-webx", None),
            (Method::POST, "application/json", None),
            (Method::GET, "application/grpc", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(sent))]);
            assert_eq!(Media::of(&method, &headers), media, "{sent}");
        }
        assert_eq!(Media::of(&Method::POST, &HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_is_trailers_only() {
        for (http, grpc) in [
            (400, 3),
            (401, 16),
            (403, 7),
            (404, 12),
            (405, 12),
            (408, 4),
            (413, 8),
            (429, 8),
            (431, 8),
            (500, 13),
            (502, 14),
            (503, 14),
            (504, 4),
            (508, 13),
        ] {
            let http = StatusCode::from_u16(http).unwrap();
            let problem = Problem {
                status: http,
                code: "a_code",
                title: "",
                detail: "100 % späť\n",
                request_id: None,
                oauth_error: None,
            };
            let response = refusal(Media::Grpc, &problem, Some(3));
            assert_eq!(response.status(), 200);
            assert!(response.body().is_empty());
            let headers = response.headers();
            assert_eq!(headers[CONTENT_TYPE], "application/grpc");
            assert_eq!(headers[GRPC_STATUS], grpc.to_string().as_str(), "{http}");
            assert_eq!(headers[GRPC_MESSAGE], "a_code: 100 %25 sp%C3%A4%C5%A5%0A");
            assert_eq!(headers[PUSHBACK], "3000");
        }
    }
}
