//! Published ports: which interface they lead to and which host ports they have.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{LeaseFacts, Leases, ports::Claims};
use crate::{
    model::{
        BeforePort, ContainerNamespace, DesiredState, Family, HostPorts, PortRange, Protocol, Publication,
    },
    reconcile::{
        names,
        problem::Problem,
        resolved::{ResolvedEndpoint, ResolvedPublication, ResolvedState},
    },
};

pub(super) fn resolve(
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &mut ResolvedState,
) {
    let mut claims = Claims::default();
    let all = || {
        desired.containers.iter().flat_map(|(name, container)| {
            container.publications.iter().map(move |publication| (name, publication))
        })
    };
    // Ports that the user wrote first, so that a chosen one never stands in their way.
    for open in [false, true] {
        for (container, publication) in all() {
            if matches!(publication.host_ports, HostPorts::Exactly(_)) == open {
                continue;
            }
            match resolve_one(container, publication, desired, leases, facts, state, &mut claims) {
                Ok(resolved) => enter(resolved, state),
                Err(reason) => {
                    let object = format!("port {} of container {container}", describe(publication));
                    state.problems.push(Problem::new(object, reason));
                }
            }
        }
    }
    state.publications.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut kept = BTreeMap::new();
    std::mem::swap(&mut kept, &mut leases.ports);
    // A declared container's ports stay; those of one that is gone are free for others.
    leases.ports = kept
        .into_iter()
        .filter(|(key, _)| {
            key.split_once(' ').is_some_and(|(container, _)| desired.containers.contains_key(container))
        })
        .collect();
}

/// Enters what became of one publication.
pub(super) fn enter(resolved: Vec<ResolvedPublication>, state: &mut ResolvedState) {
    for publication in resolved {
        if let Some(endpoint) = state.endpoints.get_mut(&publication.endpoint) {
            endpoint.published = true;
        }
        state.publications.push(publication);
    }
}

/// What publications are ordered by.
pub(super) fn order(publication: &ResolvedPublication) -> (&str, Protocol, PortRange, IpAddr) {
    (&publication.container, publication.protocol, publication.host_ports, publication.host_address)
}

/// One for each family that it is published in.
pub(super) fn resolve_one(
    container: &str,
    publication: &Publication,
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &ResolvedState,
    claims: &mut Claims,
) -> Result<Vec<ResolvedPublication>, String> {
    let owner = stack_owner(container, desired)?;
    let (endpoint, resolved) = state.of_container(owner).find(|(_, endpoint)| endpoint.default_route).ok_or(
        "the container is in no network that reaches the world: an internal network publishes nothing",
    )?;
    let network = desired.networks.get(&endpoint.network);
    let host_binding = network.and_then(|network| network.host_binding);
    let host_address = publication.host_address.or(host_binding);
    let is_routed = |family| network.is_some_and(|network| network.policy.is_routed(family));
    let (routed, targets): (Vec<_>, Vec<_>) = targets(host_address, resolved)?
        .into_iter()
        .partition(|(_, address)| is_routed(Family::of(*address)));
    let protocol = publication.protocol;
    let entry = |host_address, address, host_ports| ResolvedPublication {
        container: container.to_owned(),
        endpoint: endpoint.clone(),
        network_number: resolved.network_number,
        address,
        protocol,
        host_address,
        host_ports,
        container_ports: publication.container_ports,
    };
    if let (Some(address), false) = (host_address, routed.is_empty()) {
        return Err(format!(
            "host address {address} means nothing in a routed network, where the world reaches the container's own: \
             leave it out"
        ));
    }
    // The world reaches the container's own port, whatever host port is given.
    let routed: Vec<_> =
        routed.into_iter().map(|(_, address)| entry(address, address, publication.container_ports)).collect();
    if targets.is_empty() {
        return Ok(routed);
    }
    let host_ports = match publication.host_ports {
        HostPorts::Exactly(ports) => ports,
        HostPorts::OneOf(_) | HostPorts::Any => {
            let range = match publication.host_ports {
                HostPorts::OneOf(range) => range,
                _ => facts.ephemeral_ports,
            };
            let key = format!("{container} {}", describe(publication));
            let spread = match publication.host_ports {
                // As Docker: the first free one of a range, any one of the ephemeral range.
                HostPorts::OneOf(_) => 0,
                _ => names::stable_hash(leases.seed, &[&key]),
            };
            let kept = leases.ports.get(&key).copied();
            let port = claims.choose(facts, protocol, range, kept, spread).ok_or_else(|| {
                format!(
                    "every {protocol} port of {range} is published already or held by a process of this host"
                )
            })?;
            leases.ports.insert(key, port);
            PortRange::single(port)
        }
    };
    for (host_address, _) in &targets {
        if let Some((other, ports)) = claims.conflict(protocol, *host_address, host_ports) {
            return Err(format!("container {other} already publishes {ports}/{protocol} there"));
        }
    }
    let publications = targets.into_iter().map(|(host_address, address)| {
        claims.add(protocol, host_address, host_ports, container);
        entry(host_address, address, host_ports)
    });
    Ok(publications.chain(routed).collect())
}

/// Host addresses with the container's address that each leads to. There is no translation between the families.
fn targets(
    host_address: Option<IpAddr>,
    endpoint: &ResolvedEndpoint,
) -> Result<Vec<(IpAddr, IpAddr)>, String> {
    let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let host_addresses = host_address.map_or(both.to_vec(), |address| vec![address]);
    let targets: Vec<(IpAddr, IpAddr)> = host_addresses
        .into_iter()
        .filter_map(|host| Some((host, endpoint.addresses.of(Family::of(host))?.ip())))
        .collect();
    match host_address {
        Some(address) if targets.is_empty() => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            Err(format!("host address {address} leads nowhere: the container has no {family} address"))
        }
        _ => Ok(targets),
    }
}

/// The container whose interfaces this one uses (`network_mode: service:NAME`).
fn stack_owner<'a>(container: &'a str, desired: &'a DesiredState) -> Result<&'a str, String> {
    let mut owner = container;
    // A chain longer than there are containers is a circle.
    for _ in 0..=desired.containers.len() {
        match desired.containers.get(owner).map(|found| &found.namespace) {
            Some(ContainerNamespace::SharedWith(other)) => owner = other,
            Some(ContainerNamespace::Host) => {
                return Err(
                    "it uses the host's own network, where its ports are open by themselves".to_owned()
                );
            }
            Some(_) => return Ok(owner),
            None => return Err(format!("it shares the network of {owner}, which is not declared")),
        }
    }
    Err("its 'network_mode' leads in a circle".to_owned())
}

/// The publication as the user writes it; also the key of its lease.
fn describe(publication: &Publication) -> String {
    let ports = match publication.host_ports {
        HostPorts::Exactly(ports) | HostPorts::OneOf(ports) => format!("{ports}:"),
        HostPorts::Any => String::new(),
    };
    let address =
        publication.host_address.map_or_else(String::new, |address| format!("{}:", BeforePort(address)));
    format!("{address}{ports}{}/{}", publication.container_ports, publication.protocol)
}
