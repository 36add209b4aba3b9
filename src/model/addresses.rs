//! Address ranges: from where a credential may be used.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use thiserror::Error;

/// What one party usually holds: an IPv4 address, or the /64 of an IPv6 one (RFC 6177).
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// A set of networks (RFC 4632, RFC 4291 §2.3). The empty set is no rule: every address will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AddressRanges(Box<[IpNet]>);

/// Text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not an address range; write 192.0.2.0/24, 2001:db8::/32 or a single address")]
pub struct InvalidRange(pub String);

impl AddressRanges {
    /// A set of the given networks; a single address is a network of one.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, InvalidRange> {
        let mut ranges = Vec::new();
        for text in texts {
            let range = parse(text.as_ref())?;
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
        Ok(Self(ranges.into()))
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks, as text.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(ToString::to_string)
    }

    /// Whether everybody who passes here passes there.
    #[must_use]
    pub fn are_within(&self, wider: &Self) -> bool {
        let inside = |range: &IpNet| wider.0.iter().any(|wide| wide.contains(range));
        wider.0.is_empty() || (!self.0.is_empty() && self.0.iter().all(inside))
    }

    /// Whether a caller at `address` passes. An IPv4 address inside IPv6 (`::ffff:192.0.2.1`) is
    /// the IPv4 address.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> bool {
        self.0.is_empty() || {
            let address = address.to_canonical();
            self.0.iter().any(|range| range.contains(&address))
        }
    }
}

impl fmt::Display for AddressRanges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str(" ")?;
            }
            write!(out, "{range}")?;
        }
        Ok(())
    }
}

/// A network, host bits cleared, so that what is shown is what is meant.
fn parse(text: &str) -> Result<IpNet, InvalidRange> {
    let range = match text.parse::<IpNet>() {
        Ok(range) => range.trunc(),
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| InvalidRange(text.to_owned()))?,
    };
    // Callers are known by their IPv4 addresses: a range of mapped ones would match nobody.
    match range {
        IpNet::V6(mapped) if mapped.prefix_len() >= MAPPED_BITS && mapped.network().to_ipv4_mapped().is_some() => {
            let network = mapped.network().to_canonical();
            IpNet::new(network, mapped.prefix_len() - MAPPED_BITS).map_err(|_| InvalidRange(text.to_owned()))
        }
        other => Ok(other),
    }
}

/// `::ffff:0:0/96` holds the IPv4 addresses (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_passes_when_a_range_holds_it_or_there_is_no_rule() {
        for (ranges, address, passes) in [
            (&[][..], "203.0.113.9", true),
            (&["192.0.2.0/24"], "192.0.2.255", true),
            (&["192.0.2.0/24"], "192.0.3.0", false),
            (&["192.0.2.0/24"], "::ffff:192.0.2.7", true),
            (&["::ffff:192.0.2.0/120"], "192.0.2.7", true),
            (&["192.0.2.7"], "192.0.2.7", true),
            (&["192.0.2.7"], "192.0.2.8", false),
            (&["192.0.2.0/24", "2001:db8::/32"], "2001:db8::1", true),
            (&["192.0.2.0/24", "2001:db8::/32"], "2001:db9::1", false),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["::/0"], "192.0.2.1", false),
        ] {
            let set = AddressRanges::new(ranges).unwrap();
            assert_eq!(set.admit(address.parse().unwrap()), passes, "{address} in {ranges:?}");
        }
    }

    #[test]
    fn ranges_are_kept_in_their_shortest_form() {
        let set = AddressRanges::new(["192.0.2.77/24", "192.0.2.0/24", "2001:db8:0::1"]).unwrap();
        assert_eq!(set.to_string(), "192.0.2.0/24 2001:db8::1/128");
        for text in ["", "192.0.2.0/33", "192.0.2", "example.com", "192.0.2.0/24 "] {
            assert_eq!(AddressRanges::new([text]), Err(InvalidRange(text.to_owned())));
        }
    }
}
