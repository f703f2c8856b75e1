//! What the kernel has: the part of it that map contents are made from.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::resolved::EndpointId;
use crate::{
    model::{MacAddress, PerFamily, PerProtocol, PortRange, Xdp},
    netdev::PortRanges,
};

/// A device that leads to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkFact {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address; none on tunnels.
    pub mac: Option<MacAddress>,
    /// Primary addresses; a family without one cannot be masqueraded there now.
    pub addresses: PerFamily<IpAddr>,
    /// What XDP does there.
    pub xdp: XdpFact,
}

/// Whether XDP serves an uplink, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XdpFact {
    /// What the files ask for.
    pub wanted: Xdp,
    /// It runs there, in the driver.
    pub native: bool,
    /// Why, or why not.
    pub reason: String,
}

/// A device of weft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFact {
    /// Index.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: MacAddress,
    /// The host side of a veth whose container takes what XDP sends there.
    pub takes_xdp: bool,
}

/// Everything outside the resolved state that the maps depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// Devices that lead to the world.
    pub uplinks: Vec<UplinkFact>,
    /// Bridges by network.
    pub bridges: BTreeMap<String, DeviceFact>,
    /// Vxlan devices by network.
    pub vxlans: BTreeMap<String, DeviceFact>,
    /// Host sides of the containers' veth pairs.
    pub veths: BTreeMap<EndpointId, DeviceFact>,
    /// This host's own addresses and the devices they are on, loopback's left out.
    pub addresses: HashMap<IpAddr, u32>,
    /// The uplinks towards the peers.
    pub peer_uplinks: BTreeMap<IpAddr, u32>,
    /// Where fragments wait that come before the first of their datagram.
    pub waiting_room: Option<u32>,
    /// Own tunnel address.
    pub vtep: Option<IpAddr>,
    /// `net.ipv4.ip_forward`.
    pub forwarding: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwarding_v6: bool,
    /// Ports that sockets of this host hold.
    pub bound: PerProtocol<PortRanges>,
    /// `net.ipv4.ip_local_reserved_ports` without weft's own part.
    pub reserved: PortRanges,
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: PortRange,
    /// Cookie of the own network namespace.
    pub netns_cookie: u64,
}

impl Default for KernelFacts {
    fn default() -> Self {
        Self {
            uplinks: Vec::new(),
            bridges: BTreeMap::new(),
            vxlans: BTreeMap::new(),
            veths: BTreeMap::new(),
            addresses: HashMap::new(),
            peer_uplinks: BTreeMap::new(),
            waiting_room: None,
            vtep: None,
            forwarding: false,
            forwarding_v6: false,
            bound: PerProtocol::default(),
            reserved: PortRanges::default(),
            // The kernel's default.
            ephemeral: PortRange { first: 32768, last: 60999 },
            netns_cookie: 0,
        }
    }
}
