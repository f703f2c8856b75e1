//! The desired state with nothing left open: what `leases` makes of it and everything else works from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::problem::Problem;
use crate::{
    model::{BeforePort, Driver, Family, HostSettings, MacAddress, PerFamily, Policy, PortRange, Protocol},
    netdev::{NamespaceIdentity, NamespaceRef},
};

/// Everything this host is to be, with every choice made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedState {
    /// Networks by name.
    pub networks: BTreeMap<String, ResolvedNetwork>,
    /// Container interfaces.
    pub endpoints: BTreeMap<EndpointId, ResolvedEndpoint>,
    /// Published ports, ordered by container.
    pub publications: Vec<ResolvedPublication>,
    /// Other hosts of the overlay networks, by tunnel address.
    pub peers: BTreeMap<IpAddr, ResolvedPeer>,
    /// Containers on other hosts.
    pub remotes: Vec<ResolvedRemote>,
    /// Settings of the host.
    pub host: HostSettings,
    /// Objects that had to be left out.
    pub problems: Vec<Problem>,
}

impl ResolvedState {
    /// The interfaces of one container.
    pub fn of_container<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a EndpointId, &'a ResolvedEndpoint)> {
        let first = EndpointId { container: name.to_owned(), network: String::new() };
        self.endpoints.range(first..).take_while(move |(id, _)| id.container == name)
    }

    /// Whether a network has this family.
    pub fn has(&self, family: Family) -> bool {
        self.networks.values().any(|network| network.subnets.of(family).is_some())
    }
}

/// A container's membership in a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointId {
    /// Container name.
    pub container: String,
    /// Network name.
    pub network: String,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.network, self.container)
    }
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedNetwork {
    /// Number in the maps.
    pub number: u32,
    /// Bridge or overlay.
    pub driver: Driver,
    /// Address ranges.
    pub subnets: PerFamily<ResolvedSubnet>,
    /// Whom its members reach, and who reaches them.
    pub policy: Policy,
    /// MTU, where the user gave one.
    pub mtu: Option<u32>,
    /// Name of the bridge device.
    pub bridge: String,
    /// Name of the vxlan device of an overlay network.
    pub vxlan: Option<String>,
}

/// An address range of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedSubnet {
    /// The range.
    pub range: IpNetwork,
    /// The bridge's address.
    pub gateway: IpAddr,
}

impl ResolvedSubnet {
    /// The bridge's address with the prefix length.
    pub fn gateway_in_range(&self) -> Option<IpNetwork> {
        IpNetwork::new(self.gateway, self.range.prefix()).ok()
    }
}

impl ResolvedNetwork {
    /// Whether one of its ranges has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnets.of(Family::of(address)).is_some_and(|subnet| subnet.range.contains(address))
    }

    /// The VXLAN network identifier of an overlay network.
    pub fn vni(&self) -> Option<u32> {
        match self.driver {
            Driver::Overlay { vni } => Some(vni),
            Driver::Bridge => None,
        }
    }
}

/// A network namespace that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundNamespace {
    /// How to reach it.
    pub reference: NamespaceRef,
    /// Its file.
    pub identity: NamespaceIdentity,
    /// The kernel's never reused number of it.
    pub cookie: u64,
}

/// A container's interface in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// Number of the network.
    pub network_number: u32,
    /// Where the container is; `None` while its namespace is missing.
    pub namespace: Option<FoundNamespace>,
    /// Addresses with the subnets' prefix lengths.
    pub addresses: PerFamily<IpNetwork>,
    /// MAC address.
    pub mac: MacAddress,
    /// Identity of the container, never used again.
    pub epoch: u32,
    /// Name inside the container.
    pub interface: String,
    /// Name of the host side.
    pub device: String,
    /// The container's default route, and so its publications, lead through this network.
    pub default_route: bool,
    /// The container publishes ports on this interface.
    pub published: bool,
}

/// A published range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPublication {
    /// The container that declares it.
    pub container: String,
    /// The interface it leads to.
    pub endpoint: EndpointId,
    /// Number of the network it leads to.
    pub network_number: u32,
    /// The container's address there.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Host address, of the family of the container's; `0.0.0.0` and `::`: all of them.
    pub host_address: IpAddr,
    /// Host ports.
    pub host_ports: PortRange,
    /// Container ports, as many.
    pub container_ports: PortRange,
}

impl ResolvedPublication {
    /// Whether the world reaches the container itself, in a routed network: nothing of the host's is published.
    pub fn is_routed(&self) -> bool {
        self.host_address == self.address
    }

    /// How people write the host side: `0.0.0.0:8080/tcp` or `[::]:8080/tcp`.
    pub fn host_side(&self) -> String {
        format!("{}:{}/{}", BeforePort(self.host_address), self.host_ports, self.protocol)
    }
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPeer {
    /// Number in the maps.
    pub number: u32,
    /// Overlay networks that it has a part of.
    pub networks: BTreeSet<String>,
}

/// A container on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRemote {
    /// Its name there.
    pub name: String,
    /// Overlay network.
    pub network: String,
    /// Number of that network.
    pub network_number: u32,
    /// Address in the overlay network.
    pub address: IpAddr,
    /// MAC address in the overlay network.
    pub mac: MacAddress,
    /// The host it is on.
    pub vtep: IpAddr,
}
