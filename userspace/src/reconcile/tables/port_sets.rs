//! Ports as sets, one for each protocol: where masquerade must keep off, and what is published.

use super::vxlan_port;
use crate::{
    model::{PerProtocol, PortRange, Protocol},
    netdev::PortRanges,
    reconcile::{
        facts::KernelFacts,
        resolved::{ResolvedPublication, ResolvedState},
    },
};

/// Contents of the map `port_sets`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSets {
    /// Ports that masquerade must keep off: published ones, the tunnel's, those of sockets, and what the administrator
    /// reserved.
    pub reserved: PerProtocol<PortRanges>,
    /// Ports that are published on any address.
    pub published: PerProtocol<PortRanges>,
}

impl PortSets {
    /// With these published ports.
    pub(super) fn new(
        published: PerProtocol<PortRanges>,
        state: &ResolvedState,
        facts: &KernelFacts,
    ) -> Self {
        let tunnel: PortRanges = [PortRange::single(vxlan_port(state))].into_iter().collect();
        let reserved = PerProtocol::new(|protocol| {
            let ports = published.of(protocol).union(facts.bound.of(protocol)).union(&facts.reserved);
            if protocol == Protocol::Udp { ports.union(&tunnel) } else { ports }
        });
        Self { reserved, published }
    }
}

/// The ports of a protocol that these publish at addresses of the host.
pub(super) fn published_ports<'a>(
    publications: impl IntoIterator<Item = &'a ResolvedPublication>,
    protocol: Protocol,
) -> PortRanges {
    let of_protocol = publications
        .into_iter()
        .filter(|publication| publication.protocol == protocol && !publication.is_routed());
    of_protocol.map(|publication| publication.host_ports).collect()
}
