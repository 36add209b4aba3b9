//! The kinds of body a response can have, as one enum: the hot path neither boxes nor guesses.
//!
//! Whatever a stream knows about itself (that it has ended, how long it is, its trailers) is
//! passed on, because hyper frames the message by it: a body that hides its length is sent
//! chunked, and one that hides its end costs an empty chunk.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// A response's body; `S` is what streams.
#[derive(Debug)]
pub enum Body<S> {
    /// Nothing.
    Empty,
    /// All of it, in memory: our own answers.
    Full(Bytes),
    /// What somebody else still sends.
    Stream(S),
}

impl<S: HttpBody<Data = Bytes> + Unpin> HttpBody for Body<S> {
    type Data = Bytes;
    type Error = S::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        match body {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => Pin::new(stream).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn length_end_and_trailers_pass_through() {
        let empty = Body::<Full<Bytes>>::Empty;
        assert!(empty.is_end_stream());
        assert_eq!(empty.size_hint().exact(), Some(0));

        let mut full = Body::<Full<Bytes>>::Full(Bytes::from_static(b"abc"));
        assert_eq!((full.is_end_stream(), full.size_hint().exact()), (false, Some(3)));
        assert_eq!(full.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(full.is_end_stream() && full.frame().await.is_none());

        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let sent = trailers.clone();
        let stream = Full::new(Bytes::from_static(b"abc")).with_trailers(async move { Some(Ok(sent)) });
        let collected = Body::Stream(Box::pin(stream)).collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "abc");
    }
}
