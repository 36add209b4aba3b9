//! The body of an answer, by whichever protocol it comes.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::connection::ConnectionFault;
use super::download::Download;
use super::streams::StreamDownload;

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) enum Returned {
    /// Off a connection that is this exchange's alone.
    Http1(Download),
    /// Off a stream.
    Http2(Box<StreamDownload>),
}

impl Returned {
    /// See [`http_body::Body::poll_frame`].
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionFault>>> {
        match self {
            Self::Http1(download) => download.poll_frame(context),
            Self::Http2(download) => download.poll_frame(context),
        }
    }

    /// See [`http_body::Body::is_end_stream`].
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(download) => download.is_end_stream(),
            Self::Http2(download) => download.is_end_stream(),
        }
    }

    /// See [`http_body::Body::size_hint`].
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(download) => download.size_hint(),
            Self::Http2(download) => download.size_hint(),
        }
    }

    /// Whether more of the request has gone up since this was asked last.
    pub(in crate::proxy) fn take_moved(&mut self) -> bool {
        match self {
            Self::Http1(download) => download.take_moved(),
            Self::Http2(download) => download.take_moved(),
        }
    }
}
