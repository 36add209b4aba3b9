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
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Uri};
use httparse::{Header, ParserConfig, Status};

use super::Framing;
use super::fields::{self, Facts, LINES_MAX};

/// How a connection of HTTP/2 begins (RFC 9113 §3.4): a request that HTTP/1.1 has not.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

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
    /// The caller wants to go on with WebSocket, if the answer is 101. Any other `Upgrade` is
    /// ignored, as servers may (RFC 9110 §7.8).
    pub upgrades: bool,
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

/// Whether `bytes`, which are no whole head, cannot become one that any engine takes: another one
/// refuses them, and does not have to wait for the rest. `lines_max`: as for [`judge`].
#[must_use]
pub fn is_hopeless(bytes: &[u8], lines_max: usize) -> bool {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    match httparse::Request::new(&mut lines).parse(bytes) {
        Ok(_) => false,
        Err(httparse::Error::TooManyHeaders) => lines_max <= LINES_MAX,
        Err(_) => true,
    }
}

/// Judges a whole head, with the empty line that ends it. `lines_max`: how many lines another
/// engine would read; at least [`LINES_MAX`].
#[must_use]
pub fn judge(head: &Bytes, lines_max: usize) -> Judged {
    if !fields::has_whole_line_ends(head) {
        return Judged::Refused("a line that ends without CR");
    }
    let mut lines = [const { MaybeUninit::<Header<'_>>::uninit() }; LINES_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, &mut lines);
    if parsed == Err(httparse::Error::TooManyHeaders) && lines_max > LINES_MAX {
        let mut lines = vec![httparse::EMPTY_HEADER; lines_max];
        let mut request = httparse::Request::new(&mut lines);
        let parsed = request.parse(head);
        return judge_parsed(head, parsed, &request);
    }
    judge_parsed(head, parsed, &request)
}

fn judge_parsed(head: &Bytes, parsed: httparse::Result<usize>, request: &httparse::Request<'_, '_>) -> Judged {
    if parsed != Ok(Status::Complete(head.len())) {
        // hyper closes without a word when the whole preface is there, and answers a part of it.
        if head.starts_with(PREFACE) {
            return Judged::Refused("HTTP/2 where HTTP/1.1 is spoken");
        }
        return Judged::Other;
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Judged::Other };
    let Some((headers, facts)) = fields::to_map(head, request.headers) else { return Judged::Other };
    // First of all, and whatever the shape: behind another engine nobody could tell any more.
    let framing = match framing(&headers, facts) {
        Ok(framing) => framing,
        Err(why) => return Judged::Refused(why),
    };
    let is_plain = request.version == Some(1) && target.starts_with('/') && !facts.expects_more;
    let Some(framing) = framing.filter(|_| is_plain) else { return Judged::Other };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Judged::Other };
    let Ok(uri) = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())) else { return Judged::Other };
    if method == Method::CONNECT {
        return Judged::Other;
    }
    let has_fragment = target.contains('#');
    // With a body nobody could say where the request ends and the other protocol begins.
    let upgrades = facts.upgrades_to_websocket() && method == Method::GET && framing == Framing::Empty;
    let Facts { close: closes, expects, takes_trailers, .. } = facts;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Judged::Plain(PlainHead { request, framing, closes, expects, takes_trailers, has_fragment, upgrades })
}

/// How the body ends. `None`: for another engine to say.
fn framing(headers: &HeaderMap, facts: Facts) -> Result<Option<Framing>, &'static str> {
    match facts {
        Facts { lengths: 0, codings: 0, .. } => Ok(Some(Framing::Empty)),
        Facts { lengths: 1.., codings: 1.., .. } => Err("both Content-Length and Transfer-Encoding"),
        Facts { codings: 1, chunked: true, .. } => Ok(Some(Framing::Chunked)),
        Facts { codings: 1.., .. } => Err("Transfer-Encoding is something else than one `chunked`"),
        Facts { lengths: 2.., .. } => Ok(None),
        _ => match headers.get(CONTENT_LENGTH).and_then(|length| fields::decimal(length.as_bytes())) {
            None => Err("Content-Length is no length"),
            Some(0) => Ok(Some(Framing::Empty)),
            // No body is as long; hyper draws the same line.
            Some(length) if length > u64::MAX - 2 => Ok(None),
            Some(length) => Ok(Some(Framing::Length(length))),
        },
    }
}

#[cfg(test)]
mod tests;
