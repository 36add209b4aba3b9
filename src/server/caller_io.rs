//! The caller's socket as hyper gets it, observed: what moves on it and what stands still goes to the watch.
//!
//! Two more things need the bytes and therefore stand here. hyper answers what it cannot parse
//! by itself, without a body; those answers are exchanged for the handler's. And hyper drops a
//! fragment from the request target before anyone can see it; the request line is looked at for
//! a `#` as it comes in.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use super::watch::{Phase, Watch};
use super::{Handler, Refusal};
use crate::wire::problem::to_last_bytes;

/// How much is thrown away at a time while lingering.
const DISCARD: usize = 8 * 1024;

/// See the module.
pub(super) struct CallerIo<H> {
    stream: Stream,
    watch: Arc<Watch>,
    handler: Arc<H>,
    /// What was read before hyper came in.
    before: BytesMut,
    in_request_line: bool,
    /// Our own last answer, as far as it is not written yet.
    answer: Option<Bytes>,
}

impl<H: Handler> CallerIo<H> {
    /// A socket off which `before` was read already: the beginning of a request.
    pub(super) fn new(stream: Stream, before: BytesMut, watch: Arc<Watch>, handler: Arc<H>) -> Self {
        let in_request_line = !before.is_empty();
        Self { stream, watch, handler, before, in_request_line, answer: None }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// From now on the connection only carries this refusal to its end.
    pub(super) fn answer_with(&mut self, refusal: Refusal) {
        if self.answer.is_none() {
            self.answer = Some(to_last_bytes(&self.handler.refuse(refusal, self.watch.ip())));
            self.watch.leave_unread();
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        if self.watch.phase().is_idle() {
            self.in_request_line = true;
        }
        self.watch.received();
        if self.in_request_line {
            let line = bytes.iter().position(|byte| *byte == b'\n');
            if bytes[..line.unwrap_or(bytes.len())].contains(&b'#') {
                self.watch.saw_fragment();
            }
            // An empty line before the request line is legal and skipped.
            let blank = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            self.in_request_line = line.is_none() || blank;
        }
    }

    /// Whether what hyper writes is its own answer: there is no request that we could answer.
    fn is_automatic(&self) -> bool {
        self.answer.is_some() || (self.watch.phase() == Phase::Head || self.watch.phase().is_idle())
    }

    fn exchange(&mut self, first: &[u8]) {
        let refusal = match first.get(9..12) {
            Some(b"414") => Refusal::UriTooLong,
            Some(b"431") => Refusal::HeadersTooLarge,
            _ => Refusal::Malformed,
        };
        self.answer_with(refusal);
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(answer) = self.answer.as_mut().filter(|answer| !answer.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(context, answer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => answer.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.watch.write_blocked();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn watch_write(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Pending => self.watch.write_blocked(),
            Poll::Ready(_) => self.watch.written(),
        }
    }
}

impl<H: Handler> AsyncRead for CallerIo<H> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        let before = into.filled().len();
        if io.before.is_empty() {
            ready!(Pin::new(&mut io.stream).poll_read(context, into))?;
        } else {
            let length = io.before.len().min(into.remaining());
            into.put_slice(&io.before.split_to(length));
        }
        if into.filled().len() > before {
            io.received(&into.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<H: Handler> AsyncWrite for CallerIo<H> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        if io.is_automatic() {
            io.exchange(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let wrote = Pin::new(&mut io.stream).poll_write(context, bytes);
        io.watch_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        if io.is_automatic() {
            io.exchange(slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let wrote = Pin::new(&mut io.stream).poll_write_vectored(context, slices);
        io.watch_write(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        ready!(io.poll_answer(context))?;
        io.watch.flushed();
        Pin::new(&mut io.stream).poll_flush(context)
    }

    /// Closes for writing; where bytes of the caller are left unread, waits for its end too.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        ready!(io.poll_answer(context))?;
        if io.watch.phase() != Phase::Linger {
            ready!(Pin::new(&mut io.stream).poll_shutdown(context))?;
            if !io.watch.is_unread() {
                return Poll::Ready(Ok(()));
            }
            io.watch.enter(Phase::Linger);
        }
        let mut discarded = [0; DISCARD];
        loop {
            let mut into = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut io.stream).poll_read(context, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
