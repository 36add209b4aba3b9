//! Bodies that are written in pieces of every size are read as they were.

use proptest::prelude::*;

use super::*;
use crate::wire::http1::chunks::{Chunks, Piece};

/// Writes `pieces`, taking `step` bytes at a time off; the wire, and how many writes it took.
fn written(
    framing: Framing,
    pieces: &[Vec<u8>],
    says_last: bool,
    step: usize,
) -> Result<(Vec<u8>, usize), WrongLength> {
    let (mut out, mut before, mut wire, mut writes) = (Outgoing::new(framing), BytesMut::new(), Vec::new(), 0);
    let mut pieces = pieces.iter().peekable();
    loop {
        while out.takes_more(&before) {
            match pieces.next() {
                Some(piece) => {
                    let last = says_last && pieces.peek().is_none();
                    out.push(&mut before, Bytes::copy_from_slice(piece), last, true)?;
                }
                None => out.finish()?,
            }
        }
        if out.is_written(&before) {
            assert!(out.has_ended());
            return Ok((wire, writes));
        }
        let flat = out
            .slices(&before)
            .map_or_else(|| before.to_vec(), |slices| slices.iter().flat_map(|s| s.to_vec()).collect());
        let taken = flat.len().min(step);
        wire.extend_from_slice(&flat[..taken]);
        out.advance(&mut before, taken);
        writes += 1;
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(
        prop_oneof![prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 1000..1100)],
        0..20,
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(pieces in pieces(), says_last: bool, step in 1..5000usize) {
        let whole = pieces.concat();
        let (wire, _) = written(Framing::Chunked, &pieces, says_last, step).unwrap();
        let (mut chunks, mut buffer, mut read) = (Chunks::default(), BytesMut::from(&wire[..]), Vec::new());
        loop {
            match chunks.next(&mut buffer).unwrap() {
                Piece::Data(data) => read.extend_from_slice(&data),
                Piece::End => break,
                other => panic!("{other:?}"),
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(&read, &whole);
        if !whole.is_empty() {
            let length = whole.len() as u64;
            prop_assert_eq!(written(Framing::Length(length), &pieces, false, step).unwrap().0, whole);
            prop_assert_eq!(written(Framing::Length(length + 1), &pieces, says_last, step), Err(WrongLength));
            // Too long is noticed where the last piece does not begin behind the end.
            if pieces.last().is_some_and(|piece| piece.len() > 1) {
                prop_assert_eq!(written(Framing::Length(length - 1), &pieces, says_last, step), Err(WrongLength));
            }
        }
    }
}

#[test]
fn tiny_pieces_are_gathered_and_large_ones_are_not_copied() {
    let tiny = vec![b"x".to_vec(); 1000];
    let (_, writes) = written(Framing::Chunked, &tiny, false, usize::MAX).unwrap();
    assert_eq!(writes, 1);
    let mut before = BytesMut::new();
    let mut out = Outgoing::new(Framing::Chunked);
    out.push(&mut before, Bytes::from(vec![0; SMALL + 1]), false, true).unwrap();
    assert_eq!((&before[..], out.waiting()), (&b"401\r\n"[..], SMALL + 1));
}
