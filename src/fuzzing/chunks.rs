//! A body in chunks: the same however it comes, and what the definition says.

use bytes::BytesMut;

use crate::wire::http1::chunks::{Chunks, Piece};

/// The first byte says where the rest is cut; that is the body and what follows it.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (seed, data) = super::split(data);
    let whole = read([data].into_iter(), seed);
    let cut = read(super::pieces(seed, data), seed);
    let shown = || data.escape_ascii().to_string();
    assert_eq!(whole, cut, "{}", shown());
    if let Ok(body) = whole
        && body.has_ended
    {
        let (content, consumed) = by_definition(data).unwrap_or_else(|| panic!("no body by definition: {}", shown()));
        assert_eq!((body.data, body.consumed), (content, consumed), "{}", shown());
    }
}

/// What was read of a body, or that it is none.
#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    has_ended: bool,
    consumed: usize,
}

fn read<'d>(pieces: impl Iterator<Item = &'d [u8]>, seed: u8) -> Result<Body, ()> {
    let (mut chunks, mut buffer, mut given) = (Chunks::default(), BytesMut::new(), 0);
    let (mut data, mut trailers, mut has_ended) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        given += piece.len();
        while !has_ended {
            // Asked at any time, it changes nothing.
            let over = seed & 1 == 1 && chunks.has_ended(&mut buffer);
            match chunks.next(&mut buffer).map_err(drop)? {
                Piece::Data(bytes) => {
                    assert!(!bytes.is_empty() && !over);
                    data.extend_from_slice(&bytes);
                }
                Piece::Trailers(map) => {
                    assert!(!over);
                    trailers = map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
                }
                Piece::End => has_ended = true,
                Piece::Missing => break,
            }
        }
    }
    Ok(Body { data, trailers, has_ended, consumed: if has_ended { given - buffer.len() } else { given } })
}

/// The content, and where the body ends: lines by CR LF alone, sizes of hexadecimal digits.
fn by_definition(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut at = 0;
    let mut content = Vec::new();
    let line = |at: usize| {
        let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some((&bytes[at..at + length], at + length + 2))
    };
    loop {
        let (size, next) = line(at)?;
        let digits: Vec<u8> = size.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
        let length = usize::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
        let rest = size[digits.len()..].trim_ascii_start();
        if !(rest.is_empty() || rest.starts_with(b";")) {
            return None;
        }
        at = next;
        if length == 0 {
            break;
        }
        content.extend_from_slice(bytes.get(at..at + length)?);
        at += length;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((content, at));
        }
    }
}
