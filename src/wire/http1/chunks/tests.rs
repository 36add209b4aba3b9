//! Bodies in chunks, whole and byte by byte.

use proptest::prelude::*;

use super::*;

/// The data, the trailers as text, and what was left; or that it failed, or that more is missing.
fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, Vec<u8>), &'static str> {
    let mut chunks = Chunks::default();
    let mut buffer = BytesMut::new();
    let (mut data, mut trailers, mut ended) = (Vec::new(), 0, false);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !ended {
            match chunks.next(&mut buffer).map_err(|_| "fault")? {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::Trailers(map) => trailers = map.len(),
                Piece::End => ended = true,
                Piece::Missing => break,
            }
        }
    }
    if ended { Ok((data, trailers, buffer.to_vec())) } else { Err("missing") }
}

#[test]
fn bodies_are_read_the_same_however_they_come() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(LINE_MAX));
    let much = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(17));
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(LINES_MAX + 1));
    for (bytes, expected) in [
        ("0\r\n\r\n", Ok(("", 0, ""))),
        ("3\r\nabc\r\n0\r\n\r\n", Ok(("abc", 0, ""))),
        ("3\r\nabc\r\nA\r\n0123456789\r\n00\r\n\r\nnext", Ok(("abc0123456789", 0, "next"))),
        ("3 ;x=\"y\"\r\nabc\r\n0;z\r\n\r\n", Ok(("abc", 0, ""))),
        ("3 \r\nabc\r\n0\r\n\r\n", Ok(("abc", 0, ""))),
        ("1\r\na\r\n0\r\nx: 1\r\nY: 2\r\n\r\nnext", Ok(("a", 2, "next"))),
        ("3\r\nabc\r\n0\r\n", Err("missing")),
        ("3\r\nab", Err("missing")),
        ("", Err("missing")),
        ("\r\n", Err("fault")),
        ("g\r\n", Err("fault")),
        ("-1\r\n", Err("fault")),
        ("+1\r\na\r\n0\r\n\r\n", Err("fault")),
        ("0x1\r\na\r\n0\r\n\r\n", Err("fault")),
        (" 1\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1 1\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1\na\r\n0\r\n\r\n", Err("fault")),
        ("1;a\nb\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1;a\rb\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1\r\nab\r\n0\r\n\r\n", Err("fault")),
        ("1\r\na\n0\r\n\r\n", Err("fault")),
        ("10000000000000000\r\n", Err("fault")),
        ("1\r\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1\x0c\r\na\r\n0\r\n\r\n", Err("fault")),
        ("1\r;a\r\na\r\n0\r\n\r\n", Err("fault")),
        ("0\r\na: b\nc: d\r\n\r\n", Err("fault")),
        ("0\r\nno colon\r\n\r\n", Err("fault")),
        ("0\r\na: b\n\nGET / HTTP/1.1\r\n\r\n", Err("fault")),
        (&long, Err("fault")),
        (&much, Err("fault")),
        (&many, Err("fault")),
    ] {
        let found = |pieces: &[&[u8]]| {
            read(pieces).map(|(data, trailers, rest)| {
                (String::from_utf8(data).unwrap(), trailers, String::from_utf8(rest).unwrap())
            })
        };
        let expected = expected.map(|(data, trailers, rest)| (data.to_owned(), trailers, rest.to_owned()));
        for split in 0..=bytes.len().min(100) {
            let (before, after) = bytes.as_bytes().split_at(split);
            assert_eq!(found(&[before, after]), expected, "{bytes:?} split at {split}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), step in 1..50usize) {
        let mut wire = Vec::new();
        for piece in &pieces {
            wire.extend_from_slice(SizeLine::of(piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let steps: Vec<&[u8]> = wire.chunks(step).collect();
        prop_assert_eq!(read(&steps), Ok((pieces.concat(), 0, Vec::new())));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in "[0-9a-f;:x\r\n ]{0,64}", step in 1..8usize) {
        let whole = read(&[bytes.as_bytes()]);
        let steps: Vec<&[u8]> = bytes.as_bytes().chunks(step).collect();
        // What is left depends on where it was cut; data and verdict do not.
        let verdict = |read: Result<(Vec<u8>, usize, Vec<u8>), &'static str>| read.map(|(data, trailers, _)| (data, trailers));
        prop_assert_eq!(verdict(read(&steps)), verdict(whole));
    }
}
