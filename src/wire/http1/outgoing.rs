//! A body on its way out, in its framing, behind the bytes that stand before it.
//!
//! Whoever writes holds a buffer: a head, and whatever small came since. Large pieces are not
//! copied into it but written beside it. Small ones are gathered, so that a body of many tiny
//! pieces does not cost a system call for each.

use std::io::IoSlice;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};

use super::Framing;
use super::chunks::SizeLine;
use super::response::write_trailers;

/// Pieces up to this are copied to where others wait.
const SMALL: usize = 1024;

/// How much is gathered before it is written.
const GATHERED: usize = 16 * 1024;

/// The body is not as long as was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongLength;

/// See the module.
#[derive(Debug)]
pub struct Outgoing {
    /// With [`Framing::Length`], how much of it is still to come.
    framing: Framing,
    data: Bytes,
    /// What follows the data.
    tail: &'static [u8],
    ended: bool,
}

impl Outgoing {
    /// A body of which nothing has come yet.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, data: Bytes::new(), tail: b"", ended: framing == Framing::Empty }
    }

    /// How it is framed; of a length, what is still to come.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The piece that waits to be written beside the buffer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.data.len()
    }

    /// The same, taken out.
    #[must_use]
    pub fn into_waiting(self) -> Bytes {
        self.data
    }

    /// Whether nothing more is taken.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether another piece is taken before what is there is written.
    #[must_use]
    pub fn takes_more(&self, before: &BytesMut) -> bool {
        !self.ended && self.data.is_empty() && self.tail.is_empty() && before.len() < GATHERED
    }

    /// Takes a piece. `last`: nothing follows it. `gathers`: it may be copied behind `before`.
    ///
    /// # Errors
    /// The body is longer than was announced, or has ended and is shorter.
    pub fn push(&mut self, before: &mut BytesMut, data: Bytes, last: bool, gathers: bool) -> Result<(), WrongLength> {
        if data.is_empty() {
            // A chunk of nothing would be the last one.
            return if last { self.finish() } else { Ok(()) };
        }
        self.ended = last;
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                if last && *left > 0 {
                    return Err(WrongLength);
                }
                self.ended = *left == 0;
            }
            Framing::Chunked => before.put_slice(SizeLine::of(data.len()).as_bytes()),
            Framing::Empty | Framing::UntilClose => {}
        }
        let is_chunked = self.framing == Framing::Chunked;
        if gathers && !self.ended && data.len() <= SMALL {
            before.put_slice(&data);
            before.put_slice(if is_chunked { b"\r\n" } else { b"" });
            return Ok(());
        }
        self.tail = match (is_chunked, self.ended) {
            (true, true) => b"\r\n0\r\n\r\n",
            (true, false) => b"\r\n",
            (false, _) => b"",
        };
        self.data = data;
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It is shorter than was announced.
    pub fn finish(&mut self) -> Result<(), WrongLength> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(WrongLength),
            // Not into the buffer: whoever writes its head anew keeps what stands here.
            Framing::Chunked => self.tail = b"0\r\n\r\n",
            _ => {}
        }
        Ok(())
    }

    /// The body has ended with trailers, of which those that were `announced` are written.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_with(
        &mut self,
        before: &mut BytesMut,
        trailers: &HeaderMap,
        announced: &[HeaderName],
    ) -> Result<(), WrongLength> {
        if self.ended || self.framing != Framing::Chunked {
            return self.finish();
        }
        self.ended = true;
        write_trailers(before, announced, trailers);
        Ok(())
    }

    /// Whether there is nothing to be written.
    #[must_use]
    pub fn is_written(&self, before: &BytesMut) -> bool {
        before.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// What is to be written; `None`: nothing but `before`.
    #[must_use]
    pub fn slices<'a>(&'a self, before: &'a BytesMut) -> Option<[IoSlice<'a>; 3]> {
        let has_more = !self.data.is_empty() || !self.tail.is_empty();
        has_more.then(|| [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.tail)])
    }

    /// So much was written.
    pub fn advance(&mut self, before: &mut BytesMut, mut written: usize) {
        let part = before.len().min(written);
        before.advance(part);
        written -= part;
        let part = self.data.len().min(written);
        self.data.advance(part);
        written -= part;
        self.tail = &self.tail[written..];
    }
}

#[cfg(test)]
mod tests;
