//! The head of an upstream's answer: the same however it comes, and never one that two could read
//! differently.

use bytes::BytesMut;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use crate::wire::http1::Framing;
use crate::wire::http1::answer::{AnswerHead, AnswerParser};

/// The first byte says where the rest is cut and whether the request was HEAD; that is what the
/// upstream sends.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (seed, data) = super::split(data);
    let to_head = seed & 0x80 != 0;
    let whole = read([data].into_iter(), to_head);
    let cut = read(super::pieces(seed, data), to_head);
    let shown = || data.escape_ascii().to_string();
    match (&whole, &cut) {
        (Ok(Some((one, left))), Ok(Some((other, also_left)))) => {
            assert_eq!((told(one), left), (told(other), also_left), "{}", shown());
            check_framing(one, to_head, &shown());
        }
        // What can become no answer may be noticed before its end or only there.
        (Err(()) | Ok(None), Err(()) | Ok(None)) => {}
        _ => panic!("whole {whole:?}, in pieces {cut:?}: {}", shown()),
    }
}

type Read = Result<Option<(AnswerHead, usize)>, ()>;

/// The head and how many bytes of what was given are not its.
fn read<'d>(pieces: impl Iterator<Item = &'d [u8]>, to_head: bool) -> Read {
    let (mut parser, mut buffer) = (AnswerParser::default(), BytesMut::new());
    let mut found = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if found.is_none() {
            found = parser.parse(&mut buffer, to_head).map_err(drop)?;
        }
    }
    Ok(found.map(|head| (head, buffer.len())))
}

fn told(head: &AnswerHead) -> String {
    format!("{head:?}")
}

fn check_framing(head: &AnswerHead, to_head: bool, shown: &str) {
    let has = |name| head.headers.contains_key(name);
    assert!(head.status.as_u16() == 101 || head.status.as_u16() >= 200, "{shown}");
    let has_none = to_head
        || matches!(head.status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match head.framing {
        Framing::Empty => assert!(has_none || has(CONTENT_LENGTH), "{shown}"),
        Framing::Length(_) => assert!(!has_none && has(CONTENT_LENGTH) && !has(TRANSFER_ENCODING), "{shown}"),
        Framing::Chunked => {
            let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
            let one = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
            assert!(!has_none && one && codings.next().is_none(), "{shown}");
        }
        Framing::UntilClose => assert!(!has_none && !head.keeps_alive, "{shown}"),
    }
    let both = has(CONTENT_LENGTH) && has(TRANSFER_ENCODING);
    assert!(!(both && head.keeps_alive), "a connection stays after an answer that two read differently: {shown}");
}
