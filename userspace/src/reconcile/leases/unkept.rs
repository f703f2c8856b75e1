//! When leases cannot be kept (the disk is full, or read-only): what depends on a choice that is not on the disk waits,
//! everything else goes on.
//!
//! A choice that is in use but not kept would be made anew after a restart, and might be given to somebody else.

use std::collections::HashSet;

use super::Leases;
use crate::{
    model::Family,
    reconcile::{
        problem::Problem,
        resolved::{EndpointId, ResolvedPublication, ResolvedState},
    },
};

/// Takes out of a state what rests on choices of `leases` that are not in `kept`, each with its problem. What `earlier`
/// has of it stays as it is there, if that was kept.
pub fn withhold(
    state: &mut ResolvedState,
    leases: &Leases,
    kept: &Leases,
    earlier: &ResolvedState,
    problems: &mut Vec<Problem>,
) {
    let mut waits = |object: String| {
        problems.push(Problem::new(object, "it needs a new lease, and waits until leases can be kept again"));
    };
    state.networks.retain(|name, network| {
        let is_kept = kept.networks.get(name).is_some_and(|lease| lease.number == network.number)
            && network.subnets.iter().all(|subnet| {
                let family = Family::of(subnet.gateway);
                let leased =
                    |leases: &Leases| leases.networks.get(name).and_then(|lease| lease.subnet_of(family));
                // One that the user wrote needs no lease.
                leased(leases) != Some(subnet.range) || leased(kept) == Some(subnet.range)
            });
        if !is_kept {
            waits(format!("network {name}"));
        }
        is_kept
    });
    state.peers.retain(|vtep, peer| {
        let is_kept = kept.peers.get(vtep) == Some(&peer.number);
        if !is_kept {
            waits(format!("peer {vtep}"));
        }
        is_kept
    });
    let (networks, peers) = (&state.networks, &state.peers);
    state.remotes.retain(|remote| networks.contains_key(&remote.network) && peers.contains_key(&remote.vtep));

    let lease = |leases: &Leases, id: &EndpointId| {
        let lease = leases.endpoint(id)?;
        Some((lease.addresses(), lease.mac, lease.epoch, lease.namespace_cookie))
    };
    let mut others = Vec::new();
    state.endpoints.retain(|id, _| {
        if !networks.contains_key(&id.network) {
            return false;
        }
        if lease(kept, id) == lease(leases, id) {
            return true;
        }
        waits(format!("container {} in network {}", id.container, id.network));
        let before = earlier.endpoints.get(id).filter(|before| kept.has(id, before));
        others.extend(before.map(|before| (id.clone(), before.clone())));
        false
    });
    state.endpoints.extend(others);

    // Host ports that were chosen just now; the key ends with the protocol.
    let new: HashSet<(&str, u16, bool)> = leases
        .ports
        .iter()
        .filter(|(key, port)| kept.ports.get(*key) != Some(port))
        .filter_map(|(key, port)| Some((key.split_once(' ')?.0, *port, key.ends_with("/udp"))))
        .collect();
    let endpoints = &state.endpoints;
    state.publications.retain(|publication| {
        let is_udp = publication.protocol == crate::model::Protocol::Udp;
        let chosen = new.contains(&(publication.container.as_str(), publication.host_ports.first, is_udp));
        if chosen {
            waits(format!("port {} of container {}", publication.host_side(), publication.container));
        }
        let reachable = |publication: &ResolvedPublication| {
            endpoints
                .get(&publication.endpoint)
                .is_some_and(|to| to.addresses.iter().any(|address| address.ip() == publication.address))
        };
        !chosen && reachable(publication)
    });
}
