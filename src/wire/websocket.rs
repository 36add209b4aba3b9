//! What a gateway must know of WebSocket (RFC 6455): the handshake's proof, and where a frame ends.
//!
//! Frames pass as they are; none is read, joined or checked. Their headers are looked at in one
//! direction, so that a tunnel that we end can be told why: a close frame may only stand between
//! two others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use sha1::{Digest as _, Sha1};

use super::http1::fields::has_token;

/// What the server appends to the caller's key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Upgrade: websocket`
pub const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// `Connection: upgrade`
pub const BY_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The one version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Whether the headers of a request open a WebSocket: version 13, and a key of 16 bytes.
#[must_use]
pub fn is_handshake(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return false };
    let is_key = STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16);
    is_key && headers.get(SEC_WEBSOCKET_VERSION) == Some(&VERSION)
}

/// Makes the headers of a request those of a handshake, for callers whose own protocol needs none
/// (RFC 8441 §5). `key`: random.
pub fn open_handshake(headers: &mut HeaderMap, key: [u8; 16]) {
    if let Ok(key) = HeaderValue::try_from(STANDARD.encode(key)) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
}

/// Whether `answer` agrees to the handshake of a request with the headers `asked`. A server that
/// does not know the protocol cannot have made its proof.
#[must_use]
pub fn agrees(asked: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(key) = asked.get(SEC_WEBSOCKET_KEY) else { return false };
    let proof = STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize());
    let upgrades = answer.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    upgrades
        && answer.get_all(CONNECTION).iter().any(|line| has_token(line, b"upgrade"))
        && answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept.as_bytes() == proof.as_bytes())
}

/// Why a tunnel is ended by us (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// 1001: the server goes away.
    GoingAway,
    /// 1008: what the connection rests on was withdrawn.
    PolicyViolation,
}

impl Goodbye {
    /// The close frame, as a server sends it.
    #[must_use]
    pub fn frame(self) -> &'static [u8] {
        match self {
            Self::GoingAway => &[0x88, 2, 0x03, 0xe9],
            Self::PolicyViolation => &[0x88, 2, 0x03, 0xf0],
        }
    }
}

/// Where the frames of one direction begin and end, told piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// Bytes of a header that is not whole yet.
    header: [u8; 14],
    header_length: usize,
    /// Of the frame under way, what is still to come.
    payload: u64,
    /// It closes.
    closes: bool,
    /// A close frame has passed.
    closed: bool,
}

impl Frames {
    /// So much more has passed.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= part as u64;
                bytes = &bytes[part..];
            } else {
                self.header[self.header_length] = bytes[0];
                self.header_length += 1;
                bytes = &bytes[1..];
                self.read_header();
            }
            self.closed |= self.closes && self.payload == 0 && self.header_length == 0;
        }
    }

    fn read_header(&mut self) {
        let header = &self.header[..self.header_length];
        let [first, second, rest @ ..] = header else { return };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let length = match second & 0x7f {
            126 => rest.get(..2).map(|length| u64::from(length[0]) << 8 | u64::from(length[1])),
            127 => rest.get(..8).map(|length| length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            short => Some(u64::from(short)),
        };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if let Some(length) = length.filter(|_| rest.len() == extended + mask) {
            self.closes = first & 0x0f == 8;
            self.payload = length;
            self.header_length = 0;
        }
    }

    /// Whether a frame may be put here: nothing is half out, and nobody has said goodbye.
    #[must_use]
    pub fn takes_one(&self) -> bool {
        self.payload == 0 && self.header_length == 0 && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_example_of_the_rfc_agrees_and_nothing_less() {
        let asked = map(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")]);
        assert!(is_handshake(&asked));
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (upgrade, connection) = (("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade"));
        for (answer, agreed) in [
            (&[accept, upgrade, connection][..], true),
            (&[accept, upgrade], false),
            (&[accept, connection], false),
            (&[upgrade, connection], false),
            (&[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO="), upgrade, connection], false),
            (&[accept, ("upgrade", "websocket, x"), connection], false),
        ] {
            assert_eq!(agrees(&asked, &map(answer)), agreed, "{answer:?}");
        }
        assert!(!agrees(&HeaderMap::new(), &map(&[accept, upgrade, connection])));
    }

    #[test]
    fn a_handshake_has_a_version_and_one_key_of_sixteen_bytes() {
        let version = ("sec-websocket-version", "13");
        for (lines, is) in [
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "8")][..], false),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZQ=="), version], false),
            (&[("sec-websocket-key", "not base64"), version], false),
            (&[version], false),
        ] {
            assert_eq!(is_handshake(&map(lines)), is, "{lines:?}");
        }
        let mut ours = HeaderMap::new();
        open_handshake(&mut ours, [7; 16]);
        assert!(is_handshake(&ours));
    }

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask: u8 = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask + u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(mask + 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask + 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + if masked { 4 } else { 0 } + length, 0xff);
        frame
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_come(
            frames in prop::collection::vec((0_u8..3, prop_oneof![0_usize..300, 65_530_usize..65_540], any::<bool>()), 1..5),
            cut in 1_usize..4000,
        ) {
            let mut ends = vec![0];
            let mut bytes = Vec::new();
            for (opcode, length, masked) in frames {
                bytes.extend(frame(opcode, length, masked));
                ends.push(bytes.len());
            }
            let mut seen = Frames::default();
            let mut at = 0;
            for piece in bytes.chunks(cut) {
                seen.passed(piece);
                at += piece.len();
                prop_assert_eq!(seen.takes_one(), ends.contains(&at), "{}", at);
            }
        }
    }

    #[test]
    fn nothing_is_said_after_goodbye() {
        let mut seen = Frames::default();
        seen.passed(&frame(1, 5, false));
        assert!(seen.takes_one());
        seen.passed(&Goodbye::GoingAway.frame()[..3]);
        assert!(!seen.takes_one());
        seen.passed(&Goodbye::GoingAway.frame()[3..]);
        assert!(!seen.takes_one());
    }
}
