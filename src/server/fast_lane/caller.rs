//! The caller's socket and what has come on it, shared by the lane and the request's body.
//!
//! Both live in the connection's task and never want it at the same moment: the lock is held for
//! one poll, never while a handler or a body is polled or dropped.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use crate::server::request_body::BrokenBody;
use crate::server::stream::Stream;
use crate::wire::http1::Framing;
use crate::wire::http1::chunks::{Chunks, Piece};

/// The first read: a head of an API, whole, with a small body.
pub(in crate::server) const READ_LEAST: usize = 4 * 1024;

/// The largest read, and the most that is taken of requests whose turn has not come.
const READ_MOST: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A caller in two hands.
pub(in crate::server) type SharedCaller = Arc<Mutex<Caller>>;

/// See the module.
#[derive(Debug)]
pub(in crate::server) struct Caller {
    pub(super) stream: Stream,
    /// What has come and was not taken.
    pub(super) incoming: BytesMut,
    read_size: usize,
    body: Reader,
    /// Another protocol has begun; it ends with the connection.
    is_tunnel: bool,
    /// What is left to write of the word that the caller waits for before it sends the body.
    word: &'static [u8],
    /// It is written, and not with the kernel yet.
    word_is_held_back: bool,
}

#[derive(Debug)]
enum Reader {
    Ended,
    Length(u64),
    Chunked(Chunks),
    /// Another protocol's, to the connection's end.
    Raw,
}

/// Nobody else is on this thread, and a poll that panicked has closed the connection.
pub(in crate::server) fn lock(caller: &SharedCaller) -> MutexGuard<'_, Caller> {
    caller.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket, if nobody else holds the caller.
pub(super) fn into_stream(caller: SharedCaller) -> Option<Stream> {
    Arc::into_inner(caller).map(|caller| caller.into_inner().unwrap_or_else(PoisonError::into_inner).stream)
}

impl Caller {
    /// `incoming`: what has come already.
    pub(super) fn shared(stream: Stream, incoming: BytesMut) -> SharedCaller {
        Arc::new(Mutex::new(Self {
            stream,
            incoming,
            read_size: READ_LEAST,
            body: Reader::Ended,
            is_tunnel: false,
            word: b"",
            word_is_held_back: false,
        }))
    }

    /// Empty lines before a request line are legal and mean nothing (RFC 9112 §2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        while self.incoming.starts_with(b"\r\n") {
            self.incoming.advance(2);
        }
    }

    /// Reads what is there behind what has come before; 0 is the end.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.incoming.reserve(self.read_size);
        let room = self.incoming.capacity() - self.incoming.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut self.incoming))?;
        self.read_size = if read == room { (2 * self.read_size).min(READ_MOST) } else { READ_LEAST };
        Poll::Ready(Ok(read))
    }

    /// Listens while there is nothing to be read: whether the caller is gone. What it sends is
    /// kept. While its body is on the way, whoever reads that finds out.
    pub(super) fn has_left(&mut self, context: &mut Context<'_>) -> bool {
        // In a tunnel each direction ends by itself.
        while self.body_has_ended() && !self.is_tunnel && self.incoming.len() < READ_MOST {
            match self.poll_read(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
            }
        }
        false
    }

    /// What comes next is a body.
    pub(super) fn begin_body(&mut self, framing: Framing, expects: bool) {
        self.body = match framing {
            Framing::Length(length) => Reader::Length(length),
            Framing::Chunked => Reader::Chunked(Chunks::default()),
            Framing::Empty | Framing::UntilClose => Reader::Ended,
        };
        self.word = if expects { CONTINUE } else { b"" };
    }

    /// All that comes is another protocol's. Again: nothing.
    pub(in crate::server) fn begin_tunnel(&mut self) {
        if !self.is_tunnel {
            self.is_tunnel = true;
            self.body = Reader::Raw;
        }
    }

    pub(in crate::server) fn body_has_ended(&self) -> bool {
        matches!(self.body, Reader::Ended)
    }

    pub(in crate::server) fn body_hint(&self) -> SizeHint {
        match self.body {
            Reader::Ended => SizeHint::with_exact(0),
            Reader::Length(left) => SizeHint::with_exact(left),
            Reader::Chunked(_) | Reader::Raw => SizeHint::default(),
        }
    }

    /// The next piece of the body; asking for it is what a caller that `Expect`s waits for.
    pub(in crate::server) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        loop {
            match self.take() {
                Err(fault) => return Poll::Ready(Some(Err(fault))),
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.body_has_ended() => return Poll::Ready(None),
                Ok(None) => {}
            }
            if let Err(error) = ready!(self.poll_word(context)) {
                return Poll::Ready(Some(Err(error.into())));
            }
            match ready!(self.poll_read(context)) {
                Ok(0) if matches!(self.body, Reader::Raw) => self.body = Reader::Ended,
                Ok(0) => return Poll::Ready(Some(Err(BrokenBody::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn poll_word(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.word.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.word))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.word = &self.word[written..];
            self.word_is_held_back = self.stream.holds_back();
        }
        if self.word_is_held_back {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.word_is_held_back = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what has come of the body.
    fn take(&mut self) -> Result<Option<Frame<Bytes>>, BrokenBody> {
        let (data, ended) = match &mut self.body {
            Reader::Ended => return Ok(None),
            Reader::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.incoming.len());
                *left -= length as u64;
                (self.incoming.split_to(length).freeze(), *left == 0)
            }
            Reader::Raw => (self.incoming.split().freeze(), false),
            Reader::Chunked(chunks) => match chunks.next(&mut self.incoming)? {
                Piece::Missing => (Bytes::new(), false),
                Piece::Data(data) => {
                    let ended = chunks.has_ended(&mut self.incoming);
                    (data, ended)
                }
                Piece::Trailers(trailers) => {
                    self.body = Reader::Ended;
                    return Ok(Some(Frame::trailers(trailers)));
                }
                Piece::End => (Bytes::new(), true),
            },
        };
        if ended {
            self.body = Reader::Ended;
        }
        Ok((!data.is_empty()).then(|| Frame::data(data)))
    }
}
