//! A response's body on its way into a stream, as fast as the caller takes it.
//!
//! One piece is held until the caller's window has room for it, and nothing is asked of the body
//! meanwhile: a caller that does not read costs one piece, and after `server.timeouts.write_idle`
//! its stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

use crate::server::watch::{Verdict, Watch};
use crate::wire::http1::response::may_be_trailer;
use crate::wire::websocket::{Frames, Goodbye};

/// The stream is over before its end: the caller reset it, or the body failed.
#[derive(Debug)]
pub(super) struct Broken;

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// See the module.
pub(super) struct Sending<B> {
    /// None: all of it was taken. Dropped before its last piece is sent, so that an answer which
    /// arrived is always one that was settled.
    body: Option<B>,
    stream: SendStream<Bytes>,
    held: Bytes,
    /// Of a tunnel: where its frames end.
    frames: Option<Frames>,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    pub(super) fn new(body: B, stream: SendStream<Bytes>, is_tunnel: bool) -> Self {
        Self { body: Some(body), stream, held: Bytes::new(), frames: is_tunnel.then(Frames::default) }
    }

    /// Sends what there is; ready when all of it is with h2.
    pub(super) fn poll(&mut self, watch: &Watch, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(Err(Broken));
            }
            if !self.held.is_empty() {
                ready!(self.poll_held(watch, context))?;
                if self.body.is_none() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(context)) {
                None => return Poll::Ready(self.finish(None)),
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Broken));
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
        // Nothing to hold and nothing more: the end is sent by itself.
        if is_last && !self.held.is_empty() {
            self.body = None;
        }
    }

    /// Sends as much of the held piece as the caller's window takes.
    fn poll_held(&mut self, watch: &Watch, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.held.is_empty() {
            self.stream.reserve_capacity(self.held.len());
            let room = match self.stream.poll_capacity(context) {
                Poll::Pending => {
                    watch.write_blocked();
                    return Poll::Pending;
                }
                Poll::Ready(room) => room.ok_or(Broken)??,
            };
            watch.written();
            let part = self.held.split_to(room.min(self.held.len()));
            let is_last = self.held.is_empty() && self.body.is_none();
            self.stream.send_data(part, is_last)?;
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
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

    /// Breaks off; a tunnel is told why, if nothing is half out.
    pub(super) fn cut(&mut self, verdict: Verdict) {
        let goodbye = match verdict {
            Verdict::Revoked => Some(Goodbye::PolicyViolation),
            Verdict::Shutdown => Some(Goodbye::GoingAway),
            Verdict::None | Verdict::Close | Verdict::HeadTimeout | Verdict::Stalled => None,
        };
        let takes_one = self.held.is_empty() && self.frames.as_ref().is_some_and(Frames::takes_one);
        if let Some(goodbye) = goodbye.filter(|_| takes_one)
            && self.stream.send_data(Bytes::from_static(goodbye.frame()), true).is_ok()
        {
            return;
        }
        self.stream.send_reset(Reason::CANCEL);
    }
}
