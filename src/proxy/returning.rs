//! The response's body on its way down: with a deadline, and at its end the connection goes back.
//!
//! A body that breaks off must not look finished, so the error goes on to hyper, which closes
//! the caller's connection without the end of the message. The error waits for one turn, so
//! that what arrived before it, often in the same moment, is written first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::cluster::Place;
use super::cost::DeclaredCost;
use super::upstream::{Budget, ConnectionFault, Returned};
use crate::server::Peer;

/// Why a response's body did not come down whole.
#[derive(Debug, Error)]
pub enum ReturnFault {
    /// The upstream reset or closed the connection, or framed it wrongly.
    #[error("the upstream's body broke off")]
    Broken(#[source] ConnectionFault),
    /// It stood still for `idle_timeout`.
    #[error("the upstream's body stood still")]
    Late,
    /// The whole exchange took longer than `request_timeout`.
    #[error("the exchange took too long")]
    Overdue,
}

impl ReturnFault {
    /// In a word of a closed set.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Broken(_) => "connection_broken",
            Self::Late | Self::Overdue => "timeout",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ReturningBody {
    /// None: it failed, and the connection with it, whose state nobody knows.
    download: Option<Returned>,
    peer: Peer,
    idle: Duration,
    budget: Budget,
    waiting: bool,
    failed: Option<ReturnFault>,
    /// What the trailers may say about the cost.
    cost: Option<Arc<DeclaredCost>>,
    /// Its place among the open requests of its endpoint, where they are counted.
    place: Option<Place>,
}

impl ReturningBody {
    /// A body whose head is there.
    pub(super) fn new(download: Returned, peer: Peer, idle: Duration, budget: Budget) -> Self {
        Self { download: Some(download), peer, idle, budget, waiting: false, failed: None, cost: None, place: None }
    }

    /// Keeps this place until it ends.
    pub(super) fn holds(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Takes what the trailers say about the cost.
    pub(super) fn watch_cost(&mut self, cost: Arc<DeclaredCost>) {
        self.cost = Some(cost);
    }

    /// Waits for more; too long is a fault, unless the request still moves up meanwhile.
    fn wait(&mut self) -> Option<ReturnFault> {
        if self.waiting && self.peer.is_late() {
            if self.budget.is_spent() {
                return Some(ReturnFault::Overdue);
            }
            if !self.download.as_mut().is_some_and(Returned::take_moved) {
                return Some(ReturnFault::Late);
            }
            self.waiting = false;
        }
        if !self.waiting {
            self.waiting = true;
            self.peer.arm(self.budget.at_most(self.idle));
        }
        None
    }

    fn fail_next_time(&mut self, fault: ReturnFault, context: &mut Context<'_>) {
        self.failed = Some(fault);
        self.peer.disarm();
        self.download = None;
        context.waker().wake_by_ref();
    }
}

impl Body for ReturningBody {
    type Data = Bytes;
    type Error = ReturnFault;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReturnFault>>> {
        let body = self.get_mut();
        if let Some(fault) = body.failed.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(download) = &mut body.download else { return Poll::Ready(None) };
        let frame = match download.poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if let Some(fault) = body.wait() {
                    body.fail_next_time(fault, context);
                }
                return Poll::Pending;
            }
        };
        if body.waiting {
            body.waiting = false;
            body.peer.disarm();
        }
        if frame.is_some() && body.budget.is_spent() {
            body.fail_next_time(ReturnFault::Overdue, context);
            return Poll::Pending;
        }
        match frame {
            Some(Err(fault)) => {
                body.fail_next_time(ReturnFault::Broken(fault), context);
                Poll::Pending
            }
            Some(Ok(mut frame)) => {
                if let (Some(trailers), Some(cost)) = (frame.trailers_mut(), &body.cost) {
                    cost.take(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.download.as_ref().is_some_and(Returned::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.download.as_ref().map_or_else(SizeHint::default, Returned::size_hint)
    }
}
