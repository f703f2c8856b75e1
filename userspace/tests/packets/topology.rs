//! The host that all tests are on: an uplink, three networks, some containers, a peer.

use std::net::Ipv4Addr;

use dataplane_common::abi::flags;

/// A network of weft.
#[derive(Debug)]
pub struct Network {
    pub number: u32,
    pub bridge: &'static str,
    pub gateway: Ipv4Addr,
    pub gateway_mac: [u8; 6],
    pub flags: u32,
    pub vni: u32,
}

/// A container on this host.
#[derive(Debug)]
pub struct Container {
    pub device: &'static str,
    pub network: &'static Network,
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
    pub epoch: u32,
    /// The same number for all interfaces of one container.
    pub container: u32,
}

const OPEN: u32 = flags::INTER_CONTAINER | flags::MASQUERADE | flags::FORWARDING;

/// An ordinary network, 10.10.0.0/24.
pub static FRONT: Network = Network {
    number: 1,
    bridge: "br-front",
    gateway: Ipv4Addr::new(10, 10, 0, 1),
    gateway_mac: [0x02, 0x42, 10, 10, 0, 1],
    flags: OPEN,
    vni: 0,
};
/// Another one, 10.11.0.0/24.
pub static BACK: Network = Network {
    number: 2,
    bridge: "br-back",
    gateway: Ipv4Addr::new(10, 11, 0, 1),
    gateway_mac: [0x02, 0x42, 10, 11, 0, 1],
    flags: OPEN,
    vni: 0,
};
/// An overlay network, 10.20.0.0/24.
pub static MESH: Network = Network {
    number: 3,
    bridge: "br-mesh",
    gateway: Ipv4Addr::new(10, 20, 0, 1),
    gateway_mac: [0x02, 0x42, 10, 20, 0, 1],
    flags: OPEN | flags::OVERLAY,
    vni: 4097,
};
pub static NETWORKS: [&Network; 3] = [&FRONT, &BACK, &MESH];

const fn container(device: &'static str, network: &'static Network, last: u8, epoch: u32) -> Container {
    let [a, b, c, _] = network.gateway.octets();
    Container {
        device,
        network,
        address: Ipv4Addr::new(a, b, c, last),
        mac: [0x02, 0x42, a, b, c, last],
        epoch,
        container: epoch,
    }
}

pub static A: Container = container("veth-a", &FRONT, 10, 100);
pub static B: Container = container("veth-b", &FRONT, 11, 101);
pub static C: Container = container("veth-c", &BACK, 10, 102);
pub static M: Container = container("veth-m", &MESH, 10, 103);
/// What `A` is, for a container that follows it.
pub const A_AGAIN: Container = container("veth-a", &FRONT, 10, 100);
/// What `B` is.
pub const B_AGAIN: Container = container("veth-b", &FRONT, 11, 101);
pub static CONTAINERS: [&Container; 4] = [&A, &B, &C, &M];

/// The device that leads to the world, and the router behind it.
pub const UPLINK: &str = "up0";
pub const UPLINK_MAC: [u8; 6] = [0x02, 0, 192, 0, 2, 1];
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 192, 0, 2, 254];
/// The uplink's address, that masqueraded traffic leaves with.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Another address of the host.
pub const HOST_2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Exists, but weft has no record of it.
pub const STRANGER: &str = "stranger";
/// The vxlan device of the overlay network is any device here: only its record counts.
pub const VXLAN: &str = "vx-mesh";

/// Somebody in the world, and somebody else.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const REMOTE_2: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Another host of the overlay, and a container on it.
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
pub const PEER_NUMBER: u32 = 7;
pub const PEER_MAC: [u8; 6] = [0x02, 0, 192, 0, 2, 20];
pub const VXLAN_PORT: u16 = 4789;
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 5);
pub const FAR_MAC: [u8; 6] = [0x02, 0x42, 10, 20, 0, 5];

/// The pool of external ports.
pub const FIRST_PORT: u16 = 20_000;
pub const LAST_PORT: u16 = 29_999;
