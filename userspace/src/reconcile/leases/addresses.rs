//! Serial allocation of addresses: the next one after the last given, so that an address just given back rests
//! for as long as there are others (caches and flows of its last holder have time to go).

use std::{collections::HashSet, net::Ipv4Addr};

use ipnetwork::Ipv4Network;

/// The addresses of one network.
#[derive(Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    taken: HashSet<u32>,
}

impl Pool {
    /// The addresses of `subnet` that a container may have, or of the part of it that is for leases.
    pub fn new(subnet: Ipv4Network, lease_range: Option<Ipv4Network>) -> Self {
        let (lowest, highest) = usable(subnet);
        let (first, last) = lease_range.map_or((lowest, highest), |range| {
            let first = u32::from(range.network()).max(lowest);
            (first, u32::from(range.broadcast()).min(highest))
        });
        Self { first, last, taken: HashSet::new() }
    }

    /// Marks an address as never to be leased.
    pub fn take(&mut self, address: Ipv4Addr) -> bool {
        self.taken.insert(u32::from(address))
    }

    /// Gives an address back.
    pub fn free(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address));
    }

    /// The next free address after `last_given`, beginning anew at the end; it is taken then.
    pub fn lease(&mut self, last_given: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if self.first > self.last {
            return None;
        }
        let start = match last_given.map(u32::from) {
            Some(last) if (self.first..self.last).contains(&last) => last + 1,
            _ => self.first,
        };
        let found = (start..=self.last).chain(self.first..start).find(|at| !self.taken.contains(at))?;
        self.taken.insert(found);
        Some(Ipv4Addr::from(found))
    }
}

/// First and last address that a host can have in this subnet.
pub fn usable(subnet: Ipv4Network) -> (u32, u32) {
    let (network, broadcast) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
    if subnet.prefix() >= 31 { (network, broadcast) } else { (network + 1, broadcast - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn allocation_is_serial_and_wraps() -> Result<(), Box<dyn std::error::Error>> {
        let mut pool = Pool::new("10.0.0.0/29".parse()?, None);
        pool.take(Ipv4Addr::new(10, 0, 0, 1));
        let mut last = None;
        for expected in 2..=6 {
            last = pool.lease(last);
            assert_eq!(last, Some(Ipv4Addr::new(10, 0, 0, expected)));
        }
        assert_eq!(pool.lease(last), None, "neither gateway nor broadcast is given away");
        pool.free(Ipv4Addr::new(10, 0, 0, 3));
        pool.free(Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(pool.lease(Some(Ipv4Addr::new(10, 0, 0, 4))), Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(pool.lease(Some(Ipv4Addr::new(10, 0, 0, 5))), Some(Ipv4Addr::new(10, 0, 0, 3)));
        Ok(())
    }

    proptest! {
        #[test]
        fn every_lease_is_usable_and_given_once(base in any::<u32>(), prefix in 20_u8..=32, start in any::<u32>()) {
            let Ok(subnet) = Ipv4Network::new(Ipv4Addr::from(base), prefix) else { return Ok(()) };
            let mut pool = Pool::new(subnet, None);
            let (lowest, highest) = usable(subnet);
            let mut seen = HashSet::new();
            let mut last = Some(Ipv4Addr::from(start));
            while let Some(address) = pool.lease(last) {
                prop_assert!((lowest..=highest).contains(&u32::from(address)));
                prop_assert!(seen.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(seen.len() as u64, u64::from(highest - lowest) + 1);
        }
    }
}
