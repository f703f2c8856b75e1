//! Bridges and vxlan devices: the slow path of each network.

use std::net::{IpAddr, Ipv4Addr};

use dataplane_common::packet::{VXLAN_OVERHEAD, VXLAN_OVERHEAD_V6};
use ipnetwork::IpNetwork;

use super::{
    facts::UplinkFact,
    kernel::Kernel,
    leases::Leases,
    names::{self, Owner},
    problem::Problem,
    resolved::{EndpointId, ResolvedNetwork, ResolvedState, ResolvedSubnet},
    tables::vxlan_port,
};
use crate::{
    model::MacAddress,
    netdev::{self, BridgeSpec, DelaySpec, Link, LinkKind, Netlink, Outcome, VxlanSpec, sysctl},
};

/// MTU where no uplink gives one.
const DEFAULT_MTU: u32 = 1500;
/// Largest MTU of a bridge or veth (`ETH_MAX_MTU` of the kernel).
const LARGEST_MTU: u32 = 65_535;

/// MTU of a network's devices. `vtep`: where the host's tunnels begin.
pub fn mtu(network: &ResolvedNetwork, uplinks: &[UplinkFact], vtep: Option<IpAddr>) -> u32 {
    let uplink = uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(DEFAULT_MTU);
    let overhead = match (&network.vxlan, vtep) {
        (None, _) => 0,
        (Some(_), Some(IpAddr::V6(_))) => VXLAN_OVERHEAD_V6,
        (Some(_), _) => VXLAN_OVERHEAD,
    };
    // A loopback or tun uplink may have 65,536 bytes, which is more than a bridge can.
    network.mtu.unwrap_or(uplink.saturating_sub(overhead).min(LARGEST_MTU))
}

/// The bridge's MAC address, made from the gateway address: every host of an overlay has the same gateway, so that a
/// container that hears two answers to its ARP request has the right one either way.
pub fn bridge_mac(network: &ResolvedNetwork) -> MacAddress {
    // A network has at least one of the two.
    let gateway =
        network.subnets.iter().next().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |first| first.gateway);
    names::mac_of_address(gateway)
}

/// Makes what is missing and puts right what is not as it must be. Answers whether anything was changed.
pub async fn ensure(
    state: &ResolvedState,
    uplinks: &[UplinkFact],
    vtep: Option<IpAddr>,
    netlink: &Netlink,
    kernel: &Kernel,
    problems: &mut Vec<Problem>,
) -> bool {
    let mut changed = false;
    for (name, network) in &state.networks {
        match ensure_one(name, network, state, uplinks, vtep, netlink, kernel, problems).await {
            Ok(outcome) => changed |= outcome,
            Err(error) => problems.push(Problem::new(format!("network {name}"), error)),
        }
    }
    changed
}

#[expect(
    clippy::too_many_arguments,
    reason = "one network's share of the round; a struct would only rename them"
)]
async fn ensure_one(
    name: &str,
    network: &ResolvedNetwork,
    state: &ResolvedState,
    uplinks: &[UplinkFact],
    vtep: Option<IpAddr>,
    netlink: &Netlink,
    kernel: &Kernel,
    problems: &mut Vec<Problem>,
) -> netdev::Result<bool> {
    let mtu = mtu(network, uplinks, vtep);
    let spec = BridgeSpec {
        name: network.bridge.clone(),
        alias: names::network_alias(name),
        mac_address: bridge_mac(network),
        mtu,
    };
    let mut changed = false;
    let bridge = match kernel.link(&spec.name) {
        Some(link) if spec.is_satisfied_by(link) => link.ifindex,
        _ => {
            let ensured = netlink.ensure_bridge(&spec).await?;
            changed |= ensured.outcome != Outcome::Unchanged;
            ensured.ifindex
        }
    };
    if network.policy.is_isolated() {
        sysctl::ensure_no_ipv6(&spec.name)?;
    } else if network.subnets.v6.is_some() {
        sysctl::ensure_ipv6_of_bridge(&spec.name)?;
    }
    changed |= ensure_gateway(network, bridge, netlink, kernel).await?;
    // The client of a port that a member publishes may be another member. The answer is sent to the client's address,
    // which the sender takes for a neighbour's, and neither ARP nor neighbour discovery passes between members that may
    // not talk to one another. So the bridge answers, and what is no answer is dropped with a reason.
    sysctl::ensure_private_vlan(&spec.name, !network.policy.inter_container)?;
    if network.subnets.v6.is_some() && !network.policy.is_isolated() {
        sysctl::ensure_proxy_ndp(&spec.name, !network.policy.inter_container)?;
    }
    let (Some(device), Some(vni)) = (&network.vxlan, network.vni()) else { return Ok(changed) };
    let Some(local) = vtep else {
        problems.push(Problem::new(
            format!("network {name}"),
            "this host has no tunnel address: set x-weft.vtep, or give the uplink an address",
        ));
        return Ok(changed);
    };
    let spec = VxlanSpec {
        name: device.clone(),
        alias: names::network_alias(name),
        vni,
        port: vxlan_port(state),
        local,
        mtu,
        bridge,
        // Members that may not talk to one another may not do so across hosts either.
        isolated: !network.policy.inter_container,
    };
    if !kernel.link(device).is_some_and(|link| spec.is_satisfied_by(link)) {
        changed |= netlink.ensure_vxlan(&spec).await?.outcome != Outcome::Unchanged;
    }
    Ok(changed)
}

async fn ensure_gateway(
    network: &ResolvedNetwork,
    bridge: u32,
    netlink: &Netlink,
    kernel: &Kernel,
) -> netdev::Result<bool> {
    let wanted: Vec<IpNetwork> = match network.policy.is_isolated() {
        true => Vec::new(),
        false => network.subnets.iter().filter_map(ResolvedSubnet::gateway_in_range).collect(),
    };
    let present: Vec<IpNetwork> = kernel
        .addresses
        .iter()
        .filter(|address| address.ifindex == bridge && (address.address.is_ipv4() || address.global))
        .map(|address| address.address)
        .collect();
    let mut changed = false;
    for missing in wanted.iter().filter(|address| !present.contains(address)) {
        changed |= netlink.ensure_address(bridge, *missing).await?;
    }
    // A gateway that was configured before.
    for old in present.into_iter().filter(|address| !wanted.contains(address)) {
        changed |= netlink.remove_address(bridge, old).await?;
    }
    Ok(changed)
}

/// Devices of weft that nothing wants any more, ports of bridges first.
pub fn superfluous(state: &ResolvedState, kernel: &Kernel) -> Vec<Link> {
    let mut links: Vec<(&Link, bool)> = kernel
        .owned()
        .filter_map(|(link, owner)| match owner {
            Owner::Host => None,
            Owner::Network(name) => {
                let wanted = state.networks.get(&name).is_some_and(|network| {
                    link.name == network.bridge || network.vxlan.as_deref() == Some(&link.name)
                });
                (!wanted).then_some((link, true))
            }
            Owner::Endpoint { network, container } => {
                let endpoint = state.endpoints.get(&EndpointId { container, network });
                let wanted = endpoint
                    .is_some_and(|endpoint| endpoint.device == link.name && endpoint.namespace.is_some());
                (!wanted).then_some((link, false))
            }
        })
        .collect();
    links.sort_by_key(|(link, of_network)| (*of_network, link.ifindex));
    links.into_iter().map(|(link, _)| link.clone()).collect()
}

/// Devices that a daemon made and was killed before it marked them: of a name that it has used, and as the request that
/// makes them leaves them. The name alone does not do, since a user can give any name to a bridge.
pub fn unmarked<'a>(links: &'a [Link], leases: &Leases) -> Vec<&'a Link> {
    let is_of_waiting_room = |link: &Link| {
        [names::WAITING_ROOM, names::WAITING_ROOM_EXIT].contains(&link.name.as_str())
            && DelaySpec::is_as_made(link)
    };
    let is_name_of_ours = |link: &Link| leases.devices.contains(&link.name) || is_of_waiting_room(link);
    let as_made = |link: &Link| match &link.kind {
        LinkKind::Bridge(bridge) => {
            // Its address is made from the gateway's ([`bridge_mac`]); by default a bridge snoops.
            !bridge.multicast_snooping
                && link.mac_address.is_some_and(|mac| mac.0.starts_with(&names::MAC_PREFIX))
        }
        LinkKind::Vxlan(_) => link.name.starts_with(names::VXLAN_PREFIX),
        LinkKind::Veth(_) => link.name.starts_with(names::VETH_PREFIX) || is_of_waiting_room(link),
        LinkKind::Other(_) => false,
    };
    links.iter().filter(|link| link.is_unmarked() && is_name_of_ours(link) && as_made(link)).collect()
}

/// Removes devices.
pub async fn remove(links: &[Link], netlink: &Netlink, problems: &mut Vec<Problem>) {
    for link in links {
        let Some(alias) = &link.alias else { continue };
        if let Err(error) = netlink.remove_link(&link.name, alias).await {
            problems.push(Problem::new(format!("device {}", link.name), error));
        }
    }
}
