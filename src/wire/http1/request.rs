//! The head of a request, judged by its bytes before any engine makes something else of it.
//!
//! Three verdicts. *Plain*: the shape nearly every request has; it was read here, and everything
//! in it is unambiguous. *Refused*: two readers could see two things, and an engine that came
//! after would tidy it up before anyone can say so: lines that end with a bare LF, a length
//! beside a coding. *Other*: not plain and not refused here; hyper reads the same bytes and
//! judges. A verdict depends on the bytes of the head alone, not on how they arrive.
//!
//! What the headers mean (Host, sizes, names) is [`wire::head`](crate::wire::head)'s to check,
//! for whichever engine read them.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use httparse::{Header, ParserConfig, Status};

use super::Framing;
use super::fields::{self, LINES_MAX};

/// A plain head.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a head that have nothing to do with each other")]
pub struct PlainHead {
    /// Method, target, headers; HTTP/1.1.
    pub request: Request<()>,
    /// How the body ends; never by the connection's end.
    pub framing: Framing,
    /// The caller wants the connection closed after the answer.
    pub closes: bool,
    /// The caller waits for `100 Continue` before it sends the body.
    pub expects: bool,
    /// The caller takes trailers.
    pub takes_trailers: bool,
    /// The target had a fragment, which is not part of `request`.
    pub has_fragment: bool,
}

/// What a head comes to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for one match; the large variant is the usual one")]
pub enum Judged {
    /// Read.
    Plain(PlainHead),
    /// Malformed, and why.
    Refused(&'static str),
    /// For another engine.
    Other,
}

/// Whether `bytes`, which are no whole head, cannot become one that is read here: another engine
/// judges them, and does not have to wait for the rest.
#[must_use]
pub fn is_hopeless(bytes: &[u8]) -> bool {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    httparse::Request::new(&mut lines).parse(bytes).is_err()
}

/// Judges a whole head, with the empty line that ends it.
#[must_use]
pub fn judge(head: &Bytes) -> Judged {
    if !fields::has_whole_line_ends(head) {
        return Judged::Refused("a line that ends without CR");
    }
    let mut lines = [const { MaybeUninit::<Header<'_>>::uninit() }; LINES_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, &mut lines);
    if parsed != Ok(Status::Complete(head.len())) || request.version != Some(1) {
        return Judged::Other;
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Judged::Other };
    if !target.starts_with('/') {
        return Judged::Other;
    }
    let Some(headers) = fields::to_map(head, request.headers) else { return Judged::Other };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Judged::Other };
    let Ok(uri) = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())) else { return Judged::Other };
    judge_headers(method, uri, headers, target.contains('#'))
}

fn judge_headers(method: Method, uri: Uri, headers: HeaderMap, has_fragment: bool) -> Judged {
    let framing = match framing(&headers) {
        Ok(Some(framing)) => framing,
        Ok(None) => return Judged::Other,
        Err(why) => return Judged::Refused(why),
    };
    let expects = match headers.get(EXPECT) {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Judged::Other,
    };
    if method == Method::CONNECT || headers.get_all(UPGRADE).iter().any(|value| value != "h2c") {
        return Judged::Other;
    }
    let says = |name, token: &[u8]| headers.get_all(name).iter().any(|line| fields::has_token(line, token));
    let closes = says(CONNECTION, b"close");
    let takes_trailers = says(TE, b"trailers");
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Judged::Plain(PlainHead { request, framing, closes, expects, takes_trailers, has_fragment })
}

/// How the body ends. `None`: for another engine to say.
fn framing(headers: &HeaderMap) -> Result<Option<Framing>, &'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        if codings.next().is_some() || !is_chunked(coding) {
            return Err("Transfer-Encoding is something else than one `chunked`");
        }
        return Ok(Some(Framing::Chunked));
    }
    let Some(length) = length else { return Ok(Some(Framing::Empty)) };
    if lengths.next().is_some() {
        return Ok(None);
    }
    match fields::decimal(length.as_bytes()) {
        None => Err("Content-Length is no length"),
        Some(0) => Ok(Some(Framing::Empty)),
        // No body is as long; hyper draws the same line.
        Some(length) if length > u64::MAX - 2 => Ok(None),
        Some(length) => Ok(Some(Framing::Length(length))),
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests;
