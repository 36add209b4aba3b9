//! A connection to an upstream, and one exchange on it up to the head of the answer.
//!
//! Both directions are driven by the request's own task: no task of the connection's, no
//! channel, nobody to be woken in between. An exchange sends and listens at once, because an
//! upstream may answer before it has read everything.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use thiserror::Error;
use tokio_util::io::poll_read_buf;

use super::upload::{Upload, UploadFault};
use crate::model::clock::Monotonic;
use crate::server::Stream;
use crate::wire::http1::answer::{AnswerFault, AnswerHead, AnswerParser};
use crate::wire::http1::chunks::ChunkFault;

/// The first read: most answers of an API, whole.
const READ_LEAST: usize = 8 * 1024;

/// The largest: held for every large body under way, so no more than makes reads cheap.
const READ_MOST: usize = 64 * 1024;

/// Why an exchange broke off.
#[derive(Debug, Error)]
pub enum ConnectionFault {
    /// The socket failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// It was closed within the answer, or before it.
    #[error("the upstream closed the connection")]
    Closed,
    /// What came is no answer.
    #[error("what came is no answer")]
    Answer(#[from] AnswerFault),
    /// The stream, or all of them, ended by HTTP/2's own means.
    #[error("the stream of HTTP/2 ended")]
    Stream(#[from] h2::Error),
    /// Its body is framed wrongly.
    #[error("the body is framed wrongly")]
    Chunks(#[from] ChunkFault),
    /// The request's body failed, and the request with it.
    #[error("the request's body broke off")]
    RequestBody,
}

/// A connection to an upstream.
pub(in crate::proxy) struct Connection {
    pub(super) stream: Stream,
    /// What has come and was not taken yet.
    pub(super) incoming: BytesMut,
    /// What goes out before the next piece of a body.
    pub(super) outgoing: BytesMut,
    /// Where it leads, where a name was looked up for it.
    pub(in crate::proxy) address: Option<IpAddr>,
    /// When it has served long enough; set when it is kept for the first time.
    pub(in crate::proxy) expires: Option<Monotonic>,
    read_size: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, address: Option<IpAddr>) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            address,
            expires: None,
            read_size: READ_LEAST,
        }
    }

    /// Whether nothing has happened on it since the last answer: it was not closed, and nothing
    /// was sent that nobody asked for.
    pub(in crate::proxy) fn is_quiet(&mut self) -> bool {
        self.incoming.is_empty() && self.stream.is_quiet()
    }

    /// Makes it small for as long as it waits.
    pub(in crate::proxy) fn rest(&mut self) {
        if self.read_size > READ_LEAST {
            self.read_size = READ_LEAST;
            self.incoming = BytesMut::new();
        }
        self.outgoing.clear();
    }

    /// Reads what is there behind what has come before; 0 is the end.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.incoming.reserve(self.read_size);
        let room = self.incoming.capacity() - self.incoming.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut self.incoming))?;
        if read == room {
            self.read_size = (2 * self.read_size).min(READ_MOST);
        }
        Poll::Ready(Ok(read))
    }
}

impl fmt::Debug for Connection {
    /// Without the bytes: they are callers' and upstreams' secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// One request on its way, and the wait for the head of its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) connection: Box<Connection>,
    /// None: all of the request is out, or the upstream takes no more of it.
    pub(super) upload: Option<Upload>,
    /// The upstream took no more, for this reason; what it says nevertheless counts.
    deaf: Option<io::Error>,
    parser: AnswerParser,
    to_head: bool,
    heard: bool,
}

impl Exchange {
    /// An exchange whose request stands at the beginning of `upload`, its head in the
    /// connection's `outgoing`. `to_head`: the method is HEAD.
    pub(super) fn new(connection: Box<Connection>, upload: Upload, to_head: bool) -> Self {
        let parser = AnswerParser::default();
        Self { connection, upload: Some(upload), deaf: None, parser, to_head, heard: false }
    }

    /// Whether a byte of an answer has come.
    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    /// Whether the upstream stopped reading the request.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.is_some()
    }

    /// Lets the caller's side of a tunnel pass. False: nobody asked for one.
    pub(super) fn open_tunnel(&mut self) -> bool {
        match self.upload.as_mut().filter(|upload| upload.is_tunnel()) {
            Some(upload) => {
                upload.open_tunnel();
                true
            }
            None => false,
        }
    }

    /// Whether a tunnel was asked for and not agreed on.
    pub(super) fn waits_for_tunnel(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::waits_for_tunnel)
    }

    /// The request as it was, where not a byte of it has left.
    pub(super) fn take_unsent(&mut self) -> Option<Upload> {
        self.upload.take_if(|upload| !upload.has_begun())
    }

    /// Sends and listens, until the head of the answer is there.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<AnswerHead, ConnectionFault>> {
        self.poll_upload(context)?;
        if self.upload.as_ref().is_some_and(|upload| !upload.has_begun()) {
            return Poll::Pending;
        }
        loop {
            let read = match ready!(self.connection.poll_read(context)) {
                Ok(read) => read,
                // What it stopped reading for is the nearer cause.
                Err(error) => return Poll::Ready(Err(self.deaf.take().unwrap_or(error).into())),
            };
            if read == 0 {
                return Poll::Ready(Err(self.deaf.take().map_or(ConnectionFault::Closed, ConnectionFault::Io)));
            }
            self.heard = true;
            if let Some(head) = self.parser.parse(&mut self.connection.incoming, self.to_head)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionFault> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(&mut self.connection, context) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.upload = None,
            Poll::Ready(Err(UploadFault::Body)) => return Err(ConnectionFault::RequestBody),
            Poll::Ready(Err(UploadFault::Io(error))) if !upload.has_begun() => return Err(error.into()),
            Poll::Ready(Err(UploadFault::Io(error))) => {
                self.upload = None;
                self.deaf = Some(error);
            }
        }
        Ok(())
    }
}
