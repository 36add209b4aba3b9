//! The request on its way out: its head and the first piece of its body in one write.
//!
//! The framing is decided and written here, from what the body knows of itself; what the
//! caller's headers said about it does not cross.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request};
use http_body::Body as _;
use tokio::io::AsyncWrite as _;

use super::connection::Connection;
use crate::proxy::intake::OutgoingBody;
use crate::wire::http1::Framing;
use crate::wire::http1::chunks::SizeLine;
use crate::wire::http1::fields::{write_decimal, write_line};

/// Why a request does not go up whole.
#[derive(Debug)]
pub(super) enum UploadFault {
    /// The upstream takes no more.
    Io(io::Error),
    /// The body failed, or is not as long as it announced.
    Body,
}

impl From<io::Error> for UploadFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A body on its way out, behind what stands in the connection's `outgoing`.
#[derive(Debug)]
pub(super) struct Upload {
    body: OutgoingBody,
    /// With [`Framing::Length`], how much of it is still to come from the body.
    framing: Framing,
    data: Bytes,
    /// What follows the data.
    tail: &'static [u8],
    /// Nothing more comes from the body.
    ended: bool,
    begun: bool,
}

impl Upload {
    pub(super) fn new(body: OutgoingBody) -> Self {
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Self { body, framing, data: Bytes::new(), tail: b"", ended: framing == Framing::Empty, begun: false }
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.framing == Framing::Empty
    }

    /// Whether a byte has left.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Writes the head into `out`, with `host` in place of the caller's if there is one; and the
    /// size of a piece that was waiting for a connection.
    pub(super) fn write_head(&self, out: &mut BytesMut, head: &Request<()>, host: Option<&HeaderValue>) {
        out.clear();
        out.reserve(1024);
        out.put_slice(head.method().as_str().as_bytes());
        out.put_slice(b" ");
        out.put_slice(head.uri().path_and_query().map_or("/", |target| target.as_str()).as_bytes());
        out.put_slice(b" HTTP/1.1\r\n");
        if let Some(host) = host.or_else(|| head.headers().get(HOST)) {
            write_line(out, b"host", host.as_bytes());
        }
        for (name, value) in head.headers() {
            if *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
                write_line(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        match self.framing {
            Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Length(left) => write_length(out, left + self.data.len() as u64),
            Framing::Empty | Framing::UntilClose if head.headers().contains_key(CONTENT_LENGTH) => write_length(out, 0),
            Framing::Empty | Framing::UntilClose => {}
        }
        out.put_slice(b"\r\n");
        if self.framing == Framing::Chunked && !self.data.is_empty() {
            out.put_slice(SizeLine::of(self.data.len()).as_bytes());
        }
    }

    /// Writes what is there to be written; ready when all of the request is out.
    pub(super) fn poll(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadFault>> {
        loop {
            let waits = self.wants_more() && self.poll_body(&mut connection.outgoing, context)?.is_pending();
            if connection.outgoing.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                if waits {
                    return Poll::Pending;
                }
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let written = ready!(self.poll_write(connection, context))?;
            if written == 0 {
                return Poll::Ready(Err(UploadFault::Io(io::ErrorKind::WriteZero.into())));
            }
            self.begun = true;
            self.advance(&mut connection.outgoing, written);
        }
    }

    fn wants_more(&self) -> bool {
        !self.ended && self.data.is_empty() && self.tail.is_empty()
    }

    fn poll_body(&mut self, outgoing: &mut BytesMut, context: &mut Context<'_>) -> Result<Poll<()>, UploadFault> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame,
        };
        let Some(frame) = frame else {
            self.end()?;
            return Ok(Poll::Ready(()));
        };
        let frame = frame.map_err(|_| UploadFault::Body)?;
        let data = frame.into_data().unwrap_or_default();
        if data.is_empty() {
            // A chunk of nothing would be the last one.
            return Ok(Poll::Ready(()));
        }
        if let Framing::Length(left) = &mut self.framing {
            *left = left.checked_sub(data.len() as u64).ok_or(UploadFault::Body)?;
            self.ended = *left == 0;
        } else {
            outgoing.put_slice(SizeLine::of(data.len()).as_bytes());
            self.ended = self.body.is_end_stream();
            self.tail = if self.ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        }
        self.data = data;
        Ok(Poll::Ready(()))
    }

    fn end(&mut self) -> Result<(), UploadFault> {
        self.ended = true;
        match self.framing {
            Framing::Chunked => self.tail = b"0\r\n\r\n",
            Framing::Length(left) if left > 0 => return Err(UploadFault::Body),
            _ => {}
        }
        Ok(())
    }

    fn poll_write(&self, connection: &mut Connection, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut connection.stream);
        if self.data.is_empty() && self.tail.is_empty() {
            return stream.poll_write(context, &connection.outgoing);
        }
        let slices = [IoSlice::new(&connection.outgoing), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        stream.poll_write_vectored(context, &slices)
    }

    fn advance(&mut self, outgoing: &mut BytesMut, mut written: usize) {
        let before = outgoing.len().min(written);
        outgoing.advance(before);
        written -= before;
        let data = self.data.len().min(written);
        self.data.advance(data);
        written -= data;
        self.tail = &self.tail[written..];
    }
}

fn write_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    write_decimal(out, length);
    out.put_slice(b"\r\n");
}
