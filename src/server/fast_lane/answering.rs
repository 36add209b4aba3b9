//! A response on its way out: its head and the first piece of its body in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, Method, Response, StatusCode};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite as _;

use super::Asked;
use super::caller::{self, SharedCaller};
use crate::server::watch::{Verdict, Watch};
use crate::wire::http1::Framing;
use crate::wire::http1::outgoing::{Outgoing, WrongLength};
use crate::wire::http1::response::{self, Frame};
use crate::wire::websocket::Frames;

/// The connection has to be broken off: the caller is gone, or the body failed or is not as long
/// as was announced.
#[derive(Debug)]
pub(super) struct Broken;

impl From<WrongLength> for Broken {
    fn from(_: WrongLength) -> Self {
        Self
    }
}

/// See the module.
pub(super) struct Answering<'a, B> {
    /// None: all of it was taken. It is dropped before its last piece is written, so that an
    /// answer which arrived is always one that was settled.
    body: Option<B>,
    out: Outgoing,
    /// The head, and what was gathered behind it.
    before: &'a mut BytesMut,
    /// Trailers that may be sent.
    announced: Vec<HeaderName>,
    closes: bool,
    /// Of a tunnel: where its frames end, on their way to the caller.
    frames: Option<Frames>,
}

impl<'a, B: Body<Data = Bytes> + Unpin> Answering<'a, B> {
    pub(super) fn new(
        response: Response<B>,
        asked: &Asked,
        closes: bool,
        date: &[u8],
        before: &'a mut BytesMut,
    ) -> Self {
        let (head, body) = response.into_parts();
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let framing = response::framing(&asked.method, head.status, length);
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let closes = closes || response::says_close(&head.headers);
        let frame = Frame {
            framing,
            to_head: asked.method == Method::HEAD,
            closes: closes && !is_tunnel,
            reason: head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes),
            date,
        };
        before.clear();
        response::write_head(before, head.status, &head.headers, &frame, length);
        let takes_trailers = framing == Framing::Chunked && asked.takes_trailers;
        let announced = if takes_trailers { response::announced(&head.headers) } else { Vec::new() };
        let body = (framing != Framing::Empty).then_some(body);
        let frames = is_tunnel.then(Frames::default);
        Self { body, out: Outgoing::new(framing), before, announced, closes: closes || is_tunnel, frames }
    }

    /// Whether the head said that the connection closes.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Before a tunnel is broken off: tells the caller why, if nothing is half out. Best effort and
    /// no waiting.
    pub(super) fn say_goodbye(&self, caller: &SharedCaller, verdict: Verdict) {
        let Some(goodbye) = verdict.goodbye() else { return };
        if self.frames.as_ref().is_some_and(Frames::takes_one) && self.out.is_written(self.before) {
            let mut context = Context::from_waker(Waker::noop());
            let mut caller = caller::lock(caller);
            let _ = Pin::new(&mut caller.stream).poll_write(&mut context, goodbye.frame());
            let _ = Pin::new(&mut caller.stream).poll_flush(&mut context);
        }
    }

    /// Writes what there is; ready when everything is with the kernel.
    pub(super) fn poll(
        &mut self,
        caller: &SharedCaller,
        watch: &Watch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let mut waits = false;
            while self.out.takes_more(self.before) && !waits {
                waits = self.poll_body(context)?.is_pending();
            }
            if self.out.is_written(self.before) {
                return match poll_flush(caller, watch, context) {
                    Poll::Ready(Ok(())) if !waits => Poll::Ready(Ok(())),
                    Poll::Ready(Err(_)) => Poll::Ready(Err(Broken)),
                    Poll::Ready(Ok(())) | Poll::Pending => wait_with(caller, context),
                };
            }
            match self.poll_write(caller, context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Ready(Ok(written)) => {
                    watch.written();
                    self.out.advance(self.before, written);
                }
                Poll::Pending => {
                    watch.write_blocked();
                    return wait_with(caller, context);
                }
            }
        }
    }

    /// Asks the body for its next piece.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        let Some(body) = &mut self.body else {
            self.out.finish()?;
            return Ok(Poll::Ready(()));
        };
        let frame = match Pin::new(&mut *body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => None,
            Poll::Ready(Some(frame)) => Some(frame.map_err(|_| Broken)?),
        };
        match frame.map(http_body::Frame::into_data) {
            None => self.out.finish()?,
            Some(Ok(data)) => {
                let last = body.is_end_stream();
                if let Some(frames) = &mut self.frames {
                    frames.passed(&data);
                }
                self.out.push(self.before, data, last, true)?;
            }
            Some(Err(frame)) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.out.finish_with(self.before, &trailers, &self.announced)?;
            }
        }
        if self.out.has_ended() {
            self.body = None;
        }
        Ok(Poll::Ready(()))
    }

    fn poll_write(&self, caller: &SharedCaller, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut caller = caller::lock(caller);
        let stream = Pin::new(&mut caller.stream);
        match self.out.slices(self.before) {
            Some(slices) => stream.poll_write_vectored(context, &slices),
            None => stream.poll_write(context, self.before),
        }
    }
}

/// Hands what was written to the kernel, where something holds it back.
fn poll_flush(caller: &SharedCaller, watch: &Watch, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut caller = caller::lock(caller);
    if !caller.stream.holds_back() {
        return Poll::Ready(Ok(()));
    }
    let flushed = Pin::new(&mut caller.stream).poll_flush(context);
    match flushed {
        Poll::Pending => watch.write_blocked(),
        Poll::Ready(_) => watch.written(),
    }
    flushed
}

/// Waits, and listens whether the caller still does.
fn wait_with(caller: &SharedCaller, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    if caller::lock(caller).has_left(context) { Poll::Ready(Err(Broken)) } else { Poll::Pending }
}
