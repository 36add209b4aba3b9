//! A request's body on its way to the upstream: counted, bounded, and given up when it stalls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Sleep;

use crate::server::BodyError;

/// How a body's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u8)]
pub(super) enum UploadFailure {
    /// It grew past its limit.
    #[error("the body is larger than its limit")]
    TooLarge = 2,
    /// Nothing came for too long.
    #[error("the body stalled")]
    Stalled = 3,
    /// The caller left, or sent nonsense.
    #[error("the body broke off")]
    Broken = 4,
}

const RUNNING: u8 = 0;
const WHOLE: u8 = 1;

/// What is known of a body under way; shared between it and its exchange.
#[derive(Debug, Default)]
pub(super) struct UploadState {
    bytes: AtomicU64,
    state: AtomicU8,
}

impl UploadState {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether all of it has left.
    pub(super) fn is_whole(&self) -> bool {
        self.state.load(Ordering::Acquire) == WHOLE
    }

    /// How it failed, if it did.
    pub(super) fn failure(&self) -> Option<UploadFailure> {
        match self.state.load(Ordering::Acquire) {
            2 => Some(UploadFailure::TooLarge),
            3 => Some(UploadFailure::Stalled),
            4 => Some(UploadFailure::Broken),
            _ => None,
        }
    }

    fn end(&self, state: u8) {
        // The first end stands.
        let _ = self.state.compare_exchange(RUNNING, state, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// The body that an upstream is sent.
#[derive(Debug, Default)]
pub(super) enum Upload {
    /// None.
    #[default]
    Empty,
    /// The caller's, streaming.
    Streaming(Box<Streaming>),
}

#[derive(Debug)]
pub(super) struct Streaming {
    body: Incoming,
    state: Arc<UploadState>,
    limit: Option<u64>,
    idle: Duration,
    /// Armed only while nothing comes.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// A body, with a share in what is known of it; none when it is empty already.
    pub(super) fn of(body: Incoming, limit: Option<u64>, idle: Duration) -> (Self, Option<Arc<UploadState>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let state = Arc::new(UploadState::default());
        let streaming = Streaming { body, state: Arc::clone(&state), limit, idle, timer: None };
        (Self::Streaming(Box::new(streaming)), Some(state))
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return self.poll_idle(context),
                Poll::Ready(None) => {
                    self.state.end(WHOLE);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return self.fail(UploadFailure::Broken),
                Poll::Ready(Some(Ok(frame))) => {
                    self.timer = None;
                    // Trailers of requests are dropped: nothing behind authorises by them.
                    let Ok(data) = frame.into_data() else { continue };
                    let bytes = self.state.bytes.fetch_add(data.len() as u64, Ordering::AcqRel) + data.len() as u64;
                    if self.limit.is_some_and(|limit| bytes > limit) {
                        return self.fail(UploadFailure::TooLarge);
                    }
                    if self.body.is_end_stream() {
                        self.state.end(WHOLE);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        match timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => self.fail(UploadFailure::Stalled),
        }
    }

    fn fail(&self, failure: UploadFailure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.state.end(failure as u8);
        Poll::Ready(Some(Err(failure.into())))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // hyper need not ask again after the last byte of a body whose length it knows.
        if self.body.is_end_stream() {
            self.state.end(WHOLE);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.body.size_hint(),
        }
    }
}
