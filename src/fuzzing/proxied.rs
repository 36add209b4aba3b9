//! The PROXY protocol: a header is whole, a beginning, or none, and says who calls in one way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::proxy_protocol::{Beginning, LENGTH_MAX, read};

/// What a connection begins with.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let whole = read(data);
    let shown = || data.escape_ascii().to_string();
    // However it comes: a beginning stays one until it is whole, and what is none never becomes one.
    let mut decided = None;
    for end in 0..=data.len().min(LENGTH_MAX + 1) {
        match read(&data[..end]) {
            Beginning::Partial => assert_eq!(decided, None, "again a beginning after {end} bytes: {}", shown()),
            found => {
                assert_eq!(*decided.get_or_insert(found), found, "another after {end} bytes: {}", shown());
            }
        }
    }
    assert_eq!(decided.unwrap_or(Beginning::Partial), whole, "{}", shown());
    if let Beginning::Whole(said) = whole {
        assert!(said.length <= LENGTH_MAX.min(data.len()), "{}", shown());
        let header = &data[..said.length];
        let source = if header.starts_with(b"PROXY") { version_1(header) } else { version_2(header) };
        assert_eq!(source, Some(said.source), "{}", shown());
    }
}

/// Whom a header names; nobody, if it says nothing of a caller.
type Caller = Option<SocketAddr>;

/// Who calls by a header of version 1, as its definition has it; none: that is no header.
fn version_1(header: &[u8]) -> Option<Caller> {
    let line = header.strip_suffix(b"\r\n").filter(|_| header.len() <= 107)?;
    if line.starts_with(b"PROXY UNKNOWN") {
        // What stands behind it is to be ignored.
        return Some(None);
    }
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    match words[..] {
        ["PROXY", family, source, destination, source_port, destination_port] => {
            let [source, destination] = [source, destination].map(|address| address.parse::<IpAddr>().ok());
            let [source_port, _] = [source_port, destination_port].map(|port| port.parse::<u16>().ok());
            let (source, destination) = (source?, destination?);
            let fits = family == if source.is_ipv4() { "TCP4" } else { "TCP6" };
            (fits && source.is_ipv4() == destination.is_ipv4()).then_some(Some(SocketAddr::new(source, source_port?)))
        }
        _ => None,
    }
}

/// The same for version 2.
fn version_2(header: &[u8]) -> Option<Caller> {
    let rest = header.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
    let [command, family, high, low, addresses @ ..] = rest else { return None };
    if usize::from(u16::from_be_bytes([*high, *low])) != addresses.len() || command >> 4 != 2 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes(addresses.get(at..at + 2)?.try_into().ok()?));
    match (command & 15, family >> 4) {
        (1, 1) => {
            let address: [u8; 4] = addresses.get(..4)?.try_into().ok()?;
            Some(Some(SocketAddr::new(Ipv4Addr::from(address).into(), port(8)?)))
        }
        (1, 2) => {
            let address: [u8; 16] = addresses.get(..16)?.try_into().ok()?;
            Some(Some(SocketAddr::new(Ipv6Addr::from(address).into(), port(32)?)))
        }
        // The proxy itself, or somebody without an address of this kind.
        (0 | 1, _) => Some(None),
        _ => None,
    }
}
