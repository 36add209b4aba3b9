//! The head of a request: one verdict for its bytes, and hyper reads a plain one alike.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, Version};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;

use crate::wire::http1::Framing;
use crate::wire::http1::fields::{LINES_MAX, has_whole_line_ends, head_end};
use crate::wire::http1::request::{Judged, PlainHead, is_hopeless, judge};

/// The first byte says where the rest is cut; that begins with a head.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (seed, data) = super::split(data);
    let end = head_end(data, 0);
    assert_eq!(fed(seed, data), end, "the head's end, byte by byte");
    let Some(end) = end else { return };
    let head = Bytes::copy_from_slice(&data[..end]);
    let judged = judge(&head, LINES_MAX);
    // A beginning that is given up is never one of a head that would have been taken.
    if let Some(cut) = (0..end).find(|cut| is_hopeless(&head[..*cut], LINES_MAX)) {
        assert!(!matches!(judged, Judged::Plain(_)), "a plain head is given up after {cut} bytes");
    }
    match judged {
        Judged::Plain(plain) => check_plain(&plain, data),
        Judged::Refused(_) | Judged::Other => {}
    }
}

/// The end of the head, as somebody finds it who gets it in pieces.
fn fed(seed: u8, data: &[u8]) -> Option<usize> {
    let mut buffer = Vec::new();
    for piece in super::pieces(seed, data) {
        let seen = buffer.len();
        buffer.extend_from_slice(piece);
        if let Some(end) = head_end(&buffer, seen) {
            return Some(end);
        }
    }
    None
}

fn check_plain(plain: &PlainHead, data: &[u8]) {
    let shown = || data.escape_ascii().to_string();
    assert!(has_whole_line_ends(&data[..head_end(data, 0).expect("it was judged")]), "{}", shown());
    assert!(!data.contains(&0) || data.iter().position(|byte| *byte == 0) >= head_end(data, 0), "{}", shown());
    let (parts, framing) = by_hyper(data).unwrap_or_else(|| panic!("hyper reads no request in {}", shown()));
    assert_eq!(plain.request.method(), parts.method, "{}", shown());
    assert_eq!(plain.request.uri(), &parts.uri, "{}", shown());
    assert_eq!(plain.request.headers(), &parts.headers, "{}", shown());
    assert_eq!(parts.version, Version::HTTP_11);
    assert_eq!(plain.framing, framing, "{}", shown());
}

/// The request that hyper's server reads there.
fn by_hyper(data: &[u8]) -> Option<(Parts, Framing)> {
    let seen = RefCell::new(None);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let framing = match (body.is_end_stream(), body.size_hint().exact()) {
            (true, _) | (_, Some(0)) => Framing::Empty,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Chunked,
        };
        seen.borrow_mut().get_or_insert((parts, framing));
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.keep_alive(false).half_close(true).header_read_timeout(None);
    {
        let mut connection = pin!(builder.serve_connection(Script { data, at: 0 }, service));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..16 {
            if connection.as_mut().poll(&mut context).is_ready() {
                break;
            }
        }
    }
    seen.into_inner()
}

/// A caller that says all it has to say, and listens to nothing.
struct Script<'d> {
    data: &'d [u8],
    at: usize,
}

impl Read for Script<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let rest = &self.data[self.at..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Script<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
