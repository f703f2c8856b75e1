//! What each map must contain: a pure function of the resolved state and the kernel's devices.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;

use dataplane_common::abi::{
    Address, Device, DeviceRole, Endpoint, EndpointKey, MacAddress, Peer, Publication, PublicationKey,
    Remote, Settings, Subnet, SubnetKey, VxlanKey, flags,
};

use super::{
    facts::KernelFacts,
    names::stable_hash,
    pool::default_pool,
    resolved::{EndpointId, ResolvedEndpoint, ResolvedNetwork, ResolvedPublication, ResolvedState},
};
use crate::{
    dataplane::{Prefix, publication_prefixes},
    model,
    model::{Filtering, GatewayMode, PerFamily, PerProtocol, VXLAN_PORT},
};

use port_sets::published_ports;

pub use port_sets::PortSets;

/// Bits of an IPv4-mapped address before the IPv4 part.
const V4_MAPPED_BITS: u32 = 96;

/// Contents of all maps that the controller writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Map `devices`.
    pub devices: HashMap<u32, Device>,
    /// Map `endpoints`.
    pub endpoints: HashMap<EndpointKey, Endpoint>,
    /// Map `remotes`.
    pub remotes: HashMap<EndpointKey, Remote>,
    /// Map `peers`.
    pub peers: HashMap<u32, Peer>,
    /// Map `vxlan`.
    pub vxlan: HashMap<VxlanKey, u32>,
    /// Map `subnets`.
    pub subnets: HashMap<Prefix<SubnetKey>, Subnet>,
    /// Map `addresses`.
    pub addresses: HashMap<Address, u32>,
    /// Map `published`.
    pub published: HashMap<Prefix<PublicationKey>, Publication>,
    /// Map `port_sets`.
    pub port_sets: PortSets,
    /// Map `settings`.
    pub settings: Settings,
}

/// Makes the contents. `publications` are those of the state that no process of the host stands in the way of.
pub fn build(state: &ResolvedState, publications: &[&ResolvedPublication], facts: &KernelFacts) -> Tables {
    let published = PerProtocol::new(|protocol| published_ports(publications.iter().copied(), protocol));
    Tables {
        devices: devices(state, facts),
        endpoints: endpoints(state, facts),
        remotes: remotes(state),
        peers: peers(state, facts),
        vxlan: vxlan(state),
        subnets: subnets(state, facts),
        addresses: facts
            .addresses
            .iter()
            .map(|(address, ifindex)| (Address::from(*address), *ifindex))
            .collect(),
        published: publication_entries(publications.iter().copied()),
        port_sets: PortSets::new(published, state, facts),
        settings: settings(state, facts),
    }
}

/// An address that there may be none of.
fn or_none(address: Option<IpAddr>) -> Address {
    address.map_or(Address::UNSPECIFIED, Address::from)
}

fn mac(mac: model::MacAddress) -> MacAddress {
    MacAddress { octets: mac.0 }
}

fn network_flags(network: &ResolvedNetwork, facts: &KernelFacts) -> u32 {
    let policy = &network.policy;
    let modes = policy.gateway_modes;
    let is_unprotected = |mode| mode == Some(GatewayMode::NatUnprotected);
    // Unprotected and without masquerade the containers leave as they are known.
    let is_routed = |mode| mode == Some(GatewayMode::Routed) || is_unprotected(mode) && !policy.masquerade;
    let of_network: u32 = [
        (policy.internal, flags::INTERNAL),
        (policy.inter_container, flags::INTER_CONTAINER),
        (policy.masquerade, flags::MASQUERADE),
        (is_routed(modes.v4), flags::ROUTED),
        (is_routed(modes.v6), flags::ROUTED_V6),
        (is_unprotected(modes.v4), flags::UNPROTECTED),
        (is_unprotected(modes.v6), flags::UNPROTECTED_V6),
        (policy.is_isolated(), flags::ISOLATED),
        (network.vxlan.is_some(), flags::OVERLAY),
        (policy.filtering == Filtering::Address, flags::FILTER_ADDRESS_DEPENDENT),
        (policy.filtering == Filtering::EndpointIndependent, flags::FILTER_ENDPOINT_INDEPENDENT),
    ]
    .into_iter()
    .filter_map(|(set, flag)| set.then_some(flag))
    .sum();
    of_network | forwarding_flags(facts)
}

fn forwarding_flags(facts: &KernelFacts) -> u32 {
    let of = |on: bool, flag| if on { flag } else { 0 };
    of(facts.forwarding, flags::FORWARDING) | of(facts.forwarding_v6, flags::FORWARDING_V6)
}

fn endpoint_flags(endpoint: &ResolvedEndpoint, network: &ResolvedNetwork, facts: &KernelFacts) -> u32 {
    let published = if endpoint.published { flags::PUBLISHED } else { 0 };
    let gateway = if endpoint.default_route { flags::GATEWAY } else { 0 };
    network_flags(network, facts) | published | gateway
}

fn devices(state: &ResolvedState, facts: &KernelFacts) -> HashMap<u32, Device> {
    let mut devices = HashMap::new();
    for (name, network) in &state.networks {
        let of_network = |role, fact: &super::facts::DeviceFact| Device {
            role,
            flags: network_flags(network, facts),
            network: network.number,
            epoch: 0,
            container: 0,
            address: Address::UNSPECIFIED,
            gateway: or_none(network.subnets.v4.map(|subnet| subnet.gateway)),
            address_v6: Address::UNSPECIFIED,
            gateway_v6: or_none(network.subnets.v6.map(|subnet| subnet.gateway)),
            prefix_length: 0,
            prefix_length_v6: 0,
            mtu: fact.mtu,
            mac: mac(fact.mac),
            vxlan_port: 0,
            vni: network.vni().unwrap_or(0),
            uplink_mtu: 0,
        };
        let bridge = facts.bridges.get(name).map(|fact| (fact.ifindex, of_network(DeviceRole::BRIDGE, fact)));
        let vxlan = facts.vxlans.get(name).map(|fact| (fact.ifindex, of_network(DeviceRole::VXLAN, fact)));
        devices.extend(bridge.into_iter().chain(vxlan));
    }
    let overlays = has_overlays(state);
    for id in state.endpoints.keys() {
        devices.extend(container_device(id, state, facts, overlays));
    }
    for uplink in &facts.uplinks {
        let device = Device {
            role: DeviceRole::UPLINK,
            flags: forwarding_flags(facts),
            network: 0,
            epoch: 0,
            container: 0,
            address: or_none(uplink.addresses.v4),
            gateway: Address::UNSPECIFIED,
            address_v6: or_none(uplink.addresses.v6),
            gateway_v6: Address::UNSPECIFIED,
            prefix_length: 0,
            prefix_length_v6: 0,
            mtu: uplink.mtu,
            mac: mac(uplink.mac.unwrap_or(model::MacAddress([0; 6]))),
            vxlan_port: if overlays { vxlan_port(state) } else { 0 },
            vni: 0,
            uplink_mtu: 0,
        };
        devices.insert(uplink.ifindex, device);
    }
    devices
}

fn has_overlays(state: &ResolvedState) -> bool {
    state.networks.values().any(|network| network.vxlan.is_some())
}

/// The entry of a container's interface in `devices`, once it has its veth.
fn container_device(
    id: &EndpointId,
    state: &ResolvedState,
    facts: &KernelFacts,
    overlays: bool,
) -> Option<(u32, Device)> {
    let (endpoint, network) = (state.endpoints.get(id)?, state.networks.get(&id.network)?);
    let veth = facts.veths.get(id)?;
    let PerFamily { v4, v6 } = endpoint.addresses;
    let prefix_length = |address: Option<IpNetwork>| address.map_or(0, |address| address.prefix().into());
    let device = Device {
        role: DeviceRole::CONTAINER,
        flags: endpoint_flags(endpoint, network, facts),
        network: network.number,
        epoch: endpoint.epoch,
        container: container_number(id, state),
        address: or_none(v4.map(|address| address.ip())),
        gateway: or_none(network.subnets.v4.map(|subnet| subnet.gateway)),
        address_v6: or_none(v6.map(|address| address.ip())),
        gateway_v6: or_none(network.subnets.v6.map(|subnet| subnet.gateway)),
        prefix_length: prefix_length(v4),
        prefix_length_v6: prefix_length(v6),
        mtu: veth.mtu,
        mac: mac(endpoint.mac),
        vxlan_port: if overlays { vxlan_port(state) } else { 0 },
        vni: network.vni().unwrap_or(0),
        uplink_mtu: facts.uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(u32::MAX),
    };
    Some((veth.ifindex, device))
}

/// A number for the container as a whole: the smallest epoch of its interfaces, for no other container has that.
fn container_number(id: &EndpointId, state: &ResolvedState) -> u32 {
    state.of_container(&id.container).map(|(_, endpoint)| endpoint.epoch).min().unwrap_or(0)
}

/// The UDP port of VXLAN on this host.
pub fn vxlan_port(state: &ResolvedState) -> u16 {
    state.host.vxlan_port.unwrap_or(VXLAN_PORT)
}

fn endpoints(state: &ResolvedState, facts: &KernelFacts) -> HashMap<EndpointKey, Endpoint> {
    state.endpoints.keys().flat_map(|id| container_endpoints(id, state, facts)).collect()
}

/// The entries of a container's interface in `endpoints`, one for each address. Without veth, bridge and network nothing
/// could be delivered: the map holds what works.
fn container_endpoints(
    id: &EndpointId,
    state: &ResolvedState,
    facts: &KernelFacts,
) -> impl Iterator<Item = (EndpointKey, Endpoint)> {
    let entries = || {
        let (endpoint, network) = (state.endpoints.get(id)?, state.networks.get(&id.network)?);
        let (veth, bridge) = (facts.veths.get(id)?, facts.bridges.get(&id.network)?);
        let value = Endpoint {
            ifindex: veth.ifindex,
            epoch: endpoint.epoch,
            container: container_number(id, state),
            mac: mac(endpoint.mac),
            gateway_mac: mac(bridge.mac),
            flags: endpoint_flags(endpoint, network, facts)
                | if veth.takes_xdp && veth.mtu >= Endpoint::XDP_TARGET_MTU { flags::XDP_TARGET } else { 0 },
        };
        Some(endpoint_keys(endpoint).map(move |key| (key, value)))
    };
    entries().into_iter().flatten()
}

fn endpoint_keys(endpoint: &ResolvedEndpoint) -> impl Iterator<Item = EndpointKey> + use<> {
    let (network, PerFamily { v4, v6 }) = (endpoint.network_number, endpoint.addresses);
    v4.into_iter().chain(v6).map(move |address| EndpointKey { network, address: address.ip().into() })
}

fn remotes(state: &ResolvedState) -> HashMap<EndpointKey, Remote> {
    state
        .remotes
        .iter()
        .filter_map(|remote| {
            let key = EndpointKey { network: remote.network_number, address: remote.address.into() };
            let peer = state.peers.get(&remote.vtep)?.number;
            Some((key, Remote { peer, mac: mac(remote.mac), reserved: 0 }))
        })
        .collect()
}

fn peers(state: &ResolvedState, facts: &KernelFacts) -> HashMap<u32, Peer> {
    let Some(local) = facts.vtep else { return HashMap::new() };
    let mtu = |ifindex| {
        let uplink = facts.uplinks.iter().find(|uplink| uplink.ifindex == ifindex);
        uplink.map_or(0, |uplink| u16::try_from(uplink.mtu).unwrap_or(u16::MAX))
    };
    state
        .peers
        .iter()
        .filter_map(|(vtep, peer)| {
            let ifindex = *facts.peer_uplinks.get(vtep)?;
            let value = Peer {
                local: local.into(),
                remote: Address::from(*vtep),
                ifindex,
                port: vxlan_port(state),
                mtu: mtu(ifindex),
            };
            Some((peer.number, value))
        })
        .collect()
}

fn vxlan(state: &ResolvedState) -> HashMap<VxlanKey, u32> {
    let mut senders = HashMap::new();
    for network in state.networks.values() {
        if let Some(vni) = network.vni() {
            senders.insert(VxlanKey { vni, peer: Address::UNSPECIFIED }, network.number);
        }
    }
    for (vtep, peer) in &state.peers {
        for network in peer.networks.iter().filter_map(|name| state.networks.get(name)) {
            if let Some(vni) = network.vni() {
                senders.insert(VxlanKey { vni, peer: Address::from(*vtep) }, network.number);
            }
        }
    }
    senders
}

fn subnets(state: &ResolvedState, facts: &KernelFacts) -> HashMap<Prefix<SubnetKey>, Subnet> {
    state
        .networks
        .values()
        .flat_map(|network| network.subnets.iter().map(move |subnet| (network, subnet.range)))
        .map(|(network, range)| {
            let mapped = if range.is_ipv4() { V4_MAPPED_BITS } else { 0 };
            let bits = mapped + u32::from(range.prefix());
            let key = Prefix::new(bits, SubnetKey { address: range.network().into() });
            (key, Subnet { network: network.number, flags: network_flags(network, facts) })
        })
        .collect()
}

fn publication_entries<'a>(
    publications: impl IntoIterator<Item = &'a ResolvedPublication>,
) -> HashMap<Prefix<PublicationKey>, Publication> {
    let mut entries = HashMap::new();
    for publication in publications {
        let host_address = Address::from(publication.host_address);
        let value = Publication {
            address: publication.address.into(),
            network: publication.network_number,
            first_host_port: publication.host_ports.first,
            first_container_port: publication.container_ports.first,
            // Not its position: entries of the others must stay as they are when one comes or goes.
            publication: publication_number(publication),
        };
        for prefix in
            publication_prefixes(publication.protocol.number(), &host_address, publication.host_ports)
        {
            entries.insert(prefix, value);
        }
    }
    entries
}

/// Number of a publication in the map, for people who look for its entries: the same as long as the publication is.
pub fn publication_number(publication: &ResolvedPublication) -> u32 {
    (stable_hash(0, &[&publication.container, &publication.host_side()]) >> 32) as u32
}

fn settings(state: &ResolvedState, facts: &KernelFacts) -> Settings {
    let pool = state.host.masquerade_ports.unwrap_or_else(|| default_pool(facts.ephemeral));
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let timeouts = &state.host.timeouts;
    Settings {
        netns_cookie: facts.netns_cookie,
        udp_timeout_ns: nanoseconds(timeouts.udp),
        tcp_established_timeout_ns: nanoseconds(timeouts.tcp_established),
        tcp_opening_timeout_ns: nanoseconds(timeouts.tcp_opening),
        tcp_closing_timeout_ns: nanoseconds(timeouts.tcp_closing),
        icmp_query_timeout_ns: nanoseconds(timeouts.icmp_query),
        port_hold_ns: nanoseconds(timeouts.port_hold),
        first_port: pool.first,
        last_port: pool.last,
        waiting_room: facts.waiting_room.unwrap_or(0),
    }
}

pub mod difference;
mod port_sets;
#[cfg(test)]
mod tests;
