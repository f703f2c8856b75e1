//! Numbers, subnets and gateways of networks.

use ipnetwork::IpNetwork;

use super::{LeaseFacts, Leases, NetworkLease, subnets};
use crate::{
    model::{
        DesiredState, Driver, Family, Network, PerFamily,
        range::{default_gateway, overlap},
    },
    reconcile::{
        names,
        problem::Problem,
        resolved::{ResolvedNetwork, ResolvedState, ResolvedSubnet},
    },
};

pub(super) fn resolve(
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &mut ResolvedState,
) {
    // Subnets that the user wrote: what is leased from now on must keep out of their way.
    let given: Vec<IpNetwork> =
        desired.networks.values().flat_map(|network| &network.subnets).map(|subnet| subnet.range).collect();
    make_way(desired, leases, &given);
    // Containers talk with the addresses of a subnet leased earlier: such networks come first, so that a newcomer
    // whose subnet overlaps is the one to be refused.
    let keeps = |(name, network): &(&String, &Network)| {
        let lease = leases.networks.get(*name);
        Family::BOTH.into_iter().any(|family| {
            leases_subnet(network, family) && lease.is_some_and(|lease| lease.subnet_of(family).is_some())
        })
    };
    let (kept, others): (Vec<_>, Vec<_>) = desired.networks.iter().partition(keeps);
    for (name, network) in kept.into_iter().chain(others) {
        match resolve_one(name, network, desired, leases, facts, &*state, &given) {
            Ok(resolved) => {
                state.networks.insert(name.clone(), resolved);
            }
            Err(reason) => state.problems.push(Problem::new(format!("network {name}"), reason)),
        }
    }
}

/// Whether the network has this family and leaves the choice of the subnet to weft.
fn leases_subnet(network: &Network, family: Family) -> bool {
    network.has(family) && network.subnet(family).is_none()
}

/// Forgets leased subnets that no network uses, for it is gone or names a subnet itself now, where a declared network
/// names an overlapping one.
fn make_way(desired: &DesiredState, leases: &mut Leases, given: &[IpNetwork]) {
    for (name, lease) in &mut leases.networks {
        for family in Family::BOTH {
            let overlaps = |subnet: IpNetwork| given.iter().any(|other| overlap(*other, subnet));
            let uses = desired.networks.get(name).is_some_and(|network| leases_subnet(network, family));
            if !uses && lease.subnet_of(family).is_some_and(overlaps) {
                lease.forget_subnet(family);
            }
        }
    }
}

fn resolve_one(
    name: &str,
    network: &Network,
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &ResolvedState,
    given: &[IpNetwork],
) -> Result<ResolvedNetwork, String> {
    let number = number(name, leases);
    let mut subnets = PerFamily::default();
    for family in Family::BOTH.into_iter().filter(|family| network.has(*family)) {
        let declared = network.subnet(family);
        let range = match declared {
            Some(subnet) => free_of_others(subnet.range, state)?,
            None => leased_subnet(name, family, desired, leases, facts, given)?,
        };
        let gateway = declared.and_then(|subnet| subnet.gateway).unwrap_or_else(|| default_gateway(range));
        subnets.set(family, Some(ResolvedSubnet { range, gateway }));
    }
    Ok(ResolvedNetwork {
        number,
        driver: network.driver,
        subnets,
        policy: network.policy,
        mtu: network.mtu,
        bridge: network.bridge_name.clone().unwrap_or_else(|| names::bridge(name)),
        vxlan: matches!(network.driver, Driver::Overlay { .. }).then(|| names::vxlan(name)),
    })
}

/// A subnet that the user gave, if no network that is served has it.
fn free_of_others(subnet: IpNetwork, state: &ResolvedState) -> Result<IpNetwork, String> {
    let taken = state.networks.iter().find_map(|(other, network)| {
        let taken = network.subnets.iter().find(|taken| overlap(taken.range, subnet))?;
        Some((other, taken.range))
    });
    match taken {
        Some((other, taken)) => Err(format!(
            "its subnet {subnet} overlaps {taken}, which network {other} has; give it another subnet"
        )),
        None => Ok(subnet),
    }
}

fn number(name: &str, leases: &mut Leases) -> u32 {
    if let Some(lease) = leases.networks.get(name) {
        return lease.number;
    }
    let number = leases.next_network;
    leases.next_network += 1;
    leases.networks.insert(name.to_owned(), NetworkLease::new(number));
    number
}

fn leased_subnet(
    name: &str,
    family: Family,
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    given: &[IpNetwork],
) -> Result<IpNetwork, String> {
    let number = match leases.networks.get(name) {
        Some(lease) => match lease.subnet_of(family) {
            Some(kept) => return Ok(kept),
            None => lease.number,
        },
        None => 0,
    };
    loop {
        let leased = leases.networks.values().filter_map(|lease| lease.subnet_of(family));
        let taken: Vec<IpNetwork> =
            given.iter().copied().chain(facts.host_routes.iter().copied()).chain(leased).collect();
        let free = match family {
            Family::V4 => subnets::first_free(&taken).map(IpNetwork::V4),
            Family::V6 => subnets::first_free_v6(leases.seed, number, &taken).map(IpNetwork::V6),
        };
        if let Some(subnet) = free {
            if let Some(lease) = leases.networks.get_mut(name) {
                lease.choose_subnet(subnet);
            }
            return Ok(subnet);
        }
        // No pool is left: take back one that a network no longer declared still keeps.
        let gone = leases.networks.iter_mut().find(|(other, lease)| {
            !desired.networks.contains_key(*other) && lease.subnet_of(family).is_some()
        });
        match gone {
            Some((_, lease)) => lease.forget_subnet(family),
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
