//! Subnets for networks that name none.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::{model::range::overlap, reconcile::names::stable_hash};

/// Docker's default address pools, in its order: 172.17 to 172.31 as /16, then 192.168 as /20.
pub fn pools() -> impl Iterator<Item = Ipv4Network> {
    let large = (17..=31).filter_map(|second| Ipv4Network::new(Ipv4Addr::new(172, second, 0, 0), 16).ok());
    let small =
        (0..=15).filter_map(|third| Ipv4Network::new(Ipv4Addr::new(192, 168, third * 16, 0), 20).ok());
    large.chain(small)
}

/// The first pool that touches none of `taken`.
pub fn first_free(taken: &[IpNetwork]) -> Option<Ipv4Network> {
    pools().find(|pool| is_free((*pool).into(), taken))
}

/// The first /64 of this host's unique local addresses that touches none of `taken`. `seed` makes the global identifier,
/// so that networks of two hosts differ (RFC 4193 section 3.2); the network's number begins the search.
pub fn first_free_v6(seed: u64, number: u32, taken: &[IpNetwork]) -> Option<Ipv6Network> {
    let identifier = stable_hash(seed, &["unique local addresses"]) & 0xff_ffff_ffff;
    (0..=u16::MAX).find_map(|step| {
        let subnet = (number as u16).wrapping_add(step);
        let bits = 0xfd_u128 << 120 | u128::from(identifier) << 80 | u128::from(subnet) << 64;
        let range = Ipv6Network::new(Ipv6Addr::from(bits), 64).ok()?;
        is_free(range.into(), taken).then_some(range)
    })
}

fn is_free(range: IpNetwork, taken: &[IpNetwork]) -> bool {
    !taken.iter().any(|other| overlap(range, *other))
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_subnet_that_the_host_uses_is_skipped() -> TestResult {
        assert_eq!(first_free(&[]), Some("172.17.0.0/16".parse()?));
        let taken = ["172.16.0.0/14".parse()?, "172.20.5.0/24".parse()?];
        assert_eq!(first_free(&taken), Some("172.21.0.0/16".parse()?));
        let taken = ["172.16.0.0/12".parse()?, "192.168.1.0/24".parse()?];
        assert_eq!(first_free(&taken), Some("192.168.16.0/20".parse()?));
        assert_eq!(first_free(&["0.0.0.0/0".parse()?]), None);
        assert_eq!(pools().count(), 31);
        Ok(())
    }

    #[test]
    fn a_unique_local_subnet_is_the_hosts_own() -> TestResult {
        let one = first_free_v6(7, 3, &[]).ok_or("none is free")?;
        assert_eq!((one.prefix(), one.ip().octets()[0], one.ip().segments()[3]), (64, 0xfd, 3));
        assert_ne!(first_free_v6(8, 3, &[]), Some(one), "another host");
        let next = first_free_v6(7, 3, &[one.into(), "10.0.0.0/8".parse()?]).ok_or("none is free")?;
        assert_eq!((next.ip().segments()[3], &next.ip().segments()[..3]), (4, &one.ip().segments()[..3]));
        assert_eq!(first_free_v6(7, 3, &["fd00::/8".parse()?]), None);
        Ok(())
    }
}
