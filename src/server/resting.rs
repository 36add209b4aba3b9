//! A connection that has asked nothing yet, or nothing for a while: a socket and its watch. Buffers and
//! all that serving takes are made when bytes come.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::fast_lane::READ_LEAST;
use super::stream::Stream;
use super::watch::{Verdict, Watch};

/// What is read by way of the stack: most heads whole.
const FIRST: usize = 1024;

/// Why nothing comes any more.
pub(super) enum Over {
    /// The caller left, or has waited too long.
    Gone,
    /// The process stops: closed in order.
    Drained,
}

/// Waits for bytes.
pub(super) async fn until_asked(stream: &mut Stream, watch: &Watch) -> Result<BytesMut, Over> {
    poll_fn(|context| {
        watch.runs_in(context.waker());
        if watch.verdict() != Verdict::None {
            return Poll::Ready(Err(Over::Gone));
        }
        if watch.draining() {
            return Poll::Ready(Err(Over::Drained));
        }
        let mut piece = [MaybeUninit::uninit(); FIRST];
        let mut piece = ReadBuf::uninit(&mut piece);
        let read = std::task::ready!(Pin::new(&mut *stream).poll_read(context, &mut piece));
        if read.is_err() || piece.filled().is_empty() {
            return Poll::Ready(Err(Over::Gone));
        }
        let mut bytes = BytesMut::with_capacity(READ_LEAST);
        bytes.extend_from_slice(piece.filled());
        Poll::Ready(Ok(bytes))
    })
    .await
}
