//! A body that is watched: its bytes are counted, and its end is told exactly once.
//!
//! The end is where a request is billed, logged and measured, and it comes in three ways: the
//! body ran out, it failed, or nobody wanted the rest. A body that hyper drops because it knows
//! that nothing follows (no body at all, or all announced bytes given out) has run out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How a body ended.
#[derive(Debug)]
pub enum End<'a, E> {
    /// It ran out as its sender framed it.
    Complete,
    /// Its sender failed.
    Failed(&'a E),
    /// Whoever read it went away.
    Dropped,
}

/// Who is told.
pub trait Observer<E> {
    /// Called before each attempt to read on, also one that finds nothing. `bytes`: how many bytes
    /// of data have passed so far.
    fn passing(&mut self, _bytes: u64) {}

    /// Called once. `bytes`: how many bytes of data passed.
    fn ended(self, end: End<'_, E>, bytes: u64);
}

/// A body and its observer.
#[derive(Debug)]
pub struct Observed<B: Body, O: Observer<B::Error>> {
    body: B,
    observer: Option<O>,
    bytes: u64,
}

impl<B: Body, O: Observer<B::Error>> Observed<B, O> {
    /// Watches `body`; without an observer it only passes through.
    pub fn new(body: B, observer: Option<O>) -> Self {
        Self { body, observer, bytes: 0 }
    }

    fn end(&mut self, end: End<'_, B::Error>) {
        if let Some(observer) = self.observer.take() {
            observer.ended(end, self.bytes);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin, O: Observer<B::Error> + Unpin> Body for Observed<B, O> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let observed = self.get_mut();
        if let Some(observer) = &mut observed.observer {
            observer.passing(observed.bytes);
        }
        let frame = ready!(Pin::new(&mut observed.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    observed.bytes += data.len() as u64;
                } else {
                    // Trailers are the last frame, and hyper does not ask for another.
                    observed.end(End::Complete);
                }
            }
            Some(Err(error)) => observed.end(End::Failed(error)),
            None => observed.end(End::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body, O: Observer<B::Error>> Drop for Observed<B, O> {
    fn drop(&mut self) {
        let end = if self.body.is_end_stream() { End::Complete } else { End::Dropped };
        self.end(end);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt as _, Empty, Full};

    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<(String, u64)>>>);

    impl<E: std::fmt::Debug> Observer<E> for Told {
        fn passing(&mut self, bytes: u64) {
            self.0.lock().unwrap().push(("passing".to_owned(), bytes));
        }

        fn ended(self, end: End<'_, E>, bytes: u64) {
            self.0.lock().unwrap().push((format!("{end:?}"), bytes));
        }
    }

    impl Told {
        fn ends(&self) -> Vec<(String, u64)> {
            self.0.lock().unwrap().iter().filter(|(what, _)| what != "passing").cloned().collect()
        }
    }

    /// Gives out its frames one after the other and does not know its length.
    struct Script(Vec<Result<Frame<Bytes>, &'static str>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the items of a script")]
    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn each_way_to_end_is_told_once() {
        // (frames, how many are read before the body is dropped, what is told)
        for (frames, reads, told) in [
            (vec![data("ab"), data("c")], 3, ("Complete", 3)),
            (vec![data("ab"), data("c")], 5, ("Complete", 3)),
            (vec![data("ab"), data("c")], 1, ("Dropped", 2)),
            (vec![data("ab"), data("c")], 0, ("Dropped", 0)),
            (vec![data("ab"), Err("reset")], 2, ("Failed(\"reset\")", 2)),
            (vec![data("ab"), Ok(Frame::trailers(http::HeaderMap::new()))], 3, ("Complete", 2)),
            (vec![data("ab"), Ok(Frame::trailers(http::HeaderMap::new()))], 2, ("Complete", 2)),
        ] {
            let observer = Told::default();
            let mut body = Observed::new(Script(frames), Some(observer.clone()));
            for _ in 0..reads {
                let _ = body.frame().await;
            }
            drop(body);
            assert_eq!(observer.ends(), [(told.0.to_owned(), told.1)]);
        }
    }

    #[tokio::test]
    async fn what_passes_is_told_at_each_turn_before_more_is_read() {
        let observer = Told::default();
        let mut body = Observed::new(Script(vec![data("ab"), data("c")]), Some(observer.clone()));
        while body.frame().await.is_some() {}
        let told = observer.0.lock().unwrap().clone();
        let told: Vec<_> = told.iter().map(|(what, bytes)| (what.as_str(), *bytes)).collect();
        assert_eq!(told, [("passing", 0), ("passing", 2), ("passing", 3), ("Complete", 3)]);
    }

    #[tokio::test]
    async fn a_body_that_knows_its_end_is_complete_without_being_asked_again() {
        let observer = Told::default();
        drop(Observed::new(Empty::<Bytes>::new(), Some(observer.clone())));
        let mut full = Observed::new(Full::new(Bytes::from_static(b"abc")), Some(observer.clone()));
        let _: Result<Frame<Bytes>, Infallible> = full.frame().await.unwrap();
        drop(full);
        assert_eq!(observer.ends(), [("Complete".to_owned(), 0), ("Complete".to_owned(), 3)]);
    }
}
