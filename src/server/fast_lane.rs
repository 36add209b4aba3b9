//! The plain shape of HTTP/1.1, read and answered by ourselves, in one task, for as long as a
//! connection speaks it.
//!
//! One loop: a head, the handler's answer, its body, and again. What the head may be is decided
//! by its bytes ([`request::judge`]); a head of another shape leaves the lane with everything
//! that was read, and does not come back. Nothing is decided here that a handler or another
//! engine would decide differently.
//!
//! While a handler works or its answer's body is waited for, the caller is listened to: when it
//! leaves, both are dropped. What it sends meanwhile is the next request, and waits its turn.

mod answering;
pub(super) mod caller;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};

use self::answering::Answering;
pub(super) use self::caller::READ_LEAST;
use self::caller::{Caller, SharedCaller};
use super::stream::Stream;
use super::watch::{Phase, Verdict, Watch};
use super::{Handler, Peer, Refusal, RequestBody};
use crate::wire::http1::Framing;
use crate::wire::http1::fields::head_end;
use crate::wire::http1::request::{self, Judged, PlainHead};

/// How a connection leaves the lane.
pub(super) enum Leaving {
    /// It is gone, or to be dropped as it is.
    Gone,
    /// Everything was answered: it is to be closed in order.
    Done(Stream),
    /// Everything was answered, and nothing has come since.
    Rests(Stream),
    /// What came is refused, and then it is to be closed in order.
    Refused(Stream, Refusal),
    /// What came is of another shape.
    Other(Stream, BytesMut),
}

/// Why the loop stops; the socket is added when nobody else has it.
enum Stop {
    Gone,
    Done,
    Rests,
    Refused(Refusal),
    Other(BytesMut),
}

/// What the other engine takes, which refuses what is larger.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    /// Of a head.
    pub(super) bytes: usize,
    /// Of a head.
    pub(super) lines: usize,
}

/// A connection in the lane.
struct Lane<'a, H> {
    caller: SharedCaller,
    handler: &'a H,
    watch: &'a Arc<Watch>,
    peer: Peer,
    /// Kept from answer to answer.
    outgoing: BytesMut,
    limits: HeadLimits,
}

/// Serves a connection until it ends or leaves the lane. `before`: what has come of its request.
pub(super) async fn serve<H: Handler>(
    stream: Stream,
    before: BytesMut,
    handler: &H,
    watch: &Arc<Watch>,
    limits: HeadLimits,
) -> Leaving {
    let caller = Caller::shared(stream, before);
    let lane = Lane {
        caller: Arc::clone(&caller),
        handler,
        watch,
        peer: Peer::new(Arc::clone(watch)),
        outgoing: BytesMut::new(),
        limits,
    };
    let stop = lane.run().await;
    // A body that somebody still holds holds the socket; there is nobody, or it is theirs.
    let Some(stream) = caller::into_stream(caller) else { return Leaving::Gone };
    match stop {
        Stop::Gone => Leaving::Gone,
        Stop::Done => Leaving::Done(stream),
        Stop::Rests => Leaving::Rests(stream),
        Stop::Refused(refusal) => Leaving::Refused(stream, refusal),
        Stop::Other(bytes) => Leaving::Other(stream, bytes),
    }
}

impl<H: Handler> Lane<'_, H> {
    async fn run(mut self) -> Stop {
        loop {
            let mut seen = 0;
            let head = match poll_fn(|context| self.poll_head(&mut seen, context)).await {
                Ok(head) => head,
                Err(stop) => return stop,
            };
            let done = match request::judge(&head, self.limits.lines) {
                Judged::Plain(head) => self.exchange(head).await,
                Judged::Refused(_) => Err(Stop::Refused(Refusal::Malformed)),
                Judged::Other => Err(Stop::Other(joined(&head, &caller::lock(&self.caller).incoming))),
            };
            if let Err(stop) = done {
                return stop;
            }
        }
    }

    /// Waits for a whole head. `seen`: how much of what has come is known to hold no whole one.
    fn poll_head(&self, seen: &mut usize, context: &mut Context<'_>) -> Poll<Result<Bytes, Stop>> {
        self.watch.runs_in(context.waker());
        match self.watch.verdict() {
            Verdict::None => {}
            Verdict::HeadTimeout => return Poll::Ready(Err(Stop::Refused(Refusal::HeadTimeout))),
            Verdict::Close | Verdict::Stalled | Verdict::Shutdown | Verdict::Revoked => {
                return Poll::Ready(Err(Stop::Gone));
            }
        }
        let mut caller = caller::lock(&self.caller);
        // Whoever still holds the last request's body holds the socket.
        if self.watch.phase() == Phase::Resting && caller.incoming.is_empty() && Arc::strong_count(&self.caller) == 2 {
            return Poll::Ready(Err(Stop::Rests));
        }
        loop {
            caller.skip_empty_lines();
            let incoming = &mut caller.incoming;
            if !incoming.is_empty() {
                self.watch.received();
                let end = head_end(incoming, *seen);
                if let Some(end) = end.filter(|end| *end <= self.limits.bytes) {
                    return Poll::Ready(Ok(incoming.split_to(end).freeze()));
                }
                if end.is_some()
                    || incoming.len() > self.limits.bytes
                    || (*seen == 0 && request::is_hopeless(incoming, self.limits.lines))
                {
                    return Poll::Ready(Err(Stop::Other(incoming.split())));
                }
                *seen = incoming.len();
            } else if self.watch.draining() {
                return Poll::Ready(Err(Stop::Done));
            }
            match std::task::ready!(caller.poll_read(context)) {
                // In the middle of a head or not: nobody waits for an answer.
                Ok(0) | Err(_) => return Poll::Ready(Err(Stop::Gone)),
                Ok(_) => {}
            }
        }
    }

    async fn exchange(&mut self, head: PlainHead) -> Result<(), Stop> {
        self.watch.request_began();
        if head.has_fragment {
            self.watch.saw_fragment();
        }
        let asked =
            Asked { method: head.request.method().clone(), closes: head.closes, takes_trailers: head.takes_trailers };
        let body = self.body(&head);
        let response = self.answer(head.request.map(|()| body)).await?;
        let closes = asked.closes || self.watch.is_unread() || self.watch.draining();
        let date = self.watch.date();
        let mut answering = Answering::new(response, &asked, closes, &date, &mut self.outgoing);
        poll_fn(|context| {
            self.watch.runs_in(context.waker());
            if self.watch.verdict() != Verdict::None {
                answering.say_goodbye(&self.caller, self.watch.verdict());
                return Poll::Ready(Err(Stop::Gone));
            }
            answering.poll(&self.caller, self.watch, context).map_err(|_| Stop::Gone)
        })
        .await?;
        let closes = answering.closes();
        drop(answering);
        self.watch.response_ended();
        self.watch.flushed();
        if closes || !caller::lock(&self.caller).body_has_ended() { Err(Stop::Done) } else { Ok(()) }
    }

    fn body(&self, head: &PlainHead) -> RequestBody {
        if head.upgrades {
            return RequestBody::tunnel(Arc::clone(&self.caller), Arc::clone(self.watch));
        }
        if head.framing == Framing::Empty {
            return RequestBody::none(Arc::clone(self.watch));
        }
        caller::lock(&self.caller).begin_body(head.framing, head.expects);
        RequestBody::of_caller(Arc::clone(&self.caller), Arc::clone(self.watch), head.expects)
    }

    /// Has the handler answer, for as long as the caller is there.
    async fn answer(&self, request: Request<RequestBody>) -> Result<Response<H::Body>, Stop> {
        let mut handling = pin!(self.handler.handle(request, &self.peer));
        poll_fn(|context| {
            self.watch.runs_in(context.waker());
            if self.watch.verdict() != Verdict::None {
                return Poll::Ready(Err(Stop::Gone));
            }
            if let Poll::Ready(response) = handling.as_mut().poll(context) {
                return Poll::Ready(Ok(response));
            }
            if caller::lock(&self.caller).has_left(context) {
                return Poll::Ready(Err(Stop::Gone));
            }
            Poll::Pending
        })
        .await
    }
}

/// What an answer must know of its request.
struct Asked {
    method: Method,
    closes: bool,
    takes_trailers: bool,
}

/// What was read, in one piece again.
fn joined(head: &Bytes, rest: &BytesMut) -> BytesMut {
    let mut whole = BytesMut::with_capacity(head.len() + rest.len());
    whole.extend_from_slice(head);
    whole.extend_from_slice(rest);
    whole
}

#[cfg(test)]
mod tests;
