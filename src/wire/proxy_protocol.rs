//! The PROXY protocol, versions 1 and 2, as bytes: what a proxy in front says about who calls
//! (haproxy.org/download/3.0/doc/proxy-protocol.txt).
//!
//! Whether the peer may say so at all is not decided here.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// The longest header that is taken: version 2 has addresses and what some proxies add behind them.
pub const LENGTH_MAX: usize = 536;

/// The longest one of version 1 (section 2.1). Looked for no further: a line that is longer would be
/// one when it comes at once, and none when it comes in pieces.
const LINE_MAX: usize = 107;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who calls; none: the proxy itself (a health check), or nobody it can name.
    pub source: Option<SocketAddr>,
    /// How many bytes it took.
    pub length: usize,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A whole header.
    Whole(Said),
    /// The beginning of one.
    Partial,
    /// No header, or one that is longer than [`LENGTH_MAX`].
    Other,
}

/// Reads the header that `bytes` begin with.
#[must_use]
pub fn read(bytes: &[u8]) -> Beginning {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let is_line = bytes.starts_with(b"PROXY");
    // The library passes over whatever stands behind the word.
    if is_line && bytes.get(5).is_some_and(|byte| *byte != b' ') {
        return Beginning::Other;
    }
    let longest = if is_line { LINE_MAX } else { LENGTH_MAX };
    match ProxyHeader::parse(&bytes[..bytes.len().min(longest)], config) {
        Ok((header, length)) => {
            Beginning::Whole(Said { source: header.proxied_address().map(|address| address.source), length })
        }
        Err(Error::BufferTooShort) if bytes.len() < longest => Beginning::Partial,
        Err(_) => Beginning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command_and_family: [u8; 2], length: u16, rest: &[u8]) -> Vec<u8> {
        [SIGNATURE, &command_and_family, &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_of_both_versions_are_read_whole_or_not_at_all() {
        let address = [&[10, 0, 0, 1, 10, 0, 0, 2][..], &[0x30, 0x39, 0, 80]].concat();
        let with_extra = [&address[..], &[4, 0, 1, 0]].concat();
        let said = |source: Option<&str>, length| {
            Beginning::Whole(Said { source: source.map(|source| source.parse().unwrap()), length })
        };
        for (bytes, expected) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET /".to_vec(), said(Some("10.0.0.1:12345"), 39)),
            (b"PROXY TCP6 ::1 ::2 1 2\r\n".to_vec(), said(Some("[::1]:1"), 24)),
            (b"PROXY UNKNOWN\r\n".to_vec(), said(None, 15)),
            (format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).into_bytes(), said(None, 107)),
            (format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes(), Beginning::Other),
            (format!("PROXY UNKNOWN {}", "x".repeat(93)).into_bytes(), Beginning::Other),
            (v2([0x21, 0x11], 12, &address), said(Some("10.0.0.1:12345"), 28)),
            (v2([0x21, 0x11], 16, &with_extra), said(Some("10.0.0.1:12345"), 32)),
            (v2([0x20, 0x00], 0, b""), said(None, 16)),
            (v2([0x21, 0x11], 4, &address), Beginning::Other),
            (v2([0x31, 0x11], 12, &address), Beginning::Other),
            (v2([0x21, 0x11], 2000, &[0; 1000]), Beginning::Other),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Beginning::Other),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaa".to_vec(), Beginning::Other),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 99999\r\n".to_vec(), Beginning::Other),
            (b"PROXY?TCP4 10.0.0.1 10.0.0.2 12345 80\r\n".to_vec(), Beginning::Other),
            (b"PROXY TCP4 ::1 10.0.0.2 1 2\r\n".to_vec(), Beginning::Other),
            (b"".to_vec(), Beginning::Partial),
        ] {
            assert_eq!(read(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
            let Beginning::Whole(said) = expected else { continue };
            for cut in 0..said.length {
                assert_eq!(read(&bytes[..cut]), Beginning::Partial, "{cut} of {bytes:?}");
            }
        }
    }
}
