//! Arithmetic on address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Whether two ranges have a common address.
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

/// The first and the last address that a host can have in a subnet.
pub fn hosts(subnet: IpNetwork) -> (IpAddr, IpAddr) {
    match subnet {
        // RFC 3021: a /31 has no network address, both of its addresses are hosts. RFC 6164: the same for /127.
        IpNetwork::V4(range) if range.prefix() >= 31 => (range.network().into(), range.broadcast().into()),
        IpNetwork::V6(range) if range.prefix() >= 127 => (range.network().into(), range.broadcast().into()),
        IpNetwork::V4(range) => (
            Ipv4Addr::from(u32::from(range.network()) + 1).into(),
            Ipv4Addr::from(u32::from(range.broadcast()) - 1).into(),
        ),
        // The first is the anycast address of the routers (RFC 4291 section 2.6.1); there is no broadcast.
        IpNetwork::V6(range) => {
            (Ipv6Addr::from(u128::from(range.network()) + 1).into(), range.broadcast().into())
        }
    }
}

/// The bridge's address where the user gives none.
pub fn default_gateway(subnet: IpNetwork) -> IpAddr {
    hosts(subnet).0
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn network_and_broadcast_addresses_are_no_hosts() -> TestResult {
        for (subnet, first, last) in [
            ("10.10.0.0/24", "10.10.0.1", "10.10.0.254"),
            ("10.10.0.4/30", "10.10.0.5", "10.10.0.6"),
            ("10.10.0.0/31", "10.10.0.0", "10.10.0.1"),
            ("10.10.0.7/32", "10.10.0.7", "10.10.0.7"),
            ("fd00:1::/64", "fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff"),
            ("fd00:1::/127", "fd00:1::", "fd00:1::1"),
        ] {
            assert_eq!(hosts(subnet.parse()?), (first.parse()?, last.parse()?), "{subnet}");
            assert_eq!(default_gateway(subnet.parse()?), first.parse::<IpAddr>()?);
        }
        Ok(())
    }

    #[test]
    fn ranges_overlap_where_one_holds_the_other() -> TestResult {
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.20.0.0/16", true),
            ("10.20.0.0/16", "10.20.0.0/16", true),
            ("10.20.0.0/16", "10.21.0.0/16", false),
            ("::/0", "fd00::/8", true),
            ("0.0.0.0/0", "::/0", false),
        ] {
            let (one, other) = (one.parse()?, other.parse()?);
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
        Ok(())
    }
}
