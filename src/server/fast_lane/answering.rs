//! A response on its way out: its head and the first piece of its body in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderName, Method, Response};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite as _;

use super::Asked;
use super::caller::{self, SharedCaller};
use crate::server::watch::Watch;
use crate::wire::http1::Framing;
use crate::wire::http1::chunks::SizeLine;
use crate::wire::http1::response::{self, Frame};

/// The connection has to be broken off: the caller is gone, or the body failed or is not as long
/// as was announced.
#[derive(Debug)]
pub(super) struct Broken;

/// See the module.
pub(super) struct Answering<'a, B> {
    /// None: all of it was taken. It is dropped before its last piece is written, so that an
    /// answer which arrived is always one that was settled.
    body: Option<B>,
    framing: Framing,
    outgoing: &'a mut BytesMut,
    data: Bytes,
    tail: &'static [u8],
    /// Trailers that may be sent.
    announced: Vec<HeaderName>,
    closes: bool,
}

impl<'a, B: Body<Data = Bytes> + Unpin> Answering<'a, B> {
    pub(super) fn new(
        response: Response<B>,
        asked: &Asked,
        closes: bool,
        date: &[u8],
        outgoing: &'a mut BytesMut,
    ) -> Self {
        let (head, body) = response.into_parts();
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let framing = response::framing(&asked.method, head.status, length);
        let closes = closes || response::says_close(&head.headers);
        let frame = Frame {
            framing,
            to_head: asked.method == Method::HEAD,
            closes,
            reason: head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes),
            date,
        };
        outgoing.clear();
        response::write_head(outgoing, head.status, &head.headers, &frame, length);
        let takes_trailers = framing == Framing::Chunked && asked.takes_trailers;
        let announced = if takes_trailers { response::announced(&head.headers) } else { Vec::new() };
        let body = (framing != Framing::Empty).then_some(body);
        Self { body, framing, outgoing, data: Bytes::new(), tail: b"", announced, closes }
    }

    /// Whether the head said that the connection closes.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Writes what there is; ready when everything is with the kernel.
    pub(super) fn poll(
        &mut self,
        caller: &SharedCaller,
        watch: &Watch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let waits = self.data.is_empty() && self.tail.is_empty() && self.poll_body(context)?.is_pending();
            if self.outgoing.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                if waits {
                    return wait_with(caller, context);
                }
                if self.body.is_none() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.poll_write(caller, context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Ready(Ok(written)) => {
                    watch.written();
                    self.advance(written);
                }
                Poll::Pending => {
                    watch.write_blocked();
                    return wait_with(caller, context);
                }
            }
        }
    }

    /// Asks the body for its next piece, unless it has ended.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        let frame = match Pin::new(&mut *body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => return self.end().map(Poll::Ready),
            Poll::Ready(Some(frame)) => frame.map_err(|_| Broken)?,
        };
        match frame.into_data() {
            Ok(data) => self.take(data).map(Poll::Ready),
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref().filter(|_| self.framing == Framing::Chunked) {
                    response::write_trailers(self.outgoing, &self.announced, trailers);
                    self.body = None;
                }
                Ok(Poll::Ready(()))
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<(), Broken> {
        // A chunk of nothing would be the last one.
        if data.is_empty() {
            return Ok(());
        }
        let mut ended = self.body.as_ref().is_none_or(B::is_end_stream);
        if let Framing::Length(left) = &mut self.framing {
            *left = left.checked_sub(data.len() as u64).ok_or(Broken)?;
            if ended && *left > 0 {
                return Err(Broken);
            }
            ended = *left == 0;
        } else {
            self.outgoing.put_slice(SizeLine::of(data.len()).as_bytes());
            self.tail = if ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        }
        if ended {
            self.body = None;
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.body = None;
        match self.framing {
            Framing::Length(left) if left > 0 => Err(Broken),
            Framing::Chunked => {
                self.tail = b"0\r\n\r\n";
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn poll_write(&self, caller: &SharedCaller, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut caller = caller::lock(caller);
        let stream = Pin::new(&mut caller.stream);
        if self.data.is_empty() && self.tail.is_empty() {
            return stream.poll_write(context, self.outgoing);
        }
        let slices = [IoSlice::new(self.outgoing), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        stream.poll_write_vectored(context, &slices)
    }

    fn advance(&mut self, mut written: usize) {
        let before = self.outgoing.len().min(written);
        self.outgoing.advance(before);
        written -= before;
        let data = self.data.len().min(written);
        self.data.advance(data);
        written -= data;
        self.tail = &self.tail[written..];
    }
}

/// Waits, and listens whether the caller still does.
fn wait_with(caller: &SharedCaller, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    if caller::lock(caller).has_left(context) { Poll::Ready(Err(Broken)) } else { Poll::Pending }
}
