//! A body on its way into a stream of HTTP/2, as fast as the other side takes it.
//!
//! One piece is held until the stream's window has room for it, and nothing is asked of the body
//! meanwhile: whoever does not read costs one piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

use super::http1::response::may_be_trailer;
use super::websocket::{Frames, Goodbye};

/// Why a body does not go out whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFault {
    /// The other side wants no more of it, or is gone.
    Unwanted,
    /// The body failed; the stream was reset.
    Body,
}

impl From<h2::Error> for SendFault {
    fn from(_: h2::Error) -> Self {
        Self::Unwanted
    }
}

/// See the module.
#[derive(Debug)]
pub struct Sending<B> {
    /// None: all of it was taken. Dropped before its last piece is sent, so that an answer which
    /// arrived is always one that was settled.
    body: Option<B>,
    stream: SendStream<Bytes>,
    held: Bytes,
    moved: bool,
    begun: bool,
    /// Of a tunnel: where its frames end.
    frames: Option<Frames>,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    /// A body of which nothing has been read, behind a head that was sent.
    #[must_use]
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body: Some(body), stream, held: Bytes::new(), moved: false, begun: false, frames: None }
    }

    /// The same where `first` was read already.
    #[must_use]
    pub fn behind(first: Bytes, body: B, stream: SendStream<Bytes>) -> Self {
        let begun = !first.is_empty();
        let mut sending = Self { begun, ..Self::new(body, stream) };
        sending.take(first);
        sending
    }

    /// The same for what is said in a tunnel.
    #[must_use]
    pub fn tunnel(body: B, stream: SendStream<Bytes>) -> Self {
        Self { frames: Some(Frames::default()), ..Self::new(body, stream) }
    }

    /// Whether more has left since this was asked last.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The body, if nothing of it was read.
    pub fn into_unread(self) -> Option<B> {
        self.body.filter(|_| !self.begun)
    }

    /// Sends what there is; ready when all of it is with h2. `waits`: told whether there is
    /// something that the other side has no room for.
    pub fn poll(&mut self, context: &mut Context<'_>, waits: impl Fn(bool)) -> Poll<Result<(), SendFault>> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(Err(SendFault::Unwanted));
            }
            if !self.held.is_empty() {
                let held = self.poll_held(context);
                waits(held.is_pending());
                ready!(held)?;
                continue;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            let frame = ready!(Pin::new(body).poll_frame(context));
            self.begun = true;
            match frame {
                None => return Poll::Ready(self.finish(None)),
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(SendFault::Body));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(data),
                    Err(frame) => return Poll::Ready(self.finish(frame.into_trailers().ok())),
                },
            }
        }
    }

    fn take(&mut self, data: Bytes) {
        if let Some(frames) = &mut self.frames {
            frames.passed(&data);
        }
        self.held = data;
        let is_last = self.body.as_ref().is_some_and(Body::is_end_stream);
        // With nothing to hold, the end is sent by itself.
        if is_last && !self.held.is_empty() {
            self.body = None;
        }
    }

    /// Sends as much of the held piece as the window takes.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SendFault>> {
        while !self.held.is_empty() {
            self.stream.reserve_capacity(self.held.len());
            let room = ready!(self.stream.poll_capacity(context)).ok_or(SendFault::Unwanted)??;
            let part = self.held.split_to(room.min(self.held.len()));
            let is_last = self.held.is_empty() && self.body.is_none();
            self.stream.send_data(part, is_last)?;
            self.moved = true;
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), SendFault> {
        self.body = None;
        match trailers {
            None => self.stream.send_data(Bytes::new(), true)?,
            Some(mut trailers) => {
                let late: Vec<_> = trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
                for name in late {
                    trailers.remove(name);
                }
                self.stream.send_trailers(trailers)?;
            }
        }
        Ok(())
    }

    /// Breaks off; in a tunnel with a word, if nothing is half out.
    pub fn cut(&mut self, goodbye: Option<Goodbye>) {
        let takes_one = self.held.is_empty() && self.frames.as_ref().is_some_and(Frames::takes_one);
        if let Some(goodbye) = goodbye.filter(|_| takes_one)
            && self.stream.send_data(Bytes::from_static(goodbye.frame()), true).is_ok()
        {
            return;
        }
        self.stream.send_reset(Reason::CANCEL);
    }
}
