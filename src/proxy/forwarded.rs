//! Who calls, as trusted proxies tell it: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Both are lists to which each proxy adds whom it heard from, at the right. So they are read from
//! the right: the first address that is not a trusted proxy's is the caller's, and what stands
//! left of it is whatever the caller wanted to be there. Where an element cannot be read, or hides
//! its address (`unknown`, `_name`), the walk ends at the last one that could be.
//!
//! Only one of the two is believed. Most proxies write `X-Forwarded-For` and pass on a `Forwarded`
//! that they know nothing of, from anybody; so where both are there the first counts, and the other
//! does not cross. A proxy that writes `Forwarded` alone has to drop its callers'
//! `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::headers::X_FORWARDED_FOR;

/// The address of the caller behind `peer`, a trusted proxy.
#[must_use]
pub fn caller_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    if headers.contains_key(X_FORWARDED_FOR) {
        return walk(hops_of(headers.get_all(X_FORWARDED_FOR).iter(), read_address), peer, trusted);
    }
    if headers.contains_key(FORWARDED) {
        return walk(
            hops_of(headers.get_all(FORWARDED).iter(), |element| read_address(parameter(element, b"for")?)),
            peer,
            trusted,
        );
    }
    peer
}

/// What the last trusted proxy says of the caller's connection: `proto` of the last element.
#[must_use]
pub(super) fn said_scheme(headers: &HeaderMap) -> Option<&'static str> {
    let line = headers.get_all(FORWARDED).iter().next_back()?;
    let value = parameter(elements(line.as_bytes()).next_back()?, b"proto")?;
    scheme(value)
}

/// One of the two schemes there are here.
pub(super) fn scheme(text: &[u8]) -> Option<&'static str> {
    match text {
        text if text.eq_ignore_ascii_case(b"https") => Some("https"),
        text if text.eq_ignore_ascii_case(b"http") => Some("http"),
        _ => None,
    }
}

/// Adds to `Forwarded` whom we heard from, and how.
pub(super) fn add(headers: &mut HeaderMap, peer: IpAddr, scheme: &str) {
    let node = match peer {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    // A checked Host has no quote and no backslash.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    if let Ok(element) = HeaderValue::try_from(format!("for={node}{host};proto={scheme}")) {
        headers.append(FORWARDED, element);
    }
}

fn walk(hops: impl Iterator<Item = Option<IpAddr>>, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut caller = peer;
    for hop in hops {
        let Some(hop) = hop else { return caller };
        caller = hop;
        if !trusted.iter().any(|network| network.contains(&caller)) {
            return caller;
        }
    }
    caller
}

/// The elements of all lines, from the right.
fn hops_of<'h>(
    lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
    read: impl Fn(&[u8]) -> Option<IpAddr>,
) -> impl Iterator<Item = Option<IpAddr>> {
    lines.rev().flat_map(|line| elements(line.as_bytes()).rev()).map(read)
}

/// The parts between commas outside quotes.
fn elements(line: &[u8]) -> std::vec::IntoIter<&[u8]> {
    split(line, b',').into_iter()
}

fn split(text: &[u8], at: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut quoted, mut escaped, mut begin) = (false, false, 0);
    for (index, byte) in text.iter().enumerate() {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if byte == at && !quoted => {
                parts.push(text[begin..index].trim_ascii());
                begin = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text[begin..].trim_ascii());
    parts
}

/// The value of a parameter that stands once in an element, without its quotes. What is escaped
/// within is left so: no address has that.
fn parameter<'e>(element: &'e [u8], name: &[u8]) -> Option<&'e [u8]> {
    let pairs = split(element, b';');
    let mut values = pairs.into_iter().filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        pair[..at].eq_ignore_ascii_case(name).then_some(&pair[at + 1..])
    });
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        plain => Some(plain),
    }
}

/// An address as either header has it: with a port or without, an IPv6 one in brackets or not. One
/// of IPv4 in its IPv6 form is that of IPv4.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse::<IpAddr>().ok().or_else(bracketed).or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn caller(sent: &[(&'static str, &'static str)]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        caller_address(&headers, "10.0.0.1".parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn the_caller_is_the_first_address_from_the_right_that_is_not_a_proxy_s() {
        for (lines, expected) in [
            (&[][..], "10.0.0.1"),
            (&["203.0.113.7"], "203.0.113.7"),
            (&["198.51.100.1, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            (&["203.0.113.7", "10.0.0.2"], "203.0.113.7"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["203.0.113.7, nonsense, 10.0.0.3"], "10.0.0.3"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["203.0.113.7:80"], "203.0.113.7"),
            (&["[2001:db9::7]:80, 10.0.0.2:9"], "2001:db9::7"),
            (&["[2001:db9::7]"], "2001:db9::7"),
            (&["[::ffff:203.0.113.7]:5"], "203.0.113.7"),
            (&["203.0.113.7, unknown"], "10.0.0.1"),
            (&["203.0.113.7, "], "10.0.0.1"),
            (&["203.0.113.7:port"], "10.0.0.1"),
        ] {
            let sent: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            assert_eq!(caller(&sent), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_the_same_way() {
        for (lines, expected) in [
            (&["for=203.0.113.7"][..], "203.0.113.7"),
            (&["for=198.51.100.1, For=203.0.113.7;proto=https;by=10.0.0.9, for=10.0.0.2"], "203.0.113.7"),
            (&["for=203.0.113.7", "for=10.0.0.2"], "203.0.113.7"),
            (&["for=\"[2001:db9:cafe::17]:4711\""], "2001:db9:cafe::17"),
            (&["for=\"203.0.113.7:47011\""], "203.0.113.7"),
            (&["for=\"[::ffff:203.0.113.7]\""], "203.0.113.7"),
            (&["for=203.0.113.7, for=unknown"], "10.0.0.1"),
            (&["for=203.0.113.7, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            (&["for=203.0.113.7, proto=https"], "10.0.0.1"),
            (&["for=203.0.113.7;for=10.0.0.2"], "10.0.0.1"),
            // A comma within quotes separates nothing.
            (&["for=10.0.0.2;host=\"a, for=203.0.113.7\""], "10.0.0.2"),
            (&["for=203.0.113.7;host=\"a\\\", for=10.0.0.3\""], "203.0.113.7"),
        ] {
            let sent: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            assert_eq!(caller(&sent), expected, "{lines:?}");
        }
    }

    #[test]
    fn of_both_the_one_that_most_proxies_write_counts() {
        let both = [("forwarded", "for=198.51.100.66"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(caller(&both), "203.0.113.7");
        assert_eq!(caller(&[("forwarded", "for=198.51.100.66"), ("x-forwarded-for", "junk")]), "10.0.0.1");
    }

    #[test]
    fn what_we_add_can_be_read_back() {
        for peer in ["203.0.113.7", "2001:db9::7"] {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a.example:80"))]);
            add(&mut headers, peer.parse().unwrap(), "https");
            assert_eq!(caller_address(&headers, "10.0.0.1".parse().unwrap(), &[]).to_string(), peer);
            assert_eq!(said_scheme(&headers), Some("https"));
            assert_eq!(parameter(headers[FORWARDED].as_bytes(), b"host"), Some(&b"a.example:80"[..]));
        }
    }
}
