//! The request's body on its way up: counted, limited, without trailers.
//!
//! Trailers of requests end here, but for gRPC's: they arrive after every decision was made, and an
//! upstream that merges them into the headers would take an identity from them. Of gRPC's, those go
//! that a header could not be either.
//!
//! The body travels with the exchange while the request's context stays behind; what both must
//! know stands in an [`Intake`]. A request without a body has none.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::headers::keep_harmless;
use crate::server::{BodyFault, RequestBody};

/// Why a body did not go up whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u8)]
pub(super) enum IntakeFault {
    /// The caller sent nothing for `server.timeouts.body_idle`.
    #[error("the request body stood still")]
    Late = 1,
    /// The caller left, or framed it wrongly.
    #[error("the request body broke off")]
    Broken = 2,
    /// It grew past the route's limit.
    #[error("the request body is larger than the route allows")]
    TooLarge = 3,
}

impl IntakeFault {
    const ALL: [Self; 3] = [Self::Late, Self::Broken, Self::TooLarge];
}

/// What is known about a body that is being read.
#[derive(Debug, Default)]
pub(super) struct Intake {
    bytes: AtomicU64,
    fault: AtomicU8,
    ended: AtomicBool,
}

impl Intake {
    /// Bytes that were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// What went wrong, if something did.
    pub(super) fn fault(&self) -> Option<IntakeFault> {
        let fault = self.fault.load(Relaxed);
        IntakeFault::ALL.into_iter().find(|known| *known as u8 == fault)
    }

    /// Whether all of it was read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn fail(&self, fault: IntakeFault) -> IntakeFault {
        self.fault.store(fault as u8, Relaxed);
        fault
    }
}

/// A body as the upstream's connection reads it.
#[derive(Debug)]
pub(super) struct OutgoingBody(Option<Streaming>);

#[derive(Debug)]
struct Streaming {
    body: RequestBody,
    limit: u64,
    intake: Arc<Intake>,
    /// Its trailers go up too, as far as they may.
    passes_trailers: bool,
}

impl OutgoingBody {
    /// No body.
    pub(super) const NONE: Self = Self(None);

    /// `body`, cut off where it grows past `limit`; and what will be known about it, if it is one.
    pub(super) fn new(body: RequestBody, limit: Option<u64>) -> (Self, Option<Arc<Intake>>) {
        if body.is_end_stream() {
            return (Self::NONE, None);
        }
        let intake = Arc::<Intake>::default();
        // What passes in a tunnel is no request's body, and has no size.
        let limit = limit.filter(|_| !body.is_tunnel()).unwrap_or(u64::MAX);
        let streaming = Streaming { body, limit, intake: Arc::clone(&intake), passes_trailers: false };
        (Self(Some(streaming)), Some(intake))
    }

    /// The same with its trailers, which gRPC gives a meaning.
    pub(super) fn with_trailers(mut self) -> Self {
        if let Some(streaming) = &mut self.0 {
            streaming.passes_trailers = true;
        }
        self
    }

    /// Whether it is what follows a 101, and must not be read before that.
    pub(super) fn is_tunnel(&self) -> bool {
        self.0.as_ref().is_some_and(|streaming| streaming.body.is_tunnel())
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = IntakeFault;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IntakeFault>>> {
        match &mut self.get_mut().0 {
            None => Poll::Ready(None),
            Some(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|streaming| streaming.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |streaming| streaming.body.size_hint())
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IntakeFault>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame {
                None => {
                    self.intake.ended.store(true, Relaxed);
                    return Poll::Ready(None);
                }
                Some(Err(BodyFault::Late)) => return Poll::Ready(Some(Err(self.intake.fail(IntakeFault::Late)))),
                Some(Err(BodyFault::Broken(_))) => {
                    return Poll::Ready(Some(Err(self.intake.fail(IntakeFault::Broken))));
                }
                Some(Ok(mut frame)) => {
                    if let Some(trailers) = frame.trailers_mut().filter(|_| self.passes_trailers) {
                        keep_harmless(trailers);
                        self.intake.ended.store(true, Relaxed);
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    // Trailers: dropped, and the end is read after them.
                    let Some(data) = frame.data_ref() else { continue };
                    let total = self.intake.bytes.load(Relaxed) + data.len() as u64;
                    self.intake.bytes.store(total, Relaxed);
                    if total > self.limit {
                        return Poll::Ready(Some(Err(self.intake.fail(IntakeFault::TooLarge))));
                    }
                    if self.body.is_end_stream() {
                        self.intake.ended.store(true, Relaxed);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
    }
}
