//! Subnets for networks that name none (S1).

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

/// Docker's default address pools, in its order: 172.17 to 172.31 as /16, then 192.168 as /20.
pub fn pools() -> impl Iterator<Item = Ipv4Network> {
    let large = (17..=31).filter_map(|second| Ipv4Network::new(Ipv4Addr::new(172, second, 0, 0), 16).ok());
    let small =
        (0..=15).filter_map(|third| Ipv4Network::new(Ipv4Addr::new(192, 168, third * 16, 0), 20).ok());
    large.chain(small)
}

/// The first pool that touches none of `taken`.
pub fn first_free(taken: &[Ipv4Network]) -> Option<Ipv4Network> {
    pools().find(|pool| !taken.iter().any(|other| pool.overlaps(*other)))
}

/// The bridge's address where the user gives none: the first usable one.
pub fn default_gateway(subnet: Ipv4Network) -> Ipv4Addr {
    let network = u32::from(subnet.network());
    // RFC 3021: a /31 has no network address, both of its addresses are hosts.
    if subnet.prefix() >= 31 { subnet.network() } else { Ipv4Addr::from(network + 1) }
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
    fn the_gateway_is_the_first_usable_address() -> TestResult {
        assert_eq!(default_gateway("10.10.0.0/24".parse()?), Ipv4Addr::new(10, 10, 0, 1));
        assert_eq!(default_gateway("10.10.0.0/31".parse()?), Ipv4Addr::new(10, 10, 0, 0));
        Ok(())
    }
}
