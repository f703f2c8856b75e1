//! The host of `topology` with its maps filled, and what tests change and ask of it.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use aya::maps::lpm_trie::Key;
use dataplane_common::abi::{
    Address, Device, DeviceRole, Endpoint, EndpointKey, Flow, Index, MacAddress, Mapping, MappingKey, Peer,
    PortSet, Publication, PublicationKey, Remote, Settings, Subnet, SubnetKey, Tuple, VxlanKey, flags, map,
    program,
};
use nix::net::if_::if_nametoindex;
use weft::{dataplane::publication_prefixes, model::PortRange};

use crate::{
    Result,
    frames::{Frame, Socket},
    harness::{Programs, Run, Sizes},
    namespace,
    outcome::Outcome,
    topology::{
        CONTAINERS, Container, FAR, FAR_MAC, FIRST_PORT, HOST, HOST_2, LAST_PORT, MESH, NETWORKS, PEER,
        PEER_MAC, PEER_NUMBER, ROUTER_MAC, STRANGER, UPLINK, UPLINK_MAC, VXLAN, VXLAN_PORT,
    },
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const SCTP: u8 = 132;
const SECOND: u64 = 1_000_000_000;

/// A host of one test.
pub struct Host {
    pub programs: Programs,
}

/// Runs a test on a host of its own.
pub fn with_host(test: impl FnOnce(&mut Host) -> Result + Send) -> Result {
    with_sizes(&[], test)
}

/// The same, with maps of these sizes.
pub fn with_sizes(sizes: Sizes<'_>, test: impl FnOnce(&mut Host) -> Result + Send) -> Result {
    namespace::in_namespace(|| test(&mut Host::new(sizes)?))
}

pub fn address(address: Ipv4Addr) -> Address {
    Address::from(std::net::IpAddr::V4(address))
}

fn mac(octets: [u8; 6]) -> MacAddress {
    MacAddress { octets }
}

pub fn shown(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

impl Host {
    fn new(sizes: Sizes<'_>) -> Result<Self> {
        let mut lines = format!(
            "link add {UPLINK} address {0} type veth peer name router address {1}\n\
             addr add {HOST}/24 dev {UPLINK}\naddr add {HOST_2}/24 dev {UPLINK}\n\
             link set {UPLINK} up\nlink set router up\nlink set lo up\n\
             route add default via 192.0.2.254 dev {UPLINK}\n\
             neigh add 192.0.2.254 lladdr {1} dev {UPLINK} nud permanent\n\
             neigh add {PEER} lladdr {2} dev {UPLINK} nud permanent\n\
             link add {STRANGER} type veth peer name {VXLAN}\nlink set {VXLAN} up\n",
            shown(UPLINK_MAC),
            shown(ROUTER_MAC),
            shown(PEER_MAC)
        );
        for network in NETWORKS {
            lines += &format!(
                "link add {0} address {1} type bridge\naddr add {2}/24 dev {0}\nlink set {0} up\n",
                network.bridge,
                shown(network.gateway_mac),
                network.gateway
            );
        }
        for container in CONTAINERS {
            let device = container.device;
            lines += &format!(
                "link add {device} type veth peer name in-{device} address {}\n\
                 link set {device} master {} up\nlink set in-{device} up\n",
                shown(container.mac),
                container.network.bridge
            );
        }
        namespace::ip(&lines)?;
        namespace::set_forwarding(true)?;
        let mut host = Self { programs: Programs::new(sizes)? };
        host.fill()?;
        Ok(host)
    }

    fn fill(&mut self) -> Result {
        for network in NETWORKS {
            let [a, b, c, _] = network.gateway.octets();
            let subnet = SubnetKey { address: address(Ipv4Addr::new(a, b, c, 0)) };
            let value = Subnet { network: network.number, flags: network.flags };
            self.programs.trie(map::SUBNETS)?.insert(&Key::new(96 + 24, subnet), value, 0)?;
            self.add_address(network.gateway, network.bridge)?;
            let (number, flags) = (network.number, network.flags);
            let bridge = Device { role: DeviceRole::BRIDGE, flags, network: number, ..EMPTY };
            self.set_device(network.bridge, bridge)?;
        }
        for container in CONTAINERS {
            self.add_container(container)?;
        }
        let uplink = Device {
            role: DeviceRole::UPLINK,
            flags: flags::FORWARDING,
            address: address(HOST),
            vxlan_port: VXLAN_PORT,
            ..EMPTY
        };
        self.set_device(UPLINK, uplink)?;
        self.set_device(VXLAN, Device { role: DeviceRole::VXLAN, network: MESH.number, ..EMPTY })?;
        self.add_address(HOST, UPLINK)?;
        self.add_address(HOST_2, UPLINK)?;

        let ours = VxlanKey { vni: MESH.vni, peer: Address::UNSPECIFIED };
        self.programs.hash(map::VXLAN)?.insert(ours, MESH.number, 0)?;
        self.add_peer(PEER_NUMBER, [HOST, PEER].map(address), (address(FAR), FAR_MAC))?;

        let settings = Settings {
            netns_cookie: 0,
            udp_timeout_ns: 300 * SECOND,
            tcp_established_timeout_ns: 7440 * SECOND,
            tcp_opening_timeout_ns: 230 * SECOND,
            tcp_closing_timeout_ns: 240 * SECOND,
            icmp_query_timeout_ns: 60 * SECOND,
            port_hold_ns: 120 * SECOND,
            first_port: FIRST_PORT,
            last_port: LAST_PORT,
            waiting_room: 0,
        };
        Ok(self.programs.array(map::SETTINGS)?.set(0, settings, 0)?)
    }

    // What a test changes.

    /// Enters a container, or enters it anew with another epoch.
    pub fn add_container(&mut self, container: &Container) -> Result {
        let network = container.network;
        let endpoint = Endpoint {
            ifindex: if_nametoindex(container.device)?,
            epoch: container.epoch,
            container: container.container,
            mac: mac(container.mac),
            gateway_mac: mac(network.gateway_mac),
            flags: network.flags,
        };
        self.programs.hash(map::ENDPOINTS)?.insert(endpoint_key(container), endpoint, 0)?;
        let device = Device {
            role: DeviceRole::CONTAINER,
            flags: network.flags,
            network: network.number,
            epoch: container.epoch,
            container: container.container,
            address: address(container.address),
            gateway: address(network.gateway),
            prefix_length: 24,
            mac: mac(container.mac),
            vni: network.vni,
            ..EMPTY
        };
        self.set_device(container.device, device)
    }

    pub fn remove_endpoint(&mut self, container: &Container) -> Result {
        let key = endpoint_key(container);
        Ok(self.programs.hash::<_, Endpoint>(map::ENDPOINTS)?.remove(&key)?)
    }

    pub fn change_endpoint(&mut self, container: &Container, change: impl FnOnce(&mut Endpoint)) -> Result {
        let key = endpoint_key(container);
        let mut endpoint = self.programs.hash(map::ENDPOINTS)?.get(&key, 0)?;
        change(&mut endpoint);
        Ok(self.programs.hash(map::ENDPOINTS)?.insert(key, endpoint, 0)?)
    }

    pub fn set_device(&mut self, name: &str, device: Device) -> Result {
        Ok(self.programs.hash(map::DEVICES)?.insert(if_nametoindex(name)?, device, 0)?)
    }

    pub fn remove_device(&mut self, name: &str) -> Result {
        Ok(self.programs.hash::<_, Device>(map::DEVICES)?.remove(&if_nametoindex(name)?)?)
    }

    pub fn change_device(&mut self, name: &str, change: impl FnOnce(&mut Device)) -> Result {
        let mut device = self.programs.hash(map::DEVICES)?.get(&if_nametoindex(name)?, 0)?;
        change(&mut device);
        self.set_device(name, device)
    }

    /// Takes flags from a device and gives it others.
    pub fn change_flags(&mut self, name: &str, clear: u32, set: u32) -> Result {
        self.change_device(name, |device| device.flags = device.flags & !clear | set)
    }

    /// As switching forwarding on or off on the host, for what comes in to a container.
    pub fn change_forwarding(&mut self, container: &Container, clear: u32, set: u32) -> Result {
        self.change_flags(UPLINK, clear, set)?;
        self.change_endpoint(container, |endpoint| endpoint.flags = endpoint.flags & !clear | set)
    }

    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result {
        let mut map = self.programs.array(map::SETTINGS)?;
        let mut settings = map.get(&0, 0)?;
        change(&mut settings);
        Ok(map.set(0, settings, 0)?)
    }

    pub fn add_address(&mut self, host: Ipv4Addr, device: &str) -> Result {
        Ok(self.programs.hash(map::ADDRESSES)?.insert(address(host), if_nametoindex(device)?, 0)?)
    }

    pub fn add_address_v6(&mut self, host: std::net::Ipv6Addr, device: &str) -> Result {
        let key = Address::from(std::net::IpAddr::V6(host));
        Ok(self.programs.hash(map::ADDRESSES)?.insert(key, if_nametoindex(device)?, 0)?)
    }

    pub fn remove_address(&mut self, host: Ipv4Addr) -> Result {
        Ok(self.programs.hash::<_, u32>(map::ADDRESSES)?.remove(&address(host))?)
    }

    /// Enters a peer of the overlay network, reached from the one address at the other, with a container on it.
    pub fn add_peer(
        &mut self,
        number: u32,
        [local, remote]: [Address; 2],
        far: (Address, [u8; 6]),
    ) -> Result {
        let ifindex = if_nametoindex(UPLINK)?;
        let peer = Peer { local, remote, ifindex, port: VXLAN_PORT, mtu: 1500 };
        self.programs.hash(map::PEERS)?.insert(number, peer, 0)?;
        let endpoint = EndpointKey { network: MESH.number, address: far.0 };
        let container = Remote { peer: number, mac: mac(far.1), reserved: 0 };
        self.programs.hash(map::REMOTES)?.insert(endpoint, container, 0)?;
        let sender = VxlanKey { vni: MESH.vni, peer: remote };
        Ok(self.programs.hash(map::VXLAN)?.insert(sender, MESH.number, 0)?)
    }

    /// Publishes a port on one host address, or on all of them.
    pub fn publish(
        &mut self,
        protocol: u8,
        on: Option<Ipv4Addr>,
        port: u16,
        to: (&Container, u16),
    ) -> Result {
        self.publish_range(protocol, on, PortRange::single(port), to)
    }

    pub fn publish_range(
        &mut self,
        protocol: u8,
        on: Option<Ipv4Addr>,
        ports: PortRange,
        (container, container_port): (&Container, u16),
    ) -> Result {
        let value = Publication {
            address: address(container.address),
            network: container.network.number,
            first_host_port: ports.first,
            first_container_port: container_port,
            publication: 0,
        };
        let host = on.map_or(Address::V4_UNSPECIFIED, address);
        for prefix in publication_prefixes(protocol, &host, ports) {
            let key = Key::new(prefix.bits(), *prefix.key());
            self.programs.trie(map::PUBLISHED)?.insert(&key, value, 0)?;
        }
        self.reserve(PortSet::published(protocol), ports.first..=ports.last)?;
        self.change_flags(container.device, 0, flags::PUBLISHED)
    }

    /// Takes a single published port back.
    pub fn unpublish(&mut self, protocol: u8, on: Option<Ipv4Addr>, port: u16) -> Result {
        let host = on.map_or(Address::V4_UNSPECIFIED, address);
        let key = Key::new(PublicationKey::BITS, PublicationKey::new(protocol, &host, port));
        Ok(self.programs.trie::<_, Publication>(map::PUBLISHED)?.remove(&key)?)
    }

    /// Enters ports into a set: out of the pool, or published.
    pub fn reserve(&mut self, set: u32, ports: impl IntoIterator<Item = u16>) -> Result {
        let mut map = self.programs.array::<PortSet>(map::PORT_SETS)?;
        for port in ports {
            let index = PortSet::index(set, port);
            let word = map.get(&index, 0)?;
            map.set(index, PortSet { bits: word.bits | 1 << (port % 64) }, 0)?;
        }
        Ok(())
    }

    // What a test runs.

    /// A frame that a container sends.
    pub fn container_sends(&mut self, container: &Container, frame: &Frame) -> Result<Outcome> {
        self.container_sends_bytes(container, &frame.bytes())
    }

    pub fn container_sends_bytes(&mut self, container: &Container, frame: &[u8]) -> Result<Outcome> {
        self.programs.run(program::FROM_CONTAINER, frame, container.device)?.outcome()
    }

    /// A frame that the world sends.
    pub fn world_sends(&mut self, frame: &Frame) -> Result<Outcome> {
        self.world_sends_bytes(&frame.bytes())
    }

    pub fn world_sends_bytes(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.programs.run(program::FROM_UPLINK, frame, UPLINK)?.outcome()
    }

    /// A frame that the stack or bridge delivers to a container.
    pub fn delivery<'a>(&'a mut self, container: &Container, frame: &'a [u8]) -> Result<Run<'a>> {
        self.programs.run(program::TO_CONTAINER, frame, container.device)
    }

    /// A frame that leaves through the uplink.
    pub fn leave(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.programs.run(program::TO_UPLINK, frame, UPLINK)?.outcome()
    }

    /// One round of expiry; how many index entries it removed.
    pub fn expire(&mut self) -> Result<u32> {
        self.programs.run(program::EXPIRE_FLOWS, &[0; 14], UPLINK)?.value()
    }

    /// The same after flows had to be refused: no port is held.
    pub fn expire_held_ports(&mut self) -> Result<u32> {
        let frame = [0; 14];
        self.programs.run(program::EXPIRE_FLOWS, &frame, UPLINK)?.mark(program::EXPIRE_HELD_PORTS).value()
    }

    // What a test looks at.

    pub fn confirmed(&mut self) -> Result<HashMap<Tuple, Flow>> {
        Ok(self.programs.hash(map::FLOWS)?.iter().collect::<std::result::Result<_, _>>()?)
    }

    pub fn unconfirmed(&mut self) -> Result<HashMap<Tuple, Flow>> {
        Ok(self.programs.hash(map::UNCONFIRMED)?.iter().collect::<std::result::Result<_, _>>()?)
    }

    pub fn ports(&mut self) -> Result<HashMap<Tuple, Index>> {
        Ok(self.programs.hash(map::PORTS)?.iter().collect::<std::result::Result<_, _>>()?)
    }

    pub fn mappings(&mut self) -> Result<HashMap<MappingKey, Mapping>> {
        Ok(self.programs.hash(map::MAPPINGS)?.iter().collect::<std::result::Result<_, _>>()?)
    }

    /// How many flows use the mapping of a container's port.
    pub fn mapping_users(&mut self, protocol: u8, (internal, port): Socket) -> Result<u32> {
        let key =
            MappingKey { internal: address(internal), external: address(HOST), port, protocol, reserved: 0 };
        Ok(self.programs.hash::<_, Mapping>(map::MAPPINGS)?.get(&key, 0)?.flows)
    }

    /// Records in all the maps that flows fill.
    pub fn is_empty(&mut self) -> Result<bool> {
        Ok(self.confirmed()?.is_empty()
            && self.unconfirmed()?.is_empty()
            && self.ports()?.is_empty()
            && self.mappings()?.is_empty())
    }

    /// Makes all flows that much older, instead of waiting. (The programs compute with wrapping times.)
    pub fn age_flows(&mut self, by: Duration) -> Result {
        for name in [map::FLOWS, map::UNCONFIRMED] {
            let mut map = self.programs.hash::<Tuple, Flow>(name)?;
            let flows: Vec<_> = map.iter().collect::<std::result::Result<_, _>>()?;
            for (key, flow) in flows {
                let last_seen_ns = flow.last_seen_ns.wrapping_sub(by.as_nanos() as u64);
                map.insert(key, Flow { last_seen_ns, ..flow }, 0)?;
            }
        }
        Ok(())
    }

    /// The same for mappings.
    pub fn age_mappings(&mut self, by: Duration) -> Result {
        let mut map = self.programs.hash::<MappingKey, Mapping>(map::MAPPINGS)?;
        let mappings: Vec<_> = map.iter().collect::<std::result::Result<_, _>>()?;
        for (key, mapping) in mappings {
            let last_used_ns = mapping.last_used_ns.wrapping_sub(by.as_nanos() as u64);
            map.insert(key, Mapping { last_used_ns, ..mapping }, 0)?;
        }
        Ok(())
    }

    /// Loses all unconfirmed records, as pressure on their table does.
    pub fn evict_unconfirmed(&mut self) -> Result {
        let keys: Vec<Tuple> = self.unconfirmed()?.into_keys().collect();
        let mut map = self.programs.hash::<Tuple, Flow>(map::UNCONFIRMED)?;
        keys.iter().try_for_each(|key| Ok(map.remove(key)?))
    }
}

fn endpoint_key(container: &Container) -> EndpointKey {
    EndpointKey { network: container.network.number, address: address(container.address) }
}

/// A device that is nothing yet.
const EMPTY: Device = Device {
    role: 0,
    flags: 0,
    network: 0,
    epoch: 0,
    container: 0,
    address: Address::UNSPECIFIED,
    gateway: Address::UNSPECIFIED,
    address_v6: Address::UNSPECIFIED,
    gateway_v6: Address::UNSPECIFIED,
    prefix_length: 0,
    prefix_length_v6: 0,
    mtu: 1500,
    mac: MacAddress { octets: [0; 6] },
    vxlan_port: 0,
    vni: 0,
    uplink_mtu: 1500,
};
