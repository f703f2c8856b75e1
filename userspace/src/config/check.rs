//! What must hold between networks, services and peers: one holder for each address, port, name and namespace.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    error::{Position, Report, quote},
    host::HostDraft,
    merge::{Holders, Networks},
    ports::PortSpec,
    services::{ServiceDraft, Shared},
};
use crate::model::{ContainerNamespace, Driver, Family, Protocol, VXLAN_PORT};

/// Checks everything against everything and notes what clashes.
pub(super) fn check(
    networks: &Networks,
    services: &BTreeMap<String, ServiceDraft>,
    host: &HostDraft,
    report: &mut Report,
) {
    subnets(networks, report);
    network_holders(networks, host, report);
    members(services, host, report);
    namespaces(services, report);
    published(networks, services, host, report);
    tunnels(host, report);
}

/// A host has one tunnel address, so all its peers have that one's family.
fn tunnels(host: &HostDraft, report: &mut Report) {
    let own = host.settings.vtep.zip(host.vtep_at);
    let Some((first, at)) = own.or_else(|| host.peers.first().map(|peer| (peer.peer.vtep, peer.vtep_at)))
    else {
        return;
    };
    for peer in &host.peers {
        let vtep = peer.peer.vtep;
        if host.settings.vtep == Some(vtep) {
            report.add(peer.vtep_at, format!("{vtep} is this host's own vtep"));
        } else if Family::of(vtep) != Family::of(first) {
            let place = report.place(at);
            report.add(
                peer.vtep_at,
                format!("{vtep} is not of the family of {first} at {place}: all tunnels of a host have one"),
            );
        }
    }
}

fn subnets(networks: &Networks, report: &mut Report) {
    // Addresses of both families in one order, IPv4 first: ranges of different families never overlap.
    let mut ranges: Vec<_> = networks
        .drafts
        .iter()
        .flat_map(|(name, draft)| {
            draft.subnets.iter().map(move |(range, at)| (range.network(), *range, *at, name))
        })
        .collect();
    ranges.sort();
    // The range that reaches furthest so far: whatever begins before its end overlaps it.
    let mut furthest: Option<(ipnetwork::IpNetwork, Position, &String)> = None;
    for (first, range, at, name) in ranges {
        if let Some((other, other_at, other_name)) = furthest
            && first <= other.broadcast()
        {
            // The complaint stands at the later one in the files.
            let ((at, range), (other_at, other, other_name)) = if at > other_at {
                ((at, range), (other_at, other, other_name))
            } else {
                ((other_at, other), (at, range, name))
            };
            let place = report.place(other_at);
            report.add(
                at,
                format!(
                    "the subnet {range} overlaps {other} of the network {} at {place}",
                    quote(other_name)
                ),
            );
        }
        if furthest.is_none_or(|(other, _, _)| range.broadcast() > other.broadcast()) {
            furthest = Some((range, at, name));
        }
    }
}

fn network_holders(networks: &Networks, host: &HostDraft, report: &mut Report) {
    let mut identifiers = Vec::new();
    let mut bridges = Vec::new();
    for draft in networks.drafts.values() {
        identifiers.extend(draft.vni);
        bridges.extend(draft.bridge_name.as_ref().map(|(name, at)| (name.as_str(), *at)));
    }
    one_holder(identifiers, report, |vni, place| {
        format!("the VXLAN identifier {vni} belongs to another network already, at {place}")
    });
    let uplinks: HashSet<&str> = host.uplinks.iter().map(|uplink| uplink.value.as_str()).collect();
    for (name, at) in &bridges {
        if uplinks.contains(name) {
            report.add(*at, format!("the bridge cannot be called {} like an uplink", quote(name)));
        }
    }
    one_holder(bridges, report, |name, place| {
        format!("the bridge name {} belongs to another network already, at {place}", quote(name))
    });
}

/// Notes each claim of a key that an earlier place in the files holds.
fn one_holder<K: Ord + Clone>(
    mut claims: Vec<(K, Position)>,
    report: &mut Report,
    reason: impl Fn(&K, &str) -> String,
) {
    claims.sort_by_key(|(_, at)| *at);
    let mut holders = Holders::new();
    for (key, at) in claims {
        if let Some(first) = holders.claim(key.clone(), at) {
            let place = report.place(first);
            report.add(at, reason(&key, &place));
        }
    }
}

/// Addresses and MAC addresses in each network, here and at peers, and names of containers.
fn members(services: &BTreeMap<String, ServiceDraft>, host: &HostDraft, report: &mut Report) {
    let mut addresses = Vec::new();
    let mut macs = Vec::new();
    let mut names = Vec::new();
    for draft in services.values() {
        for attachment in &draft.attachments {
            let network = attachment.network.as_str();
            addresses.extend(attachment.addresses.iter().map(|(address, at)| ((network, *address), *at)));
            macs.extend(attachment.mac_address.map(|(mac, at)| ((network, mac), at)));
        }
        names.extend(draft.container_name.as_ref().map(|name| (name.value.as_str(), name.at)));
    }
    for peer in &host.peers {
        let network = peer.peer.network.as_str();
        for endpoint in &peer.endpoints {
            addresses.extend(endpoint.addresses.iter().map(|(address, at)| ((network, *address), *at)));
            macs.push(((network, endpoint.mac_address), endpoint.mac_at));
        }
    }
    one_holder(addresses, report, |(network, address), place| {
        format!("the address {address} is taken in the network {} at {place}", quote(network))
    });
    one_holder(macs, report, |(network, mac), place| {
        format!("the MAC address {mac} is taken in the network {} at {place}", quote(network))
    });
    one_holder(names, report, |name, place| {
        format!("the container name {} is taken at {place}", quote(name))
    });
}

/// One service for each network stack, and links and shared stacks that exist.
fn namespaces(services: &BTreeMap<String, ServiceDraft>, report: &mut Report) {
    let own = services.values().filter_map(|draft| {
        let namespace = &draft.container.namespace;
        namespace.is_own().then_some((namespace, draft.location_at))
    });
    one_holder(own.collect(), report, |_, place| {
        format!(
            "this network namespace belongs to another service, at {place}: to share it use network_mode: service:NAME"
        )
    });
    for draft in services.values() {
        for link in &draft.links {
            if !services.contains_key(&link.value) {
                report.add(link.at, format!("link to the unknown service {}", quote(&link.value)));
            }
        }
    }
}

/// Settles whose stack each `network_mode: service:…` and `container:…` means; a circle has no stack at all.
pub(super) fn settle_shared(services: &mut BTreeMap<String, ServiceDraft>, report: &mut Report) {
    let by_container_name: HashMap<String, String> = services
        .iter()
        .filter_map(|(name, draft)| Some((draft.container_name.as_ref()?.value.clone(), name.clone())))
        .collect();
    let mut owner_of: BTreeMap<String, (String, Position)> = BTreeMap::new();
    for (name, draft) in services.iter() {
        let Some(shared) = &draft.shared_with else { continue };
        let (owner, what) = match &shared.value {
            Shared::Service(owner) => (Some(owner), "service"),
            Shared::Container(owner) => (by_container_name.get(owner).or(Some(owner)), "container"),
        };
        match owner.filter(|owner| services.contains_key(*owner)) {
            Some(owner) => {
                owner_of.insert(name.clone(), (owner.clone(), shared.at));
            }
            None => {
                let (Shared::Service(wanted) | Shared::Container(wanted)) = &shared.value;
                report.add(
                    shared.at,
                    format!(
                        "network_mode names the unknown {what} {}: declare it under 'services'",
                        quote(wanted)
                    ),
                );
            }
        }
    }
    // Every chain is walked once: what an earlier walk passed is known to end, or was complained about.
    let mut walked: HashSet<&String> = HashSet::new();
    for start in owner_of.keys() {
        let mut chain: HashSet<&String> = HashSet::new();
        let mut current = start;
        while let Some((owner, at)) = owner_of.get(current) {
            if walked.contains(current) {
                break;
            }
            chain.insert(current);
            if chain.contains(owner) {
                report.add(*at, format!("network_mode leads in a circle back to {}", quote(owner)));
                break;
            }
            current = owner;
        }
        walked.extend(chain);
    }
    for (name, (owner, _)) in &owner_of {
        if let Some(draft) = services.get_mut(name) {
            draft.container.namespace = ContainerNamespace::SharedWith(owner.clone());
        }
    }
}

/// A claim of host ports.
struct Claim<'a> {
    address: Option<IpAddr>,
    spec: PortSpec,
    at: Position,
    service: &'a str,
}

fn published(
    networks: &Networks,
    services: &BTreeMap<String, ServiceDraft>,
    host: &HostDraft,
    report: &mut Report,
) {
    let overlays = networks.drafts.values().any(|draft| draft.network.driver != Driver::Bridge);
    let tunnel_port = host.settings.vxlan_port.unwrap_or(VXLAN_PORT);
    let mut fixed: BTreeMap<Protocol, Vec<(u16, u16, Claim<'_>)>> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (service, draft) in services {
        for port in &draft.ports {
            let spec = port.value;
            let address = draft.host_address(&spec);
            // A range that offers a choice gives way to fixed ports, so it claims none of them.
            let Some(host_ports) = spec.host_ports.filter(|_| spec.is_fixed()) else {
                let each = spec.container_ports.first..=spec.container_ports.last;
                let key = |number| (service.as_str(), spec.protocol, address, number, spec.host_ports);
                chosen.extend(each.map(|number| (key(number), port.at)));
                continue;
            };
            if !draft.has_host_ports {
                continue;
            }
            let tunnel = overlays && spec.protocol == Protocol::Udp;
            if tunnel
                && host_ports.first <= tunnel_port
                && tunnel_port <= host_ports.last
                && address.is_none_or(|address| address.is_unspecified())
            {
                report.add(
                    port.at,
                    format!("the UDP port {tunnel_port} carries the overlay networks of this host"),
                );
            }
            let claim = Claim { address, spec, at: port.at, service };
            fixed.entry(spec.protocol).or_default().push((host_ports.first, host_ports.last, claim));
        }
    }
    one_holder(chosen, report, |(_, protocol, _, number, range), place| match range {
        None => format!("the container port {number}/{protocol} is published already, at {place}"),
        Some(range) => {
            format!("the container port {number}/{protocol} has a port of {range} already, at {place}")
        }
    });
    for claims in fixed.into_values() {
        port_clashes(claims, report);
    }
}

/// Host addresses that a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// Every address of both families.
    All,
    /// Every address of one.
    Every(Family),
    /// One.
    One(IpAddr),
    /// Not a claim's own scope: whatever is claimed of a family.
    AnyOf(Family),
}

impl Scope {
    fn of(address: Option<IpAddr>) -> Self {
        match address {
            None => Self::All,
            Some(address) if address.is_unspecified() => Self::Every(Family::of(address)),
            Some(address) => Self::One(address),
        }
    }

    /// The scopes whose claims clash with one of this scope.
    fn rivals(self) -> [Self; 3] {
        match self {
            Self::All | Self::AnyOf(_) => [Self::AnyOf(Family::V4), Self::AnyOf(Family::V6), Self::All],
            Self::Every(family) => [Self::AnyOf(family), Self::All, Self::All],
            Self::One(address) => [self, Self::Every(Family::of(address)), Self::All],
        }
    }

    /// The scopes by which a claim of this one is found.
    fn found_by(self) -> Vec<Self> {
        match self {
            Self::All | Self::AnyOf(_) => vec![self, Self::AnyOf(Family::V4), Self::AnyOf(Family::V6)],
            Self::Every(family) => vec![self, Self::AnyOf(family)],
            Self::One(address) => vec![self, Self::AnyOf(Family::of(address))],
        }
    }
}

/// Sweeps over the ports in ascending order. For each scope the claim that reaches furthest is remembered: a claim that
/// begins before its end clashes with it. A wildcard clashes with all of its family.
fn port_clashes(mut claims: Vec<(u16, u16, Claim<'_>)>, report: &mut Report) {
    claims.sort_by_key(|(first, _, claim)| (*first, claim.at));
    let mut furthest: HashMap<Scope, usize> = HashMap::new();
    let last_of = |index: Option<usize>| index.and_then(|index| claims.get(index)).map(|(_, last, _)| *last);
    for (index, (first, last, claim)) in claims.iter().enumerate() {
        let scope = Scope::of(claim.address);
        let rivals = scope.rivals().map(|rival| furthest.get(&rival).copied());
        let rival = rivals.into_iter().find(|rival| last_of(*rival).is_some_and(|reach| reach >= *first));
        if let Some((_, _, rival)) = rival.flatten().and_then(|rival| claims.get(rival)) {
            let (later, earlier) = if claim.at > rival.at { (claim, rival) } else { (rival, claim) };
            let place = report.place(earlier.at);
            report.add(
                later.at,
                format!(
                    "the host ports of {} are published already, by {} of the service {} at {place}",
                    quote(&later.spec.to_string()),
                    quote(&earlier.spec.to_string()),
                    quote(earlier.service)
                ),
            );
        }
        for scope in scope.found_by() {
            if last_of(furthest.get(&scope).copied()).is_none_or(|reach| *last > reach) {
                furthest.insert(scope, index);
            }
        }
    }
}
