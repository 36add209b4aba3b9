//! The request on its way out: its head and the first piece of its body in one write.
//!
//! The framing is decided and written here, from what the body knows of itself; what the
//! caller's headers said about it does not cross.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request};
use http_body::Body as _;
use tokio::io::AsyncWrite as _;

use super::connection::Connection;
use crate::proxy::intake::OutgoingBody;
use crate::wire::http1::Framing;
use crate::wire::http1::chunks::SizeLine;
use crate::wire::http1::fields::{write_decimal, write_line};
use crate::wire::http1::outgoing::{Outgoing, WrongLength};

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

impl From<WrongLength> for UploadFault {
    fn from(_: WrongLength) -> Self {
        Self::Body
    }
}

/// A body on its way out, behind what stands in the connection's `outgoing`.
#[derive(Debug)]
pub(super) struct Upload {
    body: OutgoingBody,
    out: Outgoing,
    begun: bool,
}

impl Upload {
    pub(super) fn new(body: OutgoingBody) -> Self {
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Self { body, out: Outgoing::new(framing), begun: false }
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.out.framing() == Framing::Empty
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
        match self.out.framing() {
            Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Length(left) => write_length(out, left + self.out.waiting() as u64),
            Framing::Empty | Framing::UntilClose if head.headers().contains_key(CONTENT_LENGTH) => write_length(out, 0),
            Framing::Empty | Framing::UntilClose => {}
        }
        out.put_slice(b"\r\n");
        if self.out.framing() == Framing::Chunked && self.out.waiting() > 0 {
            out.put_slice(SizeLine::of(self.out.waiting()).as_bytes());
        }
    }

    /// Writes what is there to be written; ready when all of the request is out.
    pub(super) fn poll(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadFault>> {
        loop {
            let mut waits = false;
            while self.out.takes_more(&connection.outgoing) && !waits {
                waits = self.poll_body(&mut connection.outgoing, context)?.is_pending();
            }
            if self.out.is_written(&connection.outgoing) {
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let stream = Pin::new(&mut connection.stream);
            let written = match self.out.slices(&connection.outgoing) {
                Some(slices) => ready!(stream.poll_write_vectored(context, &slices))?,
                None => ready!(stream.poll_write(context, &connection.outgoing))?,
            };
            if written == 0 {
                return Poll::Ready(Err(UploadFault::Io(io::ErrorKind::WriteZero.into())));
            }
            self.begun = true;
            self.out.advance(&mut connection.outgoing, written);
        }
    }

    fn poll_body(&mut self, outgoing: &mut BytesMut, context: &mut Context<'_>) -> Result<Poll<()>, UploadFault> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame,
        };
        let Some(frame) = frame else {
            self.out.finish()?;
            return Ok(Poll::Ready(()));
        };
        let data = frame.map_err(|_| UploadFault::Body)?.into_data().unwrap_or_default();
        let last = self.body.is_end_stream();
        // Before anything has left, the head and one piece beside it: should the connection fail,
        // both go to another one.
        self.out.push(outgoing, data, last, self.begun)?;
        Ok(Poll::Ready(()))
    }
}

fn write_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    write_decimal(out, length);
    out.put_slice(b"\r\n");
}
