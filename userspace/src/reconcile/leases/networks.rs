//! Numbers, subnets and gateways of networks.

use ipnetwork::{IpNetwork, Ipv4Network};

use super::{LeaseFacts, Leases, NetworkLease, subnets};
use crate::{
    model::{DesiredState, Driver, Network},
    reconcile::{
        names,
        problem::Problem,
        resolved::{ResolvedNetwork, ResolvedState},
    },
};

pub(super) fn resolve(
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &mut ResolvedState,
) {
    // Subnets that the user wrote: what is leased from now on must keep out of their way.
    let given: Vec<Ipv4Network> = desired.networks.values().filter_map(given_subnet).collect();
    make_way(desired, leases, &given);
    // Containers talk with the addresses of a subnet leased earlier: such networks come first, so that a newcomer
    // whose subnet overlaps is the one to be refused.
    let keeps = |(name, network): &(&String, &Network)| {
        given_subnet(network).is_none()
            && leases.networks.get(*name).is_some_and(|lease| lease.subnet.is_some())
    };
    let (kept, others): (Vec<_>, Vec<_>) = desired.networks.iter().partition(keeps);
    for (name, network) in kept.into_iter().chain(others) {
        match resolve_one(name, network, desired, leases, facts, state, &given) {
            Ok(resolved) => {
                state.networks.insert(name.clone(), resolved);
            }
            Err(reason) => state.problems.push(Problem::new(format!("network {name}"), reason)),
        }
    }
}

fn given_subnet(network: &Network) -> Option<Ipv4Network> {
    network.subnets.iter().find_map(|subnet| match subnet.range {
        IpNetwork::V4(range) => Some(range),
        IpNetwork::V6(_) => None,
    })
}

/// Forgets leased subnets that no network uses, for it is gone or names a subnet itself now, where a declared network
/// names an overlapping one.
fn make_way(desired: &DesiredState, leases: &mut Leases, given: &[Ipv4Network]) {
    for (name, lease) in &mut leases.networks {
        let overlaps = |subnet: Ipv4Network| given.iter().any(|other| other.overlaps(subnet));
        let uses = desired.networks.get(name).is_some_and(|network| given_subnet(network).is_none());
        if !uses && lease.subnet.is_some_and(overlaps) {
            lease.subnet = None;
        }
    }
}

fn resolve_one(
    name: &str,
    network: &Network,
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &mut ResolvedState,
    given: &[Ipv4Network],
) -> Result<ResolvedNetwork, String> {
    let number = number(name, leases);
    if network.subnets.iter().any(|subnet| subnet.range.is_ipv6()) {
        state.problems.push(Problem::new(
            format!("network {name}"),
            "its IPv6 subnet is not served: this version carries IPv4 only",
        ));
    }
    let subnet = match given_subnet(network) {
        Some(subnet) => {
            if let Some((other, taken)) =
                state.networks.iter().find(|(_, other)| other.subnet.overlaps(subnet))
            {
                return Err(format!(
                    "its subnet {subnet} overlaps {}, which network {other} has; give it another subnet",
                    taken.subnet
                ));
            }
            subnet
        }
        None => leased_subnet(name, desired, leases, facts, given)?,
    };
    let gateway = network
        .subnets
        .iter()
        .find(|candidate| candidate.range == IpNetwork::V4(subnet))
        .and_then(|candidate| match candidate.gateway {
            Some(std::net::IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        })
        .unwrap_or_else(|| subnets::default_gateway(subnet));
    Ok(ResolvedNetwork {
        number,
        driver: network.driver,
        subnet,
        gateway,
        internal: network.internal,
        inter_container: network.inter_container,
        masquerade: network.masquerade,
        filtering: network.filtering,
        mtu: network.mtu,
        bridge: network.bridge_name.clone().unwrap_or_else(|| names::bridge(name)),
        vxlan: matches!(network.driver, Driver::Overlay { .. }).then(|| names::vxlan(name)),
    })
}

fn number(name: &str, leases: &mut Leases) -> u32 {
    if let Some(lease) = leases.networks.get(name) {
        return lease.number;
    }
    let number = leases.next_network;
    leases.next_network += 1;
    leases
        .networks
        .insert(name.to_owned(), NetworkLease { number, subnet: None, last_address: None, gone_since: None });
    number
}

fn leased_subnet(
    name: &str,
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    given: &[Ipv4Network],
) -> Result<Ipv4Network, String> {
    if let Some(kept) = leases.networks.get(name).and_then(|lease| lease.subnet) {
        return Ok(kept);
    }
    loop {
        let leased = leases.networks.values().filter_map(|lease| lease.subnet);
        let taken: Vec<Ipv4Network> =
            given.iter().copied().chain(facts.host_routes.iter().copied()).chain(leased).collect();
        if let Some(subnet) = subnets::first_free(&taken) {
            if let Some(lease) = leases.networks.get_mut(name) {
                lease.subnet = Some(subnet);
            }
            return Ok(subnet);
        }
        // No pool is left: take back one that a network no longer declared still keeps.
        let gone = leases
            .networks
            .iter_mut()
            .find(|(other, lease)| !desired.networks.contains_key(*other) && lease.subnet.is_some());
        match gone {
            Some((_, lease)) => lease.subnet = None,
            None => {
                return Err(
                    "no private subnet is left that neither another network nor a route of this host uses; \
                     give it one under ipam.config"
                        .to_owned(),
                );
            }
        }
    }
}
