//! Peers and the containers behind them.

use super::Leases;
use crate::{
    model::DesiredState,
    reconcile::{
        problem::Problem,
        resolved::{ResolvedPeer, ResolvedRemote, ResolvedState},
    },
};

pub(super) fn resolve(desired: &DesiredState, leases: &mut Leases, state: &mut ResolvedState) {
    for peer in &desired.peers {
        let object = || format!("peer {} of network {}", peer.vtep, peer.network);
        let Some(network) = state.networks.get(&peer.network) else {
            // The network itself has its own problem, or is not declared here.
            state.problems.push(Problem::new(object(), "this network is not served on this host"));
            continue;
        };
        if network.vxlan.is_none() {
            state.problems.push(Problem::new(object(), "only networks with 'driver: overlay' have peers"));
            continue;
        }
        let number = *leases.peers.entry(peer.vtep).or_insert_with(|| {
            leases.next_peer += 1;
            leases.next_peer - 1
        });
        state
            .peers
            .entry(peer.vtep)
            .or_insert_with(|| ResolvedPeer { number, networks: Default::default() })
            .networks
            .insert(peer.network.clone());
        for remote in &peer.endpoints {
            state.remotes.push(ResolvedRemote {
                name: remote.name.clone(),
                network: peer.network.clone(),
                network_number: network.number,
                address: remote.address,
                mac: remote.mac_address,
                vtep: peer.vtep,
            });
        }
    }
}
