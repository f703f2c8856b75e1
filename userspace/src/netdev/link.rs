//! Links: what the kernel tells about a device.

use std::{net::IpAddr, time::Duration};

use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::{
    error::{Error, Result},
    handle::Netlink,
};
use crate::model::MacAddress;

/// A device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in its namespace.
    pub ifindex: u32,
    /// Name, unique in its namespace.
    pub name: String,
    /// Kind, with the settings of that kind that weft looks at.
    pub kind: LinkKind,
    /// `ip link … alias`: weft's mark of ownership.
    pub alias: Option<String>,
    /// Index of the bridge (or other device) this is a port of.
    pub master: Option<u32>,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// What its packets begin with.
    pub layer: LinkLayerType,
    /// Ethernet address, `None` for devices that have none.
    pub mac_address: Option<MacAddress>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier (`LOWER_UP`).
    pub carrier: bool,
    /// Largest IPv6 segment given to the device (`IFLA_GSO_MAX_SIZE`).
    pub gso_max_size: Option<u32>,
    /// Largest IPv4 segment given to the device (`IFLA_GSO_IPV4_MAX_SIZE`, Linux 6.3).
    pub gso_ipv4_max_size: Option<u32>,
    /// Settings as a port of a bridge.
    pub port: Option<PortFlags>,
}

/// The kind of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge(BridgeAttributes),
    /// One end of a veth pair, `None` if the kernel does not tell the other end.
    Veth(Option<VethPeer>),
    /// A VXLAN tunnel endpoint.
    Vxlan(VxlanAttributes),
    /// Another virtual kind by its name in `ip -d link`, empty for physical devices and loopback.
    Other(String),
}

impl LinkKind {
    /// The name that `ip -d link` prints.
    pub fn name(&self) -> &str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Veth(_) => "veth",
            Self::Vxlan(_) => "vxlan",
            Self::Other(name) if name.is_empty() => "physical or loopback",
            Self::Other(name) => name,
        }
    }
}

/// Settings of a bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeAttributes {
    /// Spanning tree protocol runs.
    pub spanning_tree: bool,
    /// IGMP and MLD snooping.
    pub multicast_snooping: bool,
    /// How long a new port listens and learns before it forwards.
    pub forward_delay: Duration,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VethPeer {
    /// Index in the other end's namespace.
    pub ifindex: u32,
    /// Number by which this namespace knows the other end's (see [`Netlink::namespace_id`]); `None`: the same one.
    pub namespace_id: Option<i32>,
}

/// Settings of a VXLAN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VxlanAttributes {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Own tunnel address.
    pub local: Option<IpAddr>,
    /// Learns remote addresses from traffic.
    pub learning: bool,
    /// Time to live of the outer header, 0: inherited.
    pub ttl: u8,
    /// Computes the outer UDP checksum over IPv4.
    pub udp_checksum: bool,
}

/// Settings of a bridge port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Learns source addresses.
    pub learning: bool,
    /// ARP and neighbour solicitations that the bridge can answer itself are not sent out here.
    pub neighbour_suppression: bool,
    /// Cannot talk to other isolated ports.
    pub isolated: bool,
    /// Frames may go back out of the port they came in.
    pub hairpin: bool,
}

impl Link {
    /// Whether its packets begin with an Ethernet header; loopback's do.
    pub fn is_ethernet(&self) -> bool {
        matches!(self.layer, LinkLayerType::Ether | LinkLayerType::Loopback)
    }

    /// Whether it is a loopback device.
    pub fn is_loopback(&self) -> bool {
        self.layer == LinkLayerType::Loopback
    }

    /// Neither marked nor up, as a device is between the request that makes it and the one that marks it.
    pub fn is_unmarked(&self) -> bool {
        self.alias.is_none() && !self.up
    }

    /// The device as ours, or the error that says whose it is not.
    pub(super) fn owned(&self, netlink: &Netlink, kind: &str, alias: &str) -> Result<()> {
        if self.kind.name() == kind && self.alias.as_deref() == Some(alias) {
            return Ok(());
        }
        let describe = |kind: &str, alias: Option<&str>| match alias {
            Some(alias) => format!("{kind} with alias \"{alias}\""),
            None => format!("{kind} without alias"),
        };
        Err(Error::NotOurs {
            device: self.name.clone(),
            namespace: netlink.namespace().into(),
            found: describe(self.kind.name(), self.alias.as_deref()),
            expected: describe(kind, Some(alias)),
        })
    }

    pub(super) fn parse(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            kind: LinkKind::Other(String::new()),
            alias: None,
            master: None,
            mtu: 0,
            layer: message.header.link_layer_type,
            mac_address: None,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            gso_max_size: None,
            gso_ipv4_max_size: None,
            port: None,
        };
        let (mut lower, mut namespace_id) = (None, None);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|alias| !alias.is_empty()),
                LinkAttribute::Controller(master) => link.master = Some(master).filter(|&master| master != 0),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => link.mac_address = bytes.try_into().ok().map(MacAddress),
                LinkAttribute::GsoMaxSize(size) => link.gso_max_size = Some(size),
                LinkAttribute::GsoIpv4MaxSize(size) => link.gso_ipv4_max_size = Some(size),
                LinkAttribute::Link(ifindex) => lower = Some(ifindex),
                LinkAttribute::LinkNetNsId(id) => namespace_id = Some(id),
                LinkAttribute::LinkInfo(info) => link.parse_info(info),
                _ => {}
            }
        }
        if let LinkKind::Veth(peer) = &mut link.kind {
            *peer = lower.filter(|&ifindex| ifindex != 0).map(|ifindex| VethPeer { ifindex, namespace_id });
        }
        link
    }

    fn parse_info(&mut self, info: Vec<LinkInfo>) {
        for item in info {
            match item {
                // The kernel puts the kind before its data; an empty bridge or vxlan is filled in by the data.
                LinkInfo::Kind(InfoKind::Bridge) => self.kind = LinkKind::Bridge(BridgeAttributes::default()),
                LinkInfo::Kind(InfoKind::Vxlan) => self.kind = LinkKind::Vxlan(VxlanAttributes::default()),
                LinkInfo::Kind(InfoKind::Veth) => self.kind = LinkKind::Veth(None),
                LinkInfo::Kind(kind) => self.kind = LinkKind::Other(kind.to_string()),
                LinkInfo::Data(InfoData::Bridge(data)) => self.kind = LinkKind::Bridge(parse_bridge(data)),
                LinkInfo::Data(InfoData::Vxlan(data)) => self.kind = LinkKind::Vxlan(parse_vxlan(data)),
                LinkInfo::PortData(InfoPortData::BridgePort(data)) => self.port = Some(parse_port(data)),
                _ => {}
            }
        }
    }
}

fn parse_bridge(data: Vec<InfoBridge>) -> BridgeAttributes {
    let mut bridge = BridgeAttributes::default();
    for item in data {
        match item {
            InfoBridge::StpState(state) => bridge.spanning_tree = state != BridgeStpState::Disabled,
            InfoBridge::MulticastSnooping(on) => bridge.multicast_snooping = on,
            // In hundredths of a second (USER_HZ).
            InfoBridge::ForwardDelay(ticks) => {
                bridge.forward_delay = Duration::from_millis(u64::from(ticks) * 10);
            }
            _ => {}
        }
    }
    bridge
}

fn parse_vxlan(data: Vec<InfoVxlan>) -> VxlanAttributes {
    let mut vxlan = VxlanAttributes::default();
    for item in data {
        match item {
            InfoVxlan::Id(vni) => vxlan.vni = vni,
            InfoVxlan::Port(port) => vxlan.port = port,
            InfoVxlan::Local(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Local6(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Learning(on) => vxlan.learning = on,
            InfoVxlan::Ttl(ttl) => vxlan.ttl = ttl,
            InfoVxlan::UDPCsum(on) => vxlan.udp_checksum = on,
            _ => {}
        }
    }
    vxlan
}

fn parse_port(data: Vec<InfoBridgePort>) -> PortFlags {
    let mut port = PortFlags::default();
    for item in data {
        match item {
            InfoBridgePort::Learning(on) => port.learning = on,
            InfoBridgePort::NeighSupress(on) => port.neighbour_suppression = on,
            InfoBridgePort::Isolated(on) => port.isolated = on,
            InfoBridgePort::HairpinMode(on) => port.hairpin = on,
            _ => {}
        }
    }
    port
}
