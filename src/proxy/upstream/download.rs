//! The body of an answer on its way down, off the connection that it came on.
//!
//! While the request's body is still going up, reading the answer drives it too. At its end the
//! connection goes back to its pool, if it can serve another: the answer allows it, all of the
//! request is out, and nothing is there that belongs to no answer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::connection::{Connection, ConnectionFault, Exchange};
use super::upload::{Upload, UploadFault};
use crate::proxy::pool::Pool;
use crate::wire::http1::Framing;
use crate::wire::http1::chunks::{Chunks, Piece};

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Download {
    /// None when the body has ended.
    connection: Option<Box<Connection>>,
    /// Boxed, because it is nearly always none, and a body is moved often.
    upload: Option<Box<Upload>>,
    reader: Reader,
    keeps_alive: bool,
    home: Arc<Pool>,
}

#[derive(Debug)]
enum Reader {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    Ended,
}

impl Download {
    /// The body behind a head with this framing, which `exchange` has just given.
    pub(super) fn new(exchange: Exchange, framing: Framing, keeps_alive: bool, home: &Arc<Pool>) -> Self {
        // A tunnel that was not agreed on (its bytes are the caller's next request) goes no further,
        // and the upstream may still take it for one.
        let is_declined = exchange.waits_for_tunnel();
        let keeps_alive = keeps_alive && !exchange.is_deaf() && !is_declined;
        let reader = match framing {
            Framing::Empty => Reader::Ended,
            Framing::Length(length) => Reader::Length(length),
            Framing::Chunked => Reader::Chunked(Chunks::default()),
            Framing::UntilClose => Reader::UntilClose,
        };
        let Exchange { connection, upload, .. } = exchange;
        let upload = upload.filter(|_| !is_declined).map(Box::new);
        let mut download = Self { connection: Some(connection), upload, reader, keeps_alive, home: Arc::clone(home) };
        if matches!(download.reader, Reader::Ended) {
            download.end();
        }
        download
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        matches!(self.reader, Reader::Ended)
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        match self.reader {
            Reader::Length(left) => SizeHint::with_exact(left),
            Reader::Ended => SizeHint::with_exact(0),
            Reader::Chunked(_) | Reader::UntilClose => SizeHint::default(),
        }
    }

    /// Whether more of the request has gone up since this was asked last.
    pub(in crate::proxy) fn take_moved(&mut self) -> bool {
        self.upload.as_mut().is_some_and(|upload| upload.take_moved())
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionFault>>> {
        if let Err(fault) = self.poll_upload(context) {
            return Poll::Ready(Some(Err(fault)));
        }
        loop {
            match self.take() {
                Err(fault) => return Poll::Ready(Some(Err(fault))),
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
            }
            // Whatever the reader is, the connection is gone only when it has ended.
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match ready!(connection.poll_read(context)) {
                Ok(0) if matches!(self.reader, Reader::UntilClose) => self.end(),
                Ok(0) => return Poll::Ready(Some(Err(ConnectionFault::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Takes what has come and was not given out; none: nothing is there, or the body has ended.
    fn take(&mut self) -> Result<Option<Frame<Bytes>>, ConnectionFault> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let incoming = &mut connection.incoming;
        let (data, ended) = match &mut self.reader {
            Reader::Ended => return Ok(None),
            Reader::UntilClose => (incoming.split().freeze(), false),
            Reader::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(incoming.len());
                *left -= length as u64;
                (incoming.split_to(length).freeze(), *left == 0)
            }
            Reader::Chunked(chunks) => match chunks.next(incoming)? {
                Piece::Missing => return Ok(None),
                Piece::Data(data) => {
                    let ended = chunks.has_ended(incoming);
                    (data, ended)
                }
                Piece::Trailers(trailers) => {
                    self.end();
                    return Ok(Some(Frame::trailers(trailers)));
                }
                Piece::End => (Bytes::new(), true),
            },
        };
        if ended {
            self.end();
        }
        Ok((!data.is_empty()).then(|| Frame::data(data)))
    }

    fn end(&mut self) {
        self.reader = Reader::Ended;
        let Some(connection) = self.connection.take() else { return };
        // A request that is not out yet never will be: its answer is complete.
        if self.keeps_alive && self.upload.is_none() && connection.incoming.is_empty() {
            self.home.give_back(connection);
        }
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionFault> {
        let (Some(upload), Some(connection)) = (&mut self.upload, &mut self.connection) else { return Ok(()) };
        match upload.poll(connection, context) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(UploadFault::Body)) => return Err(ConnectionFault::RequestBody),
            // It wants no more of the request; its answer counts.
            Poll::Ready(Err(UploadFault::Io(_))) => self.keeps_alive = false,
        }
        self.upload = None;
        Ok(())
    }
}
