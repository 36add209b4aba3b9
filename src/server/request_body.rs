//! The body of a request, with its deadline.
//!
//! Whoever reads it waits at most `server.timeouts.body_idle` for the next byte. Whoever drops
//! it unread leaves bytes in the socket; what has already arrived is taken out here, so that a
//! refused request with a small body does not cost its caller the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::watch::Watch;

/// How many pieces of an unwanted body are taken out of the connection's buffer.
const UNWANTED_PIECES: usize = 4;

/// Why a request's body did not arrive.
#[derive(Debug, Error)]
pub enum BodyFault {
    /// It stood still for `server.timeouts.body_idle`.
    #[error("the request body stood still")]
    Late,
    /// The caller left, or framed it wrongly.
    #[error("the request body broke off")]
    Broken(#[source] hyper::Error),
}

/// See the module.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    watch: Arc<Watch>,
    /// The caller waits for `100 Continue`, which reading would send.
    expects: bool,
    ended: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, watch: Arc<Watch>, expects: bool) -> Self {
        Self { incoming, watch, expects, ended: false }
    }

    fn take_out_what_is_there(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..UNWANTED_PIECES {
            match Pin::new(&mut self.incoming).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => {
                    self.ended = true;
                    return;
                }
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let body = self.get_mut();
        let frame = match Pin::new(&mut body.incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending if body.watch.body_late() => return Poll::Ready(Some(Err(BodyFault::Late))),
            Poll::Pending => {
                body.watch.body_wanted(context.waker());
                return Poll::Pending;
            }
        };
        body.watch.body_not_wanted();
        body.ended = frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(BodyFault::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.ended || self.incoming.is_end_stream() {
            return;
        }
        self.watch.body_not_wanted();
        if !self.expects {
            self.take_out_what_is_there();
        }
        if !self.ended && !self.incoming.is_end_stream() {
            self.watch.leave_unread();
        }
    }
}
