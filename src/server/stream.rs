//! A socket, whatever kind it is: one type for callers and upstreams, for the lane and for hyper.
//!
//! Plain TCP costs a branch; the rest is behind a box.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// See the module.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// What was read too far comes first.
    Replayed(Box<Replayed>),
    /// TLS over another one.
    Tls(Box<TlsStream<Stream>>),
}

/// A stream and what was read off it.
#[derive(Debug)]
pub struct Replayed {
    before: Bytes,
    stream: Stream,
}

/// Runs `$call` on whichever stream it is; `$stream` is pinned.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Replayed(replayed) => {
                let $stream = Pin::new(&mut replayed.stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl Stream {
    /// `self`, with `before` to be read first.
    pub(super) fn replaying(self, before: Bytes) -> Self {
        if before.is_empty() { self } else { Self::Replayed(Box::new(Replayed { before, stream: self })) }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            Self::Replayed(replayed) => replayed.stream.socket(),
            Self::Tls(stream) => stream.get_ref().0.socket(),
        }
    }

    /// Whether nothing waits to be read: no byte, no end, no failure. For a stream nobody reads
    /// from; the runtime knows without a system call, unless something has come.
    pub fn is_quiet(&mut self) -> bool {
        if let Self::Tcp(stream) = self {
            return stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        }
        // TLS takes in what is only between the two of them (tickets), and has nothing for us.
        let mut byte = [0];
        let read = Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
        read.is_pending()
    }

    /// Whether what was written may wait here until it is flushed.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
            Self::Replayed(replayed) if replayed.before.is_empty() => {
                Pin::new(&mut replayed.stream).poll_read(context, into)
            }
            Self::Replayed(replayed) => {
                let length = replayed.before.len().min(into.remaining());
                into.put_slice(&replayed.before[..length]);
                replayed.before.advance(length);
                Poll::Ready(Ok(()))
            }
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Replayed(replayed) => replayed.stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}
