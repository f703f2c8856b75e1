//! Forwarding and neighbour entries of the vxlan devices: what the slow path needs to know about other hosts.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{kernel::Kernel, problem::Problem, resolved::ResolvedState};
use crate::{
    model::MacAddress,
    netdev::{self, Netlink},
};

/// Entries of one overlay network.
#[derive(Debug, Default)]
struct Wanted {
    floods: HashSet<IpAddr>,
    forwarding: HashMap<MacAddress, IpAddr>,
    neighbours: HashMap<IpAddr, MacAddress>,
}

/// Makes the entries of all overlay networks what they must be.
pub async fn ensure(state: &ResolvedState, netlink: &Netlink, kernel: &Kernel, problems: &mut Vec<Problem>) {
    if state.networks.values().all(|network| network.vxlan.is_none()) {
        return;
    }
    if let Err(error) = apply(state, netlink, kernel).await {
        problems.push(Problem::new("overlay forwarding entries", error));
    }
}

async fn apply(state: &ResolvedState, netlink: &Netlink, kernel: &Kernel) -> netdev::Result<()> {
    let neighbours = netlink.neighbours().await?;
    for (name, network) in &state.networks {
        let Some(vxlan) = network.vxlan.as_ref().and_then(|device| kernel.link(device)) else { continue };
        let Some(bridge) = kernel.link(&network.bridge) else { continue };
        let wanted = wanted(name, state);
        let forwarding = netlink.forwarding_entries(Some(vxlan.ifindex)).await?;

        let own: Vec<_> = forwarding
            .iter()
            .filter(|entry| entry.ifindex == vxlan.ifindex && entry.bridge.is_none())
            .collect();
        let floods: HashSet<IpAddr> = own
            .iter()
            .filter(|entry| entry.mac_address == MacAddress([0; 6]))
            .filter_map(|entry| entry.destination)
            .collect();
        for peer in wanted.floods.difference(&floods) {
            netlink.ensure_vxlan_flood(vxlan.ifindex, *peer).await?;
        }
        for peer in floods.difference(&wanted.floods) {
            netlink.remove_vxlan_flood(vxlan.ifindex, *peer).await?;
        }

        let in_bridge: HashSet<MacAddress> = forwarding
            .iter()
            .filter(|entry| entry.ifindex == vxlan.ifindex && entry.bridge.is_some() && entry.permanent)
            .map(|entry| entry.mac_address)
            .collect();
        let present: HashMap<MacAddress, Option<IpAddr>> = own
            .iter()
            .filter(|entry| entry.mac_address != MacAddress([0; 6]))
            .map(|entry| (entry.mac_address, entry.destination))
            .collect();
        for (mac, peer) in &wanted.forwarding {
            if present.get(mac) != Some(&Some(*peer)) || !in_bridge.contains(mac) {
                netlink.ensure_vxlan_forwarding(vxlan.ifindex, *mac, *peer).await?;
            }
        }
        for mac in present.keys().filter(|mac| !wanted.forwarding.contains_key(*mac)) {
            netlink.remove_vxlan_forwarding(vxlan.ifindex, *mac).await?;
        }

        let present: HashMap<IpAddr, Option<MacAddress>> = neighbours
            .iter()
            .filter(|entry| entry.ifindex == bridge.ifindex && entry.permanent)
            .filter(|entry| network.subnet.contains_address(entry.address))
            .map(|entry| (entry.address, entry.mac_address))
            .collect();
        for (address, mac) in &wanted.neighbours {
            if present.get(address) != Some(&Some(*mac)) {
                netlink.ensure_neighbour(bridge.ifindex, *address, *mac).await?;
            }
        }
        for address in present.keys().filter(|address| !wanted.neighbours.contains_key(*address)) {
            netlink.remove_neighbour(bridge.ifindex, *address).await?;
        }
    }
    Ok(())
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
        wanted.neighbours.insert(IpAddr::V4(remote.address), remote.mac);
    }
    wanted
}

trait ContainsAddress {
    fn contains_address(&self, address: IpAddr) -> bool;
}

impl ContainsAddress for ipnetwork::Ipv4Network {
    fn contains_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.contains(address),
            IpAddr::V6(_) => false,
        }
    }
}
