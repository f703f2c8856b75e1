//! The same choices as [`super::resolve`] makes, for a few containers among many.
//!
//! Only where they touch nobody else: what would need a look at other containers, for a conflict, a full network or a
//! port to be chosen, is left to the whole resolution. So an [`Index`] of what is taken is all that has to be known of
//! the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    ops::Range,
};

use super::{
    LeaseFacts, Leases, NetworkLease,
    addresses::Pool,
    containers::{self, Wish, given, kept_address, leased, of_networks},
    ports::Claims,
    publications,
};
use crate::{
    model::{
        Container, ContainerNamespace, DesiredState, Family, HostPorts, PerFamily, PerProtocol, PortRange,
        Protocol,
    },
    reconcile::resolved::{EndpointId, FoundNamespace, ResolvedEndpoint, ResolvedPublication, ResolvedState},
};

/// What the containers of a state have taken.
#[derive(Debug)]
pub struct Index {
    pools: BTreeMap<String, PerFamily<Pool>>,
    /// How often an address is given, kept or the network's own; by network.
    uses: HashMap<String, HashMap<IpAddr, u32>>,
    devices: HashSet<String>,
    claims: Claims,
    /// Containers with chosen host ports, which give way to those that another one asks for.
    choosers: HashSet<String>,
    /// Some choices depend on others': a container uses another's interfaces, or has the same address as another.
    entangled: bool,
}

/// What a difference did.
#[derive(Debug, Clone, Default)]
pub struct Patched {
    /// The interfaces that the touched containers had.
    pub endpoints_before: BTreeMap<EndpointId, ResolvedEndpoint>,
    /// Those that they have.
    pub endpoints: BTreeSet<EndpointId>,
    /// The publications that they had.
    pub publications_before: Vec<ResolvedPublication>,
    /// Those that they have.
    pub publications: Vec<ResolvedPublication>,
}

impl Index {
    /// Of a state without problems that was resolved with these leases.
    pub fn new(desired: &DesiredState, leases: &Leases, state: &ResolvedState) -> Self {
        let pools = containers::pools(desired, leases, state);
        let mut claims = Claims::default();
        for publication in &state.publications {
            claim(&mut claims, publication);
        }
        let choosers = desired.containers.iter().filter(|(_, container)| chooses(container));
        let choosers = choosers.map(|(name, _)| name.clone()).collect();
        let mut index = Self {
            pools: pools.into_iter().map(|(name, pools)| (name.to_owned(), pools)).collect(),
            uses: HashMap::new(),
            devices: state.endpoints.values().map(|endpoint| endpoint.device.clone()).collect(),
            claims,
            choosers,
            entangled: desired.containers.values().any(is_entangled),
        };
        let mut addresses = HashSet::new();
        let settled = |(id, endpoint): (&EndpointId, &ResolvedEndpoint)| {
            let mut taken = endpoint.addresses.iter();
            taken.all(|address| addresses.insert((endpoint.network_number, *address)))
                && leases.has(id, endpoint)
        };
        index.entangled |= !state.endpoints.iter().all(settled);
        of_networks(desired, state).for_each(|(network, address)| index.take(network, address));
        for container in desired.containers.values() {
            given(container).for_each(|(network, address)| index.take(network, address));
        }
        for lease in leases.endpoints.values() {
            leased(lease).for_each(|(network, address)| index.take(network, address));
        }
        index
    }

    /// The host ports that may be published by others where the touched containers published theirs before a difference:
    /// on other addresses of the host.
    pub fn published_by_others(
        &self,
        patched: &Patched,
        touched: &BTreeSet<String>,
    ) -> Vec<(Protocol, PortRange)> {
        let before = patched.publications_before.iter().map(|before| (before.protocol, before.host_ports));
        let of_others = |(protocol, ports)| {
            let claims = self
                .claims
                .overlapping(protocol, ports)
                .filter(|(container, _)| !touched.contains(*container));
            claims.map(move |(_, ports)| (protocol, ports))
        };
        before.flat_map(of_others).collect()
    }

    fn take(&mut self, network: &str, address: IpAddr) {
        let Some(pool) = pool(&mut self.pools, network, Family::of(address)) else { return };
        pool.take(address);
        match self.uses.get_mut(network) {
            Some(uses) => *uses.entry(address).or_default() += 1,
            None => {
                self.uses.insert(network.to_owned(), HashMap::from([(address, 1)]));
            }
        }
    }

    fn give_back(&mut self, network: &str, address: IpAddr) {
        let Some(uses) = self.uses.get_mut(network).and_then(|uses| uses.get_mut(&address)) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0
            && let Some(pool) = pool(&mut self.pools, network, Family::of(address))
        {
            pool.free(address);
        }
    }
}

fn pool<'a>(
    pools: &'a mut BTreeMap<String, PerFamily<Pool>>,
    network: &str,
    family: Family,
) -> Option<&'a mut Pool> {
    pools.get_mut(network).and_then(|of| of.of_mut(family))
}

fn claim(claims: &mut Claims, publication: &ResolvedPublication) {
    if publication.is_routed() {
        return;
    }
    claims.add(
        publication.protocol,
        publication.host_address,
        publication.host_ports,
        &publication.container,
    );
}

fn chooses(container: &Container) -> bool {
    container.publications.iter().any(|publication| !matches!(publication.host_ports, HostPorts::Exactly(_)))
}

fn is_entangled(container: &Container) -> bool {
    matches!(container.namespace, ContainerNamespace::SharedWith(_)) && !container.publications.is_empty()
}

/// Brings `state` and `leases`, which came from `before`, to `desired`, which differs only in the `touched` containers.
/// `None`: that takes a whole resolution. Nothing has been changed then but the index, which is of no use any more.
pub fn patch(
    before: &DesiredState,
    desired: &DesiredState,
    touched: &BTreeSet<String>,
    namespaces: &BTreeMap<String, FoundNamespace>,
    leases: &mut Leases,
    state: &mut ResolvedState,
    index: &mut Index,
) -> Option<Patched> {
    if index.entangled || !state.problems.is_empty() {
        return None;
    }
    let mut patched = Patched::default();
    for name in touched {
        patched
            .endpoints_before
            .extend(state.of_container(name).map(|(id, endpoint)| (id.clone(), endpoint.clone())));
        let published = state.publications.get(publications_of(state, name)).unwrap_or_default();
        patched.publications_before.extend(published.iter().cloned());
        if let Some(container) = before.containers.get(name) {
            given(container).for_each(|(network, address)| index.give_back(network, address));
        }
    }
    for endpoint in patched.endpoints_before.values() {
        index.devices.remove(&endpoint.device);
    }
    for publication in patched.publications_before.iter().filter(|publication| !publication.is_routed()) {
        index.claims.remove(publication.protocol, publication.host_address, publication.host_ports);
    }
    for name in touched {
        index.choosers.remove(name);
    }
    let present = || touched.iter().filter_map(|name| Some((name, desired.containers.get(name)?)));
    for (_, container) in present() {
        if is_entangled(container) || chooses(container) {
            return None;
        }
        given(container).for_each(|(network, address)| index.take(network, address));
    }

    // Leases of these containers alone, so that nothing has happened if it comes to nothing.
    let mut scratch = scratch(leases, touched);
    let mut found = ResolvedState::default();
    for (name, container) in present() {
        let Index { pools, uses, devices, .. } = &mut *index;
        let address = |wish: Wish<'_>, leases: &mut Leases| {
            let used = |address| uses.get(&wish.id.network).and_then(|uses| uses.get(&address)).copied();
            let own = |address| {
                leases
                    .endpoint(wish.id)
                    .is_some_and(|lease| lease.addresses().of(Family::of(address)) == Some(&address))
            };
            if let Some(address) = wish.attachment.address(wish.family) {
                // Given to it and perhaps kept by it, and nobody else's.
                let expected = 1 + u32::from(own(address));
                return (used(address) == Some(expected)).then_some(address).ok_or_else(String::new);
            }
            if let Some(address) = kept_address(wish, leases) {
                return (used(address) == Some(1)).then_some(address).ok_or_else(String::new);
            }
            let last = leases.networks.get(&wish.id.network).and_then(|lease| lease.last_given(wish.family));
            let address = pool(pools, &wish.id.network, wish.family).and_then(|pool| pool.lease(last));
            if let (Some(address), Some(lease)) = (address, leases.networks.get_mut(&wish.id.network)) {
                lease.note_given(address);
            }
            address.ok_or_else(String::new)
        };
        let new_device = |device: &str| devices.insert(device.to_owned());
        let namespace = namespaces.get(name);
        let resolved = containers::resolve_one(
            name,
            container,
            namespace,
            &state.networks,
            &mut scratch,
            address,
            new_device,
        );
        if !resolved.problems.is_empty() {
            return None;
        }
        found.endpoints.extend(resolved.endpoints);
    }
    let facts = LeaseFacts {
        host_routes: Vec::new(),
        namespaces: BTreeMap::new(),
        ephemeral_ports: PortRange { first: 0, last: 0 },
        bound_ports: PerProtocol::default(),
    };
    for (name, container) in present() {
        for publication in &container.publications {
            // A chosen port is one that nobody has on any address.
            if let HostPorts::Exactly(ports) = publication.host_ports
                && index
                    .claims
                    .overlapping(publication.protocol, ports)
                    .any(|(other, _)| index.choosers.contains(other))
            {
                return None;
            }
            // It has its host ports: the facts are for those that have not.
            let resolved = publications::resolve_one(
                name,
                publication,
                desired,
                &mut scratch,
                &facts,
                &found,
                &mut index.claims,
            );
            publications::enter(resolved.ok()?, &mut found);
        }
    }

    for name in touched {
        if let Some(lease) = leases.endpoints.get(name) {
            leased(lease).for_each(|(network, address)| index.give_back(network, address));
        }
        if let Some(lease) = scratch.endpoints.get(name) {
            leased(lease).for_each(|(network, address)| index.take(network, address));
        }
    }
    adopt(leases, scratch, touched, desired);
    leases.devices.extend(found.endpoints.values().map(|endpoint| endpoint.device.clone()));
    for id in patched.endpoints_before.keys() {
        state.endpoints.remove(id);
    }
    remove_publications(touched, state);
    patched.endpoints = found.endpoints.keys().cloned().collect();
    found.publications.sort_by(|a, b| publications::order(a).cmp(&publications::order(b)));
    patched.publications = found.publications.clone();
    state.endpoints.extend(found.endpoints);
    insert(found.publications, state);
    Some(patched)
}

impl Patched {
    /// Makes the state again what it was. The leases stay: what was chosen once may be chosen again.
    pub fn undo(self, touched: &BTreeSet<String>, state: &mut ResolvedState) {
        for id in &self.endpoints {
            state.endpoints.remove(id);
        }
        state.endpoints.extend(self.endpoints_before);
        remove_publications(touched, state);
        insert(self.publications_before, state);
    }
}

fn insert(publications: Vec<ResolvedPublication>, state: &mut ResolvedState) {
    for publication in publications {
        let at = state
            .publications
            .partition_point(|other| publications::order(other) < publications::order(&publication));
        state.publications.insert(at, publication);
    }
}

/// Where the publications of one container are, which are ordered by it.
fn publications_of(state: &ResolvedState, name: &str) -> Range<usize> {
    let all = &state.publications;
    let first = all.partition_point(|publication| publication.container.as_str() < name);
    let last = all.partition_point(|publication| publication.container.as_str() <= name);
    first..last
}

fn remove_publications(touched: &BTreeSet<String>, state: &mut ResolvedState) {
    for name in touched {
        let range = publications_of(state, name);
        state.publications.drain(range);
    }
}

fn scratch(leases: &Leases, touched: &BTreeSet<String>) -> Leases {
    let endpoints =
        touched.iter().filter_map(|name| Some((name.clone(), leases.endpoints.get(name)?.clone()))).collect();
    let networks: BTreeMap<String, NetworkLease> = leases.networks.clone();
    let mut scratch = Leases::new(leases.seed);
    scratch.next_epoch = leases.next_epoch;
    scratch.networks = networks;
    scratch.endpoints = endpoints;
    scratch
}

fn adopt(leases: &mut Leases, scratch: Leases, touched: &BTreeSet<String>, desired: &DesiredState) {
    leases.next_epoch = scratch.next_epoch;
    leases.networks = scratch.networks;
    leases.endpoints.extend(scratch.endpoints);
    for name in touched.iter().filter(|name| !desired.containers.contains_key(*name)) {
        // As in a whole resolution, the ports of a container that is gone are free for others.
        leases.forget_ports_of(name);
    }
}

#[cfg(test)]
mod tests;
