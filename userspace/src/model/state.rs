//! The types of the desired state. Names are Docker's and the kernel's.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{Family, PerFamily, Protocol};

/// UDP port of VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

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

/// One layer-2 network: a bridge device here and, for an overlay, a vxlan device in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Bridge or overlay.
    pub driver: Driver,
    /// Members have IPv4 addresses (`enable_ipv4`).
    pub enable_ipv4: bool,
    /// Members have IPv6 addresses (`enable_ipv6`).
    pub enable_ipv6: bool,
    /// Subnets, at most one for each enabled address family; weft picks one where none is given.
    pub subnets: Vec<Subnet>,
    /// Nothing but the members and the host itself is reachable.
    pub internal: bool,
    /// Containers of this network may talk to one another (`com.docker.network.bridge.enable_icc`).
    pub inter_container: bool,
    /// Traffic to the world leaves with the uplink's address (`com.docker.network.bridge.enable_ip_masquerade`).
    pub masquerade: bool,
    /// Whom masqueraded containers hear uninvited (`weft.filtering`).
    pub filtering: Filtering,
    /// Where it is not `nat` (`com.docker.network.bridge.gateway_mode_ipv4` and `_ipv6`).
    pub gateway_modes: PerFamily<GatewayMode>,
    /// MTU in bytes of the containers' interfaces; `None`: the uplink's, less 50 or 70 bytes for an overlay.
    pub mtu: Option<u32>,
    /// Name of the bridge device (`com.docker.network.bridge.name`); `None`: derived from the network's name.
    pub bridge_name: Option<String>,
    /// Host address of publications that name none (`com.docker.network.bridge.host_binding_ipv4`).
    pub host_binding: Option<IpAddr>,
}

impl Network {
    /// Whether its members have addresses of this family.
    pub const fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.enable_ipv4,
            Family::V6 => self.enable_ipv6,
        }
    }

    /// The subnet that the user gave it.
    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| Family::of(subnet.range.ip()) == family)
    }
}

/// Docker's gateway modes but `nat`, where the world knows the members by the host's addresses and published ports alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// As `nat`, and whoever has a route reaches every port of the members by their own addresses.
    NatUnprotected,
    /// The world knows the members by their own addresses, and reaches their published ports by them.
    Routed,
    /// Of an internal network: the host has no address in it, and nothing to do with it.
    Isolated,
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        })
    }
}

/// How a network reaches other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Only this host.
    Bridge,
    /// VXLAN to the peers, with this 24-bit VXLAN network identifier (RFC 7348 section 5).
    Overlay {
        /// VXLAN network identifier, 1 to 2^24 - 1.
        vni: u32,
    },
}

/// Whose packets reach the external port of a masqueraded container's socket (RFC 4787 section 5, RFC 5382 section 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Of the addresses and ports that the socket has sent to.
    #[default]
    AddressAndPort,
    /// Of any port of an address that the socket has sent to.
    Address,
    /// Of everybody.
    EndpointIndependent,
}

impl fmt::Display for Filtering {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::AddressAndPort => "address-and-port",
            Self::Address => "address",
            Self::EndpointIndependent => "endpoint-independent",
        })
    }
}

/// One address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range, host bits zero.
    pub range: IpNetwork,
    /// The bridge's address; `None`: the first of the range.
    pub gateway: Option<IpAddr>,
    /// Only addresses of this part are leased (`ip_range`).
    pub lease_range: Option<IpNetwork>,
    /// Addresses never leased (`aux_addresses`).
    pub reserved: Vec<IpAddr>,
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

/// Settings of the host as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Devices that lead to the world; empty: the device of the default route.
    pub uplinks: Vec<String>,
    /// Own tunnel address; `None`: the first uplink's.
    pub vtep: Option<IpAddr>,
    /// UDP port of VXLAN; `None`: 4789 (RFC 7348).
    pub vxlan_port: Option<u16>,
    /// External ports that masquerade may use; `None`: everything from 1024 that the host does not use itself.
    pub masquerade_ports: Option<PortRange>,
    /// Number of flow records; `None`: the default of the dataplane.
    pub max_flows: Option<u32>,
    /// Flow timeouts.
    pub timeouts: Timeouts,
}

/// Flow timeouts. Defaults are those that the RFCs recommend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// UDP mapping.
    pub udp: Duration,
    /// Established TCP connection.
    pub tcp_established: Duration,
    /// TCP connection of which only one end has been heard.
    pub tcp_opening: Duration,
    /// TCP connection that both ends have closed, or one has reset.
    pub tcp_closing: Duration,
    /// ICMP query.
    pub icmp_query: Duration,
    /// How long an external port stays with its socket after its last flow.
    pub port_hold: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            icmp_query: Duration::from_secs(60),
            port_hold: Duration::from_secs(120),
        }
    }
}

impl Timeouts {
    /// What is shorter than an RFC allows, in words.
    pub fn below_the_rfcs(&self) -> impl Iterator<Item = String> {
        let bounds = [
            ("udp", self.udp, 120, "RFC 4787 REQ-5"),
            ("tcp_established", self.tcp_established, 7440, "RFC 5382 REQ-5"),
            ("tcp_closing", self.tcp_closing, 240, "RFC 5382 REQ-5"),
            ("icmp_query", self.icmp_query, 60, "RFC 5508 REQ-2"),
            ("port_hold", self.port_hold, 120, "RFC 6888 REQ-8"),
        ];
        // RFC 7857 section 2.1 allows a shorter timeout for a connection that opens.
        bounds.into_iter().filter(|(_, given, least, _)| given.as_secs() < *least).map(
            |(name, given, least, source)| {
                format!("timeouts.{name} is {} s, and at least {least} s by {source}", given.as_secs())
            },
        )
    }
}

/// A 48-bit Ethernet address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text is not six hexadecimal bytes with colons between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six hexadecimal bytes, as in 02:42:0a:14:00:05")]
pub struct InvalidMacAddress;

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, InvalidMacAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(InvalidMacAddress)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddress)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddress) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
