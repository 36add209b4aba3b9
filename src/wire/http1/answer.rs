//! The head of a response, as an upstream sends it.
//!
//! Stricter than most readers where the end of the body is concerned: a `Transfer-Encoding` is
//! one `chunked` or the answer is refused. A length beside it is ignored (RFC 9112 §6.3), and the
//! connection serves nobody else, because whoever sent both may mean the other one.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use httparse::{Header, ParserConfig, Response, Status};
use thiserror::Error;

use super::Framing;
use super::fields::{self, Facts, LINES_MAX};

/// The largest head that is taken.
pub const HEAD_MAX: usize = 64 * 1024;

/// The head of a response.
#[derive(Debug)]
pub struct AnswerHead {
    /// Its status: 101, or 200 and above.
    pub status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<Bytes>,
    /// Its headers; their values share the bytes they were read into.
    pub headers: HeaderMap,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the connection may carry another exchange after it.
    pub keeps_alive: bool,
}

/// Why there is no answer in what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerFault {
    /// It is not the head of an HTTP/1 response.
    #[error("the answer is not HTTP/1: {0}")]
    Syntax(httparse::Error),
    /// The head is larger than [`HEAD_MAX`].
    #[error("the head of the answer is larger than {HEAD_MAX} bytes")]
    TooLarge,
    /// Nobody can say where the body ends.
    #[error("{0}")]
    Framing(&'static str),
}

impl From<httparse::Error> for AnswerFault {
    fn from(error: httparse::Error) -> Self {
        Self::Syntax(error)
    }
}

/// Reads heads as their bytes come.
#[derive(Debug, Default)]
pub struct AnswerParser {
    /// How much of the buffer is known to hold no whole head.
    seen: usize,
}

impl AnswerParser {
    /// Takes a head off `buffer`, if there is a whole one. Interim answers (1xx except 101) are
    /// taken off and forgotten. `to_head`: the request's method was HEAD.
    ///
    /// # Errors
    /// What is there can never become an answer.
    pub fn parse(&mut self, buffer: &mut BytesMut, to_head: bool) -> Result<Option<AnswerHead>, AnswerFault> {
        loop {
            let Some(end) = fields::head_end(buffer, self.seen) else {
                return self.wait_for_more(buffer).map(|()| None);
            };
            self.seen = 0;
            if end > HEAD_MAX {
                return Err(AnswerFault::TooLarge);
            }
            let head = buffer.split_to(end).freeze();
            if let Some(head) = parse_whole(&head, to_head)? {
                return Ok(Some(head));
            }
        }
    }

    /// No whole head yet; what is no beginning of one is refused without waiting for its end.
    fn wait_for_more(&mut self, buffer: &BytesMut) -> Result<(), AnswerFault> {
        if buffer.len() > HEAD_MAX {
            return Err(AnswerFault::TooLarge);
        }
        if self.seen == 0 {
            let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
            Response::new(&mut lines).parse(buffer)?;
        }
        self.seen = buffer.len();
        Ok(())
    }
}

/// The head that `head` is. `None`: an interim answer.
fn parse_whole(head: &Bytes, to_head: bool) -> Result<Option<AnswerHead>, AnswerFault> {
    let mut lines = [const { MaybeUninit::<Header<'_>>::uninit() }; LINES_MAX];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut lines)?;
    if parsed != Status::Complete(head.len()) {
        return Err(AnswerFault::Framing("the head ends elsewhere than its empty line"));
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let is_old = response.version == Some(0);
    let (headers, facts) = fields::to_map(head, response.headers).ok_or(httparse::Error::HeaderName)?;
    let framing = framing(status, is_old, &headers, facts, to_head)?;
    let has_both = facts.codings > 0 && facts.lengths > 0;
    let stays = !facts.close && (!is_old || facts.keep_alive);
    let reason = response.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    Ok(Some(AnswerHead {
        status,
        reason: reason.map(|reason| head.slice_ref(reason.as_bytes())),
        framing,
        keeps_alive: stays && framing != Framing::UntilClose && !has_both,
        headers,
    }))
}

fn framing(
    status: StatusCode,
    is_old: bool,
    headers: &HeaderMap,
    facts: Facts,
    to_head: bool,
) -> Result<Framing, AnswerFault> {
    if to_head || matches!(status.as_u16(), 101 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    if facts.codings > 0 {
        if is_old {
            return Err(AnswerFault::Framing("Transfer-Encoding in an answer before HTTP/1.1"));
        }
        if facts.codings > 1 || !facts.chunked {
            return Err(AnswerFault::Framing("Transfer-Encoding of the answer is something else than one `chunked`"));
        }
        return Ok(Framing::Chunked);
    }
    if facts.lengths == 0 {
        return Ok(Framing::UntilClose);
    }
    match fields::length(headers) {
        Ok(None) => Ok(Framing::UntilClose),
        Ok(Some(0)) => Ok(Framing::Empty),
        Ok(Some(length)) => Ok(Framing::Length(length)),
        Err(fields::BadLength) => Err(AnswerFault::Framing("Content-Length of the answer is no length")),
    }
}

#[cfg(test)]
mod tests;
