//! The chunked coding (RFC 9112 §7.1), read from a buffer that fills as bytes come, and written.
//!
//! Strict: lines end with CR LF, sizes are hexadecimal digits that fit, extensions are ignored
//! but bounded over the whole body, trailers are bounded in bytes and lines.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;
use thiserror::Error;

use super::fields::{LINES_MAX, has_whole_line_ends};

/// The longest size line, extensions and all.
const LINE_MAX: usize = 4 * 1024;

/// How much all extensions of a body may take: nobody uses them, and each is work for nothing.
const EXTENSIONS_MAX: usize = 16 * 1024;

/// The largest trailer section.
const TRAILERS_MAX: usize = 16 * 1024;

/// Why a body in chunks cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the chunks are framed wrongly: {0}")]
pub struct ChunkFault(&'static str);

/// What was found next.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Bytes of the body, never none.
    Data(Bytes),
    /// What follows the body. [`Piece::End`] comes after it.
    Trailers(HeaderMap),
    /// The body has ended; what is left in the buffer is not its.
    End,
    /// More bytes are needed.
    Missing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Ended,
}

/// Reads a body in chunks.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    /// Found, and not given out yet. Boxed, because they are rare.
    trailers: Option<Box<HeaderMap>>,
    extensions: usize,
}

impl Chunks {
    /// Takes the next piece off `buffer`.
    ///
    /// # Errors
    /// What is there is framed wrongly; the rest of the connection means nothing.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, ChunkFault> {
        self.pass_framing(buffer)?;
        if let Some(trailers) = self.trailers.take() {
            return Ok(Piece::Trailers(*trailers));
        }
        match self.state {
            State::Ended => Ok(Piece::End),
            State::Data(left) if !buffer.is_empty() => {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let left = left - length as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Piece::Data(buffer.split_to(length).freeze()))
            }
            _ => Ok(Piece::Missing),
        }
    }

    /// Whether nothing follows what was given out, as far as `buffer` tells: the end has often
    /// come with the last data. What is framed wrongly there, the next [`Self::next`] finds.
    pub fn has_ended(&mut self, buffer: &mut BytesMut) -> bool {
        self.pass_framing(buffer).is_ok() && self.state == State::Ended && self.trailers.is_none()
    }

    /// Takes everything off the buffer that is no data.
    fn pass_framing(&mut self, buffer: &mut BytesMut) -> Result<(), ChunkFault> {
        loop {
            match self.state {
                State::Size => match self.size(buffer)? {
                    None => return Ok(()),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    None if matches!(&buffer[..], b"" | b"\r") => return Ok(()),
                    _ => return Err(ChunkFault("a chunk is longer than its size")),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(()) };
                    self.trailers = (!trailers.is_empty()).then(|| Box::new(trailers));
                    self.state = State::Ended;
                }
                State::Data(_) | State::Ended => return Ok(()),
            }
        }
    }

    /// Takes a size line off the buffer.
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, ChunkFault> {
        let Some(end) = buffer.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
            let is_long = buffer.len() >= LINE_MAX;
            return if is_long { Err(ChunkFault("a size line is too long")) } else { Ok(None) };
        };
        let line = buffer[..end].strip_suffix(b"\r").ok_or(ChunkFault("a size line ends without CR"))?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = hexadecimal(&line[..digits]).ok_or(ChunkFault("a size is no number"))?;
        let rest = &line[digits..];
        if !is_extension(rest) {
            return Err(ChunkFault("a size line has more than a size"));
        }
        self.extensions += rest.len();
        if self.extensions > EXTENSIONS_MAX {
            return Err(ChunkFault("the extensions are too long"));
        }
        buffer.advance(end + 1);
        Ok(Some(size))
    }
}

/// Nothing, blanks, or an extension of visible characters and blanks.
fn is_extension(rest: &[u8]) -> bool {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let rest = &rest[blanks..];
    let is_plain = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    rest.is_empty() || (rest[0] == b';' && rest.iter().all(is_plain))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        number.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

/// Takes the trailer section off the buffer, with the empty line that ends it.
fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, ChunkFault> {
    match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        [] | b"\r" => return Ok(None),
        _ => {}
    }
    let Some(end) = buffer.windows(4).take(TRAILERS_MAX).position(|window| window == b"\r\n\r\n") else {
        let is_large = buffer.len() > TRAILERS_MAX;
        return if is_large { Err(ChunkFault("the trailers are too large")) } else { Ok(None) };
    };
    let trailers = parse_trailers(&buffer[..end + 4]).ok_or(ChunkFault("the trailers are no header lines"))?;
    buffer.advance(end + 4);
    Ok(Some(trailers))
}

fn parse_trailers(section: &[u8]) -> Option<HeaderMap> {
    if !has_whole_line_ends(section) {
        return None;
    }
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let Ok(Status::Complete((length, lines))) = httparse::parse_headers(section, &mut lines) else { return None };
    // An empty line by bare LF would end the section earlier for others than for us.
    if length != section.len() {
        return None;
    }
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        trailers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(trailers)
}

/// The size line of a chunk to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct SizeLine {
    text: [u8; 18],
    start: usize,
}

impl SizeLine {
    /// The line of a chunk of `size` bytes.
    #[must_use]
    pub fn of(size: usize) -> Self {
        let mut text = [0; 18];
        text[16..].copy_from_slice(b"\r\n");
        let (mut start, mut size) = (16, size);
        loop {
            start -= 1;
            text[start] = b"0123456789ABCDEF"[size % 16];
            size /= 16;
            if size == 0 {
                break;
            }
        }
        Self { text, start }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

#[cfg(test)]
mod tests;
