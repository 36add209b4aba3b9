//! The request on its way out: its head and the first piece of its body in one write.
//!
//! The framing is decided and written here, from what the body knows of itself; what the
//! caller's headers said about it does not cross.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
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
    moved: bool,
    tunnel: Option<Tunnel>,
}

/// How far a request that asked for another protocol has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnel {
    /// It was not agreed on: nothing behind the head may leave.
    Asked,
    /// Everything passes.
    Open,
    /// The caller has ended its direction, and so did we.
    Ended,
}

impl Upload {
    pub(super) fn new(body: OutgoingBody) -> Self {
        let tunnel = body.is_tunnel().then_some(Tunnel::Asked);
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => Framing::Empty,
            _ if tunnel.is_some() => Framing::UntilClose,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Self { body, out: Outgoing::new(framing), begun: false, moved: false, tunnel }
    }

    /// How long the body is, if that is known.
    pub(super) fn size(&self) -> Option<u64> {
        match self.out.framing() {
            Framing::Length(left) => Some(left + self.out.waiting() as u64),
            Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// The body, for another way to send it, and what was read of it, which did not leave.
    pub(super) fn into_body(self) -> (Bytes, OutgoingBody) {
        (self.out.into_waiting(), self.body)
    }

    /// Whether it asks for another protocol.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    /// Whether the upstream has not agreed on that yet.
    pub(super) fn waits_for_tunnel(&self) -> bool {
        self.tunnel == Some(Tunnel::Asked)
    }

    /// Whether bytes have left since this was asked last.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The upstream has agreed: all that the caller sends passes from now on.
    pub(super) fn open_tunnel(&mut self) {
        self.tunnel = self.tunnel.map(|_| Tunnel::Open);
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
            Framing::UntilClose => out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n"),
            Framing::Empty if head.headers().contains_key(CONTENT_LENGTH) => write_length(out, 0),
            Framing::Empty => {}
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
                if connection.stream.holds_back() {
                    ready!(Pin::new(&mut connection.stream).poll_flush(context))?;
                }
                if waits {
                    return Poll::Pending;
                }
                if self.tunnel == Some(Tunnel::Open) {
                    ready!(Pin::new(&mut connection.stream).poll_shutdown(context))?;
                    self.tunnel = Some(Tunnel::Ended);
                }
                return Poll::Ready(Ok(()));
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
            self.moved = true;
            self.out.advance(&mut connection.outgoing, written);
        }
    }

    fn poll_body(&mut self, outgoing: &mut BytesMut, context: &mut Context<'_>) -> Result<Poll<()>, UploadFault> {
        if self.tunnel == Some(Tunnel::Asked) {
            return Ok(Poll::Pending);
        }
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
