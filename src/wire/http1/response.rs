//! The head of a response to HTTP/1.1, written; and its trailers.
//!
//! The framing is decided here, from the request's method, the status and what the body knows of
//! itself; a `Content-Length` or `Transfer-Encoding` among the headers is not passed on, but for
//! the length that an answer to HEAD tells.

use bytes::{BufMut as _, BytesMut};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
    HOST, MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::Framing;
use super::fields::{has_token, write_decimal, write_line};

/// What a head says besides its status and headers.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// How the body ends; never by the connection's end.
    pub framing: Framing,
    /// The answer is to HEAD.
    pub to_head: bool,
    /// The connection closes after it.
    pub closes: bool,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<&'a [u8]>,
    /// Now, as `Date` says it.
    pub date: &'a [u8],
}

/// How a body travels: `length` of it, if that is known; `None`: nobody knows.
#[must_use]
pub fn framing(method: &Method, status: StatusCode, length: Option<u64>) -> Framing {
    // What follows is another protocol's, until one side closes.
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Framing::UntilClose;
    }
    if *method == Method::HEAD || !may_have_body(status) {
        return Framing::Empty;
    }
    match length {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Whether answers with this status have a body (RFC 9110 §6.4.1).
fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// Writes a head. `told`: with [`Framing::Empty`] in answer to HEAD, the length that GET would get,
/// if the headers do not say it.
pub fn write_head(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap, frame: &Frame<'_>, told: Option<u64>) {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    let reason = frame.reason.unwrap_or_else(|| status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.put_slice(reason);
    out.put_slice(b"\r\n");
    for (name, value) in headers {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && !(frame.closes && *name == CONNECTION) {
            write_line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    write_framing(out, status, headers, frame, told);
    if frame.closes {
        out.put_slice(b"connection: close\r\n");
    }
    if !headers.contains_key(DATE) {
        write_line(out, b"date", frame.date);
    }
    out.put_slice(b"\r\n");
}

fn write_framing(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap, frame: &Frame<'_>, told: Option<u64>) {
    match frame.framing {
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => write_length(out, length),
        Framing::Empty | Framing::UntilClose if !may_have_body(status) => {}
        Framing::Empty | Framing::UntilClose if frame.to_head => match (headers.get(CONTENT_LENGTH), told) {
            (Some(length), _) => write_line(out, b"content-length", length.as_bytes()),
            (None, Some(length)) if length > 0 => write_length(out, length),
            (None, _) => {}
        },
        Framing::Empty | Framing::UntilClose => write_length(out, 0),
    }
}

fn write_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    write_decimal(out, length);
    out.put_slice(b"\r\n");
}

/// Writes the end of a body in chunks, with those trailers that `headers` announced and that may
/// be trailers.
pub fn write_trailers(out: &mut BytesMut, headers: &[HeaderName], trailers: &HeaderMap) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers {
        if headers.contains(name) && may_be_trailer(name) {
            write_line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

/// Whether a field means something behind the body.
#[must_use]
pub fn may_be_trailer(name: &HeaderName) -> bool {
    !NO_TRAILERS.contains(name)
}

/// What `Trailer` announces.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(TRAILER).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    lines.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Whether a response asks for its connection to be closed.
#[must_use]
pub fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| has_token(line, b"close"))
}

/// Fields that frame, route or authenticate, and therefore come too late behind the body
/// (RFC 9110 §6.5.1).
const NO_TRAILERS: [HeaderName; 13] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

#[cfg(test)]
mod tests;
