//! Host ports of publications that leave them open, and who may have a port.

use std::{collections::BTreeMap, net::IpAddr};

use super::LeaseFacts;
use crate::model::{PortRange, Protocol};

/// All claims so far, by protocol and host address (unspecified: all of its family), then by the first port of each
/// range. Ranges of one address never overlap, so the one that begins last before a port is the only one that may hold
/// it.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<(Protocol, IpAddr), Ranges>);

/// By first port: last port and holder.
type Ranges = BTreeMap<u16, (u16, String)>;

impl Claims {
    /// Who already has one of these ports on the very same address, and which of his. A specific address beside the
    /// wildcard is no conflict: the more specific one wins there.
    pub fn conflict(
        &self,
        protocol: Protocol,
        address: IpAddr,
        ports: PortRange,
    ) -> Option<(&str, PortRange)> {
        overlapping(self.0.get(&(protocol, address))?, ports)
    }

    /// Enters a claim that has no conflict.
    pub fn add(&mut self, protocol: Protocol, address: IpAddr, ports: PortRange, container: &str) {
        self.0
            .entry((protocol, address))
            .or_default()
            .insert(ports.first, (ports.last, container.to_owned()));
    }

    /// The claims to some of these ports on any address, with who has them.
    pub fn overlapping(
        &self,
        protocol: Protocol,
        ports: PortRange,
    ) -> impl Iterator<Item = (&str, PortRange)> {
        let of_protocol = self.0.iter().filter(move |((claimed, _), _)| *claimed == protocol);
        of_protocol.flat_map(move |(_, ranges)| {
            let below = ranges.range(..=ports.last).rev();
            let claims = below.map(|(first, (last, container))| {
                (container.as_str(), PortRange { first: *first, last: *last })
            });
            claims.take_while(move |(_, claimed)| claimed.overlaps(ports))
        })
    }

    /// Takes back a claim.
    pub fn remove(&mut self, protocol: Protocol, address: IpAddr, ports: PortRange) {
        if let Some(ranges) = self.0.get_mut(&(protocol, address)) {
            ranges.remove(&ports.first);
        }
    }

    /// One port of `range` that nobody has, with no claim on any address and no process of the host on it.
    /// `kept`, the port of an earlier round, is preferred; `spread` decides where the search begins.
    pub fn choose(
        &self,
        facts: &LeaseFacts,
        protocol: Protocol,
        range: PortRange,
        kept: Option<u16>,
        spread: u64,
    ) -> Option<u16> {
        let free = |port: &u16| {
            !facts.bound_ports.of(protocol).contains(*port)
                && !self
                    .0
                    .iter()
                    .filter(|((claimed, _), _)| *claimed == protocol)
                    .any(|(_, ranges)| overlapping(ranges, PortRange::single(*port)).is_some())
        };
        let kept = kept.filter(|port| (range.first..=range.last).contains(port) && free(port));
        kept.or_else(|| {
            let offset = (spread % u64::from(range.count())) as u32;
            (0..range.count()).map(|step| range.first + ((offset + step) % range.count()) as u16).find(free)
        })
    }
}

fn overlapping(ranges: &Ranges, ports: PortRange) -> Option<(&str, PortRange)> {
    let (first, (last, container)) = ranges.range(..=ports.last).next_back()?;
    (*last >= ports.first).then_some((container.as_str(), PortRange { first: *first, last: *last }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    fn range() -> impl Strategy<Value = PortRange> {
        (1_u16..200, 0_u16..20).prop_map(|(first, more)| PortRange { first, last: first + more })
    }

    proptest! {
        #[test]
        fn a_conflict_is_found_exactly_where_ranges_overlap(wanted in prop::collection::vec(range(), 0..40)) {
            let mut claims = Claims::default();
            let mut taken: Vec<PortRange> = Vec::new();
            for ports in wanted {
                let expected = taken.iter().any(|other| other.overlaps(ports));
                prop_assert_eq!(claims.conflict(Protocol::Tcp, ANY, ports).is_some(), expected);
                prop_assert!(claims.conflict(Protocol::Udp, ANY, ports).is_none());
                if !expected {
                    claims.add(Protocol::Tcp, ANY, ports, "web");
                    taken.push(ports);
                }
            }
        }
    }
}
