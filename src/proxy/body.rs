//! The body of an answer: our own, whole; or the upstream's, streaming and observed to its end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::exchange::Exchange;
use crate::model::usage::{CutReason, Outcome};
use crate::server::BodyError;

/// What callers are answered with.
#[derive(Debug)]
pub enum ResponseBody {
    /// Whole.
    Whole(Option<Bytes>),
    /// From an upstream.
    Streaming(Box<Streaming>),
}

/// How long an upstream's body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyDeadlines {
    /// A pause in it.
    pub(super) idle: Duration,
    /// All of it; none: as long as it moves.
    pub(super) whole: Option<Duration>,
}

/// An upstream's body under way.
#[derive(Debug)]
pub struct Streaming {
    body: Incoming,
    exchange: Exchange,
    idle: Duration,
    /// Armed only while nothing comes.
    timer: Option<Pin<Box<Sleep>>>,
    /// The end of the whole exchange, where the upstream has one.
    whole: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// The upstream's body; settles its exchange when it ends.
    pub(super) fn streaming(body: Incoming, mut exchange: Exchange, limits: BodyDeadlines) -> Self {
        if body.is_end_stream() {
            exchange.complete();
            return Self::Whole(None);
        }
        let whole = limits.whole.map(|left| Box::pin(tokio::time::sleep(left)));
        Self::Streaming(Box::new(Streaming { body, exchange, idle: limits.idle, timer: None, whole }))
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(whole) = &mut self.whole
            && whole.as_mut().poll(context).is_ready()
        {
            self.exchange.settle(Outcome::Cut, Some(CutReason::Deadline));
            return Poll::Ready(Some(Err("the exchange took too long".into())));
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.poll_idle(context),
            Poll::Ready(None) => {
                self.exchange.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.exchange.settle(Outcome::UpstreamError, None);
                // An error makes the server cut the connection: never a clean end.
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                if let Some(data) = frame.data_ref() {
                    self.exchange.bytes_out += data.len() as u64;
                    // The server need not ask again after the last byte of a body of known length.
                    if self.body.is_end_stream() {
                        self.exchange.complete();
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.exchange.settle(Outcome::UpstreamError, None);
        Poll::Ready(Some(Err("the upstream's body stalled".into())))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Streaming(streaming) => streaming.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streaming(streaming) => streaming.body.size_hint(),
        }
    }
}
