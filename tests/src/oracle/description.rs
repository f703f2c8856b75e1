//! What a case is: networks, containers and published ports, and what is done with them. Pure data, which prints as JSON
//! and replays from it.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::family::{Families, Family, subnet_of};

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
    pub fn address(&self, number: usize, family: Family, last: u8) -> IpAddr {
        let place = if self.kind == NetworkKind::Overlay { HOSTS } else { self.host };
        subnet_of(place, number, family, last)
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
