//! What a case is: networks, containers and published ports, and what is done with them. Pure data, which prints as JSON
//! and replays from it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// Hosts of every lab; a case may leave the second one empty.
pub const HOSTS: usize = 2;
/// Networks that a topology may have.
pub const NETWORKS: usize = 3;
/// Containers that a topology may have.
pub const CONTAINERS: usize = 4;
/// Everybody serves these ports with TCP and UDP.
pub const OPEN_PORTS: [u16; 3] = [7000, 7001, 7002];
/// Nobody serves this one, nor what follows.
pub const CLOSED_PORT: u16 = 7003;
/// Host ports that may be published.
pub const HOST_PORTS: std::ops::Range<u16> = 8080..8088;

/// One topology, and steps on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What there is at first.
    pub topology: Topology,
    /// What happens, in this order.
    pub steps: Vec<Step>,
}

/// Changes of the configuration, and then actions, all at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Applied together.
    pub changes: Vec<Change>,
    /// Done side by side.
    pub actions: Vec<Action>,
}

/// The declared state of all hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Named `n0`, `n1`, … in this order.
    pub networks: Vec<Network>,
    /// Named `c0`, `c1`, …; one that was removed leaves its place empty.
    pub containers: Vec<Option<Container>>,
    /// What the tunnels between the hosts run over.
    #[serde(default)]
    pub tunnels: Family,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// What a network has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What it allows.
    pub kind: NetworkKind,
    /// Its host; an overlay network is on all of them.
    pub host: usize,
    /// IPv4, IPv6 or both.
    #[serde(default)]
    pub families: Families,
}

/// What a network allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkKind {
    /// Everything.
    Plain,
    /// Its members and their host only.
    Internal,
    /// `enable_icc: false`: members do not reach one another.
    Isolated,
    /// VXLAN.
    Overlay,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Where it runs.
    pub host: usize,
    /// Its networks, at least one, in ascending order.
    pub networks: Vec<usize>,
    /// Its published ports.
    pub ports: Vec<Publication>,
}

/// Published ports of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// On which addresses of the host.
    pub binding: Binding,
    /// Of which family they are; not said: both with [`Binding::Any`], else IPv4.
    #[serde(default)]
    pub family: Option<Family>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first host port.
    pub host_port: u16,
    /// The first port of the container.
    pub container_port: u16,
    /// How many.
    pub count: u16,
}

/// The host address of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Binding {
    /// All.
    Any,
    /// The uplink's.
    Uplink,
    /// 127.0.0.1 or ::1.
    Loopback,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A change of the topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The container in this place goes.
    Remove(usize),
    /// One comes, into an empty place.
    Add(usize, Container),
    /// A container publishes more.
    Publish(usize, Publication),
    /// It no longer publishes this.
    Unpublish(usize, Publication),
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The client outside.
    Client,
    /// A host itself.
    Host(usize),
    /// A container, by its place in the topology.
    Container(usize),
}

/// Whom it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// The client outside.
    Client,
    /// The uplink of a host.
    Uplink(usize),
    /// 127.0.0.1 or ::1 of whoever acts.
    Loopback,
    /// The gateway of a network.
    Gateway(usize),
    /// A container's address in a network, whether it is there or not.
    Container(usize, usize),
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: u16,
}

/// What somebody does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// One TCP connection.
    Tcp {
        /// The client.
        from: Place,
        /// Of the addresses.
        #[serde(default)]
        family: Family,
        /// The server.
        to: Target,
        /// Bytes to the server.
        send: u32,
        /// Bytes back.
        receive: u32,
        /// Who ends it, and how.
        close: Close,
    },
    /// Datagrams from one socket, and their answers.
    Udp {
        /// The client.
        from: Place,
        /// Of the addresses.
        #[serde(default)]
        family: Family,
        /// Its port: one of few, so that it is used again, or a new one.
        source: Option<u16>,
        /// Where each goes, and its length.
        to: Vec<(Target, u16)>,
    },
    /// One echo request.
    Ping {
        /// The sender.
        from: Place,
        /// Of the addresses.
        #[serde(default)]
        family: Family,
        /// The target.
        to: Address,
        /// Payload bytes.
        size: u16,
    },
}

/// How a TCP connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Close {
    /// The client's FIN comes when everything has been said.
    Client,
    /// The client's FIN comes before the answer.
    HalfByClient,
    /// The server's FIN comes before the client's last bytes.
    HalfByServer,
    /// The client resets it.
    ResetByClient,
    /// The server resets it.
    ResetByServer,
}

impl Network {
    /// Whether it exists on this host.
    pub fn is_on(&self, host: usize) -> bool {
        self.kind == NetworkKind::Overlay || self.host == host
    }

    /// An address of it. Every place and kind has its own subnets, 10.PLACE.NUMBER.0/24 and fd00:PLACE:NUMBER::/64, so that
    /// the routes of the outside client never change.
    fn address(&self, number: usize, family: Family, last: u8) -> IpAddr {
        let place = if self.kind == NetworkKind::Overlay { HOSTS } else { self.host };
        subnet_of(place, number, family, last)
    }
}

/// An address in the subnet with this number at a host, or of an overlay, which is the place behind the last host.
pub fn subnet_of(place: usize, number: usize, family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, place as u8 + 1, number as u8, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, place as u16 + 1, number as u16, 0, 0, 0, 0, last.into()).into(),
    }
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// An address of the segment that hosts and client are on.
    fn outside(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    /// Of the containers' subnets.
    pub fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// The loopback address.
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The unspecified address.
    pub fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl Families {
    /// Whether this one is among them.
    pub fn has(self, family: Family) -> bool {
        !matches!((self, family), (Self::V4, Family::V6) | (Self::V6, Family::V4))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }
}

/// The address of a host's uplink.
pub fn uplink(host: usize, family: Family) -> IpAddr {
    family.outside(host as u8 + 1)
}

/// The outside client.
pub fn client(family: Family) -> IpAddr {
    family.outside(100)
}

impl Topology {
    /// The containers that are there, with their places.
    pub fn present(&self) -> impl Iterator<Item = (usize, &Container)> {
        self.containers.iter().enumerate().filter_map(|(slot, container)| Some((slot, container.as_ref()?)))
    }

    /// The container in this place.
    pub fn container(&self, slot: usize) -> Option<&Container> {
        self.containers.get(slot)?.as_ref()
    }

    /// The subnet of a network.
    pub fn subnet(&self, network: usize, family: Family) -> String {
        format!("{}/{}", self.networks[network].address(network, family, 0), family.prefix_length())
    }

    /// A network's gateway.
    pub fn gateway(&self, network: usize, family: Family) -> IpAddr {
        self.networks[network].address(network, family, 1)
    }

    /// A container's address in a network.
    pub fn address(&self, slot: usize, network: usize, family: Family) -> IpAddr {
        self.networks[network].address(network, family, slot as u8 + 10)
    }

    /// A container's MAC address in a network.
    pub fn mac(&self, slot: usize, network: usize) -> String {
        let IpAddr::V4(v4) = self.address(slot, network, Family::V4) else { return String::new() };
        let [a, b, c, d] = v4.octets();
        format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Whether an address exists in a family.
    pub fn has(&self, address: Address, family: Family) -> bool {
        match address {
            Address::Gateway(network) | Address::Container(_, network) => {
                self.networks[network].families.has(family)
            }
            Address::Client | Address::Uplink(_) | Address::Loopback => true,
        }
    }

    /// The network that leads these members to the world, and their ports to them: the first that does.
    pub fn default_network(&self, networks: &[usize]) -> Option<usize> {
        networks.iter().copied().find(|network| self.networks[*network].kind != NetworkKind::Internal)
    }

    /// The address that a container's published ports of a family lead to.
    pub fn published_address(&self, slot: usize, family: Family) -> Option<IpAddr> {
        let network = self.default_network(&self.container(slot)?.networks)?;
        self.networks[network].families.has(family).then(|| self.address(slot, network, family))
    }

    /// Whether members of these networks can publish this at all.
    pub fn leads_somewhere(&self, networks: &[usize], wanted: &Publication) -> bool {
        let Some(network) = self.default_network(networks) else { return false };
        let families = self.networks[network].families;
        // Without a host address: for each family that the container has.
        wanted.is_of_both() || wanted.families().all(|family| families.has(family))
    }

    /// Whether a container may publish this: it reaches the world, and nobody has these ports there.
    pub fn may_publish(&self, host: usize, networks: &[usize], wanted: &Publication) -> bool {
        self.leads_somewhere(networks, wanted)
            && !self.present().filter(|(_, container)| container.host == host).any(|(_, container)| {
                container.ports.iter().any(|held| {
                    let bindings = [held.binding, wanted.binding];
                    (bindings[0] == bindings[1] || bindings.contains(&Binding::Any))
                        && held.families().any(|family| wanted.families().any(|other| other == family))
                        && held.protocol == wanted.protocol
                        && held.host_port < wanted.host_port + wanted.count
                        && wanted.host_port < held.host_port + held.count
                })
            })
    }

    /// What a host's port leads to for a packet or call with this destination; a specific address wins.
    pub fn publication(
        &self,
        host: usize,
        binding: Binding,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> Option<(usize, &Publication)> {
        let find = |binding| {
            self.present().filter(|(_, container)| container.host == host).find_map(|(slot, container)| {
                let found = container.ports.iter().find(|held| {
                    held.binding == binding
                        && held.families().any(|it| it == family)
                        && held.protocol == protocol
                        && (held.host_port..held.host_port + held.count).contains(&port)
                })?;
                self.published_address(slot, family)?;
                Some((slot, found))
            })
        };
        find(binding).or_else(|| find(Binding::Any))
    }

    /// The container and port that a socket of this host reaches with a datagram, if it is led to one by a published port.
    pub fn led_to(&self, host: usize, family: Family, to: Target) -> Option<(usize, u16)> {
        let binding = match to.address {
            Address::Uplink(it) if it == host => Binding::Uplink,
            Address::Gateway(network) if self.networks[network].is_on(host) => Binding::Any,
            Address::Loopback => Binding::Loopback,
            _ => return None,
        };
        let (slot, found) = self.publication(host, binding, family, Protocol::Udp, to.port)?;
        Some((slot, found.behind(to.port)))
    }

    /// The same for a container's address, which needs no leading.
    pub fn served_by(&self, host: usize, family: Family, to: Target) -> Option<(usize, u16)> {
        let Address::Container(slot, _) = to.address else {
            return self.led_to(host, family, to);
        };
        Some((slot, to.port))
    }

    /// Makes a change; `false` if it makes no sense here.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Remove(slot) => self.containers.get_mut(*slot).and_then(Option::take).is_some(),
            Change::Add(slot, container) => {
                let free = self.containers.get(*slot).is_some_and(Option::is_none);
                let sensible = free
                    && container
                        .ports
                        .iter()
                        .all(|p| self.may_publish(container.host, &container.networks, p));
                if sensible {
                    self.containers[*slot] = Some(container.clone());
                }
                sensible
            }
            Change::Publish(slot, publication) => {
                let sensible = self
                    .container(*slot)
                    .is_some_and(|it| self.may_publish(it.host, &it.networks, publication));
                if let Some(Some(container)) = self.containers.get_mut(*slot).filter(|_| sensible) {
                    container.ports.push(*publication);
                }
                sensible
            }
            Change::Unpublish(slot, publication) => {
                let Some(Some(container)) = self.containers.get_mut(*slot) else { return false };
                let before = container.ports.len();
                container.ports.retain(|held| held != publication);
                container.ports.len() < before
            }
        }
    }

    /// The number that an address stands for.
    pub fn resolve(&self, address: Address, family: Family) -> IpAddr {
        match address {
            Address::Client => client(family),
            Address::Uplink(host) => uplink(host, family),
            Address::Loopback => family.loopback(),
            Address::Gateway(network) => self.gateway(network, family),
            Address::Container(slot, network) => self.address(slot, network, family),
        }
    }
}

impl Publication {
    /// Whether no host address is said, so that it is of both families.
    pub fn is_of_both(&self) -> bool {
        self.binding == Binding::Any && self.family.is_none()
    }

    /// The families of its host addresses.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let (both, one) = (self.is_of_both(), self.family.unwrap_or_default());
        Family::ALL.into_iter().filter(move |family| both || *family == one)
    }

    /// The container's port behind a host port.
    pub fn behind(&self, host_port: u16) -> u16 {
        host_port - self.host_port + self.container_port
    }
}

impl Protocol {
    /// As files and rules write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Action {
    /// Who acts.
    pub fn from(&self) -> Place {
        match self {
            Self::Tcp { from, .. } | Self::Udp { from, .. } | Self::Ping { from, .. } => *from,
        }
    }

    /// Of its addresses.
    pub fn family(&self) -> Family {
        match self {
            Self::Tcp { family, .. } | Self::Udp { family, .. } | Self::Ping { family, .. } => *family,
        }
    }

    /// The socket that it uses alone: two actions that bind the same port take turns.
    pub fn exclusive(&self) -> Option<(Place, u16)> {
        match self {
            Self::Udp { from, source: Some(port), .. } => Some((*from, *port)),
            _ => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        formatter.write_str(&text)
    }
}
