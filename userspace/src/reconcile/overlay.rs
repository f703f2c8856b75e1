//! Forwarding and neighbour entries of the vxlan devices: what the slow path needs to know about other hosts.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{kernel::Kernel, problem::Problem, resolved::ResolvedState};
use crate::{
    model::MacAddress,
    netdev::{self, ForwardingEntry, Netlink},
};

/// Entries of one overlay network.
#[derive(Debug, Default)]
struct Wanted {
    floods: HashSet<IpAddr>,
    forwarding: HashMap<MacAddress, IpAddr>,
    neighbours: HashMap<IpAddr, MacAddress>,
}

/// Makes the entries of all overlay networks what they must be. One that cannot be made is a problem of its own: the
/// others are made all the same.
pub async fn ensure(state: &ResolvedState, netlink: &Netlink, kernel: &Kernel, problems: &mut Vec<Problem>) {
    if state.networks.values().all(|network| network.vxlan.is_none()) {
        return;
    }
    let neighbours = match netlink.neighbours().await {
        Ok(neighbours) => neighbours,
        Err(error) => return problems.push(Problem::new("overlay forwarding entries", error)),
    };
    for (name, network) in &state.networks {
        let Some(vxlan) = network.vxlan.as_ref().and_then(|device| kernel.link(device)) else { continue };
        let Some(bridge) = kernel.link(&network.bridge) else { continue };
        let mut note = |result: netdev::Result<()>| {
            if let Err(error) = result {
                problems.push(Problem::new(format!("forwarding entries of network {name}"), error));
            }
        };
        let wanted = wanted(name, state);
        match netlink.forwarding_entries(vxlan.ifindex).await {
            Ok(forwarding) => {
                ensure_forwarding(vxlan.ifindex, &wanted, &forwarding, netlink, &mut note).await
            }
            Err(error) => note(Err(error)),
        }
        let present: HashMap<IpAddr, Option<MacAddress>> = neighbours
            .iter()
            .filter(|entry| entry.ifindex == bridge.ifindex && entry.permanent)
            .filter(|entry| network.contains(entry.address))
            .map(|entry| (entry.address, entry.mac_address))
            .collect();
        for (address, mac) in &wanted.neighbours {
            if present.get(address) != Some(&Some(*mac)) {
                note(netlink.ensure_neighbour(bridge.ifindex, *address, *mac).await);
            }
        }
        for address in present.keys().filter(|address| !wanted.neighbours.contains_key(*address)) {
            note(netlink.remove_neighbour(bridge.ifindex, *address).await.map(drop));
        }
    }
}

/// Entries of one vxlan device: where to send what is for all, and what is for one MAC address.
async fn ensure_forwarding(
    vxlan: u32,
    wanted: &Wanted,
    forwarding: &[ForwardingEntry],
    netlink: &Netlink,
    note: &mut impl FnMut(netdev::Result<()>),
) {
    let own: Vec<_> =
        forwarding.iter().filter(|entry| entry.ifindex == vxlan && entry.bridge.is_none()).collect();
    let floods: HashSet<IpAddr> = own
        .iter()
        .filter(|entry| entry.mac_address == MacAddress([0; 6]))
        .filter_map(|entry| entry.destination)
        .collect();
    for peer in wanted.floods.difference(&floods) {
        note(netlink.ensure_vxlan_flood(vxlan, *peer).await);
    }
    for peer in floods.difference(&wanted.floods) {
        note(netlink.remove_vxlan_flood(vxlan, *peer).await);
    }

    let in_bridge: HashSet<MacAddress> = forwarding
        .iter()
        .filter(|entry| entry.ifindex == vxlan && entry.bridge.is_some() && entry.permanent)
        .map(|entry| entry.mac_address)
        .collect();
    let present: HashMap<MacAddress, Option<IpAddr>> = own
        .iter()
        .filter(|entry| entry.mac_address != MacAddress([0; 6]))
        .map(|entry| (entry.mac_address, entry.destination))
        .collect();
    for (mac, peer) in &wanted.forwarding {
        if present.get(mac) != Some(&Some(*peer)) || !in_bridge.contains(mac) {
            note(netlink.ensure_vxlan_forwarding(vxlan, *mac, *peer).await);
        }
    }
    for mac in present.keys().filter(|mac| !wanted.forwarding.contains_key(*mac)) {
        note(netlink.remove_vxlan_forwarding(vxlan, *mac).await.map(drop));
    }
}

/// Leaves out peers that are this host itself, named in a file that all hosts share or by mistake: what is sent to them
/// would come back, and what the host sends to itself would pass for a peer's.
pub fn leave_out_own(
    state: &mut ResolvedState,
    vtep: Option<IpAddr>,
    kernel: &Kernel,
    problems: &mut Vec<Problem>,
) {
    let is_own = |address: &IpAddr| {
        vtep == Some(*address) || kernel.addresses.iter().any(|own| own.address.ip() == *address)
    };
    let own: HashSet<IpAddr> = state.peers.keys().copied().filter(is_own).collect();
    for vtep in &own {
        state.peers.remove(vtep);
        problems.push(Problem::new(
            format!("peer {vtep}"),
            "this is an address of this host itself: the peer and its containers are ignored here. Name the other \
             host's address, or leave the entry out of this host's files",
        ));
    }
    state.remotes.retain(|remote| !own.contains(&remote.vtep));
}

fn wanted(name: &str, state: &ResolvedState) -> Wanted {
    let mut wanted = Wanted::default();
    for (vtep, peer) in &state.peers {
        if peer.networks.contains(name) {
            wanted.floods.insert(*vtep);
        }
    }
    for remote in state.remotes.iter().filter(|remote| remote.network == name) {
        wanted.forwarding.insert(remote.mac, remote.vtep);
        wanted.neighbours.insert(remote.address, remote.mac);
    }
    wanted
}
