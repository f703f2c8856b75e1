//! Serial allocation of addresses: the next one after the last given, so that an address just given back rests
//! for as long as there are others (caches and flows of its last holder have time to go).

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;

use crate::model::{Family, range::hosts};

/// The addresses of one family in one network.
#[derive(Debug)]
pub struct Pool {
    family: Family,
    first: u128,
    last: u128,
    taken: HashSet<u128>,
}

impl Pool {
    /// The addresses of `subnet` that a container may have, or of the part of it that is for leases.
    pub fn new(subnet: IpNetwork, lease_range: Option<IpNetwork>) -> Self {
        let (lowest, highest) = hosts(subnet);
        let (lowest, highest) = (number(lowest), number(highest));
        let (first, last) = lease_range.map_or((lowest, highest), |range| {
            (number(range.network()).max(lowest), number(range.broadcast()).min(highest))
        });
        Self { family: Family::of(subnet.ip()), first, last, taken: HashSet::new() }
    }

    /// Marks an address as never to be leased.
    pub fn take(&mut self, address: IpAddr) -> bool {
        self.taken.insert(number(address))
    }

    /// Gives an address back.
    pub fn free(&mut self, address: IpAddr) {
        self.taken.remove(&number(address));
    }

    /// The next free address after `last_given`, beginning anew at the end; it is taken then.
    pub fn lease(&mut self, last_given: Option<IpAddr>) -> Option<IpAddr> {
        if self.first > self.last {
            return None;
        }
        let start = match last_given.map(number) {
            Some(last) if (self.first..self.last).contains(&last) => last + 1,
            _ => self.first,
        };
        let found = (start..=self.last).chain(self.first..start).find(|at| !self.taken.contains(at))?;
        self.taken.insert(found);
        Some(match self.family {
            // What lies between two IPv4 addresses is one.
            Family::V4 => Ipv4Addr::from(found as u32).into(),
            Family::V6 => Ipv6Addr::from(found).into(),
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn allocation_is_serial_and_wraps() -> TestResult {
        for (subnet, prefix) in [("10.0.0.0/29", "10.0.0."), ("fd00:1::/125", "fd00:1::")] {
            let at = |host: u8| format!("{prefix}{host}").parse::<IpAddr>();
            let mut pool = Pool::new(subnet.parse()?, None);
            pool.take(at(1)?);
            // An IPv6 subnet has no broadcast address.
            let end = if subnet.contains(':') { 7 } else { 6 };
            let mut last = None;
            for expected in 2..=end {
                last = pool.lease(last);
                assert_eq!(last, Some(at(expected)?));
            }
            assert_eq!(pool.lease(last), None, "neither gateway nor broadcast is given away");
            pool.free(at(3)?);
            pool.free(at(5)?);
            assert_eq!(pool.lease(Some(at(4)?)), Some(at(5)?));
            assert_eq!(pool.lease(Some(at(5)?)), Some(at(3)?));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_lease_is_usable_and_given_once(base in any::<u32>(), free in 0_u8..=12, start in any::<u32>(), v6 in any::<bool>()) {
            let address = |number: u32| -> IpAddr {
                if v6 { Ipv6Addr::from(0xfd << 120 | u128::from(number)).into() } else { Ipv4Addr::from(number).into() }
            };
            let Ok(subnet) = IpNetwork::new(address(base), if v6 { 128 } else { 32 } - free) else { return Ok(()) };
            let mut pool = Pool::new(subnet, None);
            let (lowest, highest) = hosts(subnet);
            let mut seen = HashSet::new();
            let mut last = Some(address(start));
            while let Some(address) = pool.lease(last) {
                prop_assert!((lowest..=highest).contains(&address));
                prop_assert!(seen.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(seen.len() as u128, number(highest) - number(lowest) + 1);
        }
    }
}
