//! What the host of the tests has of IPv6, beside its IPv4.

use std::{fs, net::Ipv6Addr};

use aya::maps::lpm_trie::Key;
use dataplane_common::abi::{Address, EndpointKey, MacAddress, Publication, Subnet, SubnetKey, map};
use weft::{dataplane::publication_prefixes, model::PortRange};

use crate::{
    Result,
    harness::Sizes,
    host::{Host, shown, with_sizes},
    namespace,
    topology::{self, Container, NETWORKS, PEER_MAC, ROUTER_MAC, UPLINK},
};

/// A container, with its IPv6 address.
#[derive(Debug)]
pub struct Member {
    pub container: &'static Container,
    pub address: Ipv6Addr,
}

impl Member {
    pub fn mac(&self) -> [u8; 6] {
        self.container.mac
    }

    pub fn gateway_mac(&self) -> [u8; 6] {
        self.container.network.gateway_mac
    }

    /// Its link-local address.
    pub fn link_local(&self) -> Ipv6Addr {
        Address::link_local(&MacAddress { octets: self.mac() }).octets.into()
    }
}

const fn member(container: &'static Container, network: u16, last: u16) -> Member {
    Member { container, address: Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, last) }
}

/// fd00:1::/64, fd00:2::/64 and fd00:3::/64: the networks' numbers.
pub static A: Member = member(&topology::A, 1, 0x10);
pub static B: Member = member(&topology::B, 1, 0x11);
pub static C: Member = member(&topology::C, 2, 0x10);
pub static M: Member = member(&topology::M, 3, 0x10);
static MEMBERS: [&Member; 4] = [&A, &B, &C, &M];

/// The gateway of a network.
pub const fn gateway(network: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, network as u16, 0, 0, 0, 0, 0, 1)
}

/// The uplink's address, its router, and somebody in the world.
pub const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
pub const REMOTE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 7);
pub const REMOTE_2: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 9);

/// A host of the overlay that is reached by IPv6, and a container on it.
pub const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20);
pub const PEER_NUMBER: u32 = 8;
pub const FAR: Ipv6Addr = Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 5);
pub const FAR_MAC: [u8; 6] = [0x02, 0x42, 10, 20, 0, 6];

pub fn key(address: Ipv6Addr) -> Address {
    Address { octets: address.octets() }
}

/// Runs a test on a host of its own that has both families.
pub fn with_host(test: impl FnOnce(&mut Host) -> Result + Send) -> Result {
    with(&[], test)
}

/// The same, with maps of these sizes.
pub fn with(sizes: Sizes<'_>, test: impl FnOnce(&mut Host) -> Result + Send) -> Result {
    with_sizes(sizes, |host| {
        add_ipv6(host)?;
        test(host)
    })
}

fn add_ipv6(host: &mut Host) -> Result {
    namespace::ip(&format!(
        "addr add {HOST}/64 dev {UPLINK} nodad\nroute add default via {ROUTER} dev {UPLINK}\n\
         neigh add {ROUTER} lladdr {} dev {UPLINK} nud permanent\nneigh add {PEER} lladdr {} dev {UPLINK} nud permanent\n",
        shown(ROUTER_MAC),
        shown(PEER_MAC),
    ))?;
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    for network in NETWORKS {
        let subnet = SubnetKey { address: key(Ipv6Addr::from(gateway(network.number).to_bits() - 1)) };
        let value = Subnet { network: network.number, flags: network.flags };
        host.programs.trie(map::SUBNETS)?.insert(&Key::new(64, subnet), value, 0)?;
        host.add_address_v6(gateway(network.number), network.bridge)?;
        host.change_device(network.bridge, |device| device.gateway_v6 = key(gateway(network.number)))?;
    }
    host.add_address_v6(HOST, UPLINK)?;
    host.change_device(UPLINK, |device| {
        device.address_v6 = key(HOST);
        device.flags |= dataplane_common::abi::flags::FORWARDING_V6;
    })?;
    for member in MEMBERS {
        let container = member.container;
        let network = container.network.number;
        host.change_device(container.device, |device| {
            device.address_v6 = key(member.address);
            device.gateway_v6 = key(gateway(network));
            device.prefix_length_v6 = 64;
            device.flags |= dataplane_common::abi::flags::FORWARDING_V6;
        })?;
        let v4 = EndpointKey { network, address: crate::host::address(container.address) };
        let mut endpoints = host.programs.hash(map::ENDPOINTS)?;
        let mut endpoint: dataplane_common::abi::Endpoint = endpoints.get(&v4, 0)?;
        endpoint.flags |= dataplane_common::abi::flags::FORWARDING_V6;
        endpoints.insert(EndpointKey { network, address: key(member.address) }, endpoint, 0)?;
    }
    host.add_peer(PEER_NUMBER, [HOST, PEER].map(key), (key(FAR), FAR_MAC))
}

/// Publishes a port on every IPv6 address of the host.
pub fn publish(host: &mut Host, protocol: u8, port: u16, to: (&Member, u16)) -> Result {
    let value = Publication {
        address: key(to.0.address),
        network: to.0.container.network.number,
        first_host_port: port,
        first_container_port: to.1,
        publication: 0,
    };
    for prefix in publication_prefixes(protocol, &Address::UNSPECIFIED, PortRange::single(port)) {
        let key = Key::new(prefix.bits(), *prefix.key());
        host.programs.trie(map::PUBLISHED)?.insert(&key, value, 0)?;
    }
    host.reserve(dataplane_common::abi::PortSet::published(protocol), [port])?;
    host.change_flags(to.0.container.device, 0, dataplane_common::abi::flags::PUBLISHED)
}
