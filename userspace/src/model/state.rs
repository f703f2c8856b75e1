//! The types of the desired state. Names are Docker's and the kernel's.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Family, HostSettings, MacAddress, Network, Protocol};

/// Everything one host is asked to be. Providers yield it whole; nothing in it is relative to an earlier state.
///
/// Addresses, MAC addresses and host ports that the user left open are `None` here; `reconcile::leases` fills them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Networks by name.
    pub networks: BTreeMap<String, Network>,
    /// Containers by name.
    pub containers: BTreeMap<String, Container>,
    /// Overlay peers, several entries for one VTEP are allowed (one for each network).
    pub peers: Vec<Peer>,
    /// Settings of the host as a whole.
    pub host: HostSettings,
}

/// One container: a network namespace and its attachments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Where its network stack is.
    pub namespace: ContainerNamespace,
    /// Attachments by network name; the order of the names gives `eth0`, `eth1`, …
    pub attachments: BTreeMap<String, Attachment>,
    /// Ports published on the host.
    pub publications: Vec<Publication>,
    /// Host name, for the name services.
    pub hostname: Option<String>,
    /// `links`: (container, alias) pairs this container resolves.
    pub links: Vec<(String, String)>,
}

/// Where a container's network stack is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerNamespace {
    /// A named namespace, `/run/netns/NAME` (`ip netns add NAME`).
    Named(String),
    /// The network namespace of a running process.
    Pid(u32),
    /// A Docker container's name or id (needs the Docker provider).
    Docker(String),
    /// `network_mode: none`: only the loopback device, weft leaves it alone.
    None,
    /// `network_mode: host`: the host's own stack.
    Host,
    /// `network_mode: service:NAME` or `container:NAME`: the stack of another declared container.
    SharedWith(String),
}

impl ContainerNamespace {
    /// Whether it is one that this container alone may name.
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::Named(_) | Self::Pid(_) | Self::Docker(_))
    }
}

/// A container's membership in one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// IPv4 address; `None`: leased.
    pub ipv4_address: Option<std::net::Ipv4Addr>,
    /// IPv6 address; `None`: leased where the network has IPv6.
    pub ipv6_address: Option<std::net::Ipv6Addr>,
    /// MAC address; `None`: chosen once and kept.
    pub mac_address: Option<MacAddress>,
    /// Other names of the container in this network.
    pub aliases: Vec<String>,
    /// The network with the highest value gives the default route (`gw_priority`), ties go by Docker's rules.
    pub gateway_priority: i32,
}

impl Attachment {
    /// The address that the user gave it.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4_address.map(IpAddr::V4),
            Family::V6 => self.ipv6_address.map(IpAddr::V6),
        }
    }
}

/// Host ports that lead to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Host address; `0.0.0.0` or `::`: every one of that family; `None`: every one of both.
    pub host_address: Option<IpAddr>,
    /// Host ports.
    pub host_ports: HostPorts,
    /// Container ports: as many as the host ports of `HostPorts::Exactly`, else exactly one.
    pub container_ports: PortRange,
}

/// The host side of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPorts {
    /// These ports, one to one.
    Exactly(PortRange),
    /// One free port of this range (Docker's `8000-8010:80`).
    OneOf(PortRange),
    /// One free port of the host's ephemeral range.
    Any,
}

/// An inclusive range of ports, never containing port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// A range of one port.
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Number of ports, 1 to 65535.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Whether both ranges hold a common port.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(out, "{}", self.first)
        } else {
            write!(out, "{}-{}", self.first, self.last)
        }
    }
}

/// Containers of an overlay network that live behind another VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The other host's tunnel address.
    pub vtep: IpAddr,
    /// Name of the overlay network.
    pub network: String,
    /// Its containers there.
    pub endpoints: Vec<RemoteEndpoint>,
}

/// A container on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// Container name.
    pub name: String,
    /// Its address in the overlay network.
    pub address: IpAddr,
    /// Its MAC address in the overlay network.
    pub mac_address: MacAddress,
}
