//! Addresses, MAC addresses, epochs and interface names of containers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ipnetwork::Ipv4Network;

use super::{EndpointLease, LeaseFacts, Leases, addresses::Pool};
use crate::{
    model::{Attachment, Container, DesiredState, Driver, MacAddress},
    reconcile::{
        names,
        problem::Problem,
        resolved::{EndpointId, FoundNamespace, ResolvedEndpoint, ResolvedNetwork, ResolvedState},
    },
};

pub(super) fn resolve(
    desired: &DesiredState,
    leases: &mut Leases,
    facts: &LeaseFacts,
    state: &mut ResolvedState,
) {
    let mut pools = pools(desired, leases, state);
    let holders = holders(leases);
    let mut devices = BTreeSet::new();
    for (name, container) in &desired.containers {
        let namespace = facts.namespaces.get(name);
        let address = |wish: Wish<'_>, leases: &mut Leases| {
            let Some(pool) = pools.get_mut(wish.id.network.as_str()) else {
                return Err(NOT_SERVED.to_owned());
            };
            address(wish, pool, &holders, desired, leases)
        };
        let new_device = |device: &str| devices.insert(device.to_owned());
        let resolved = resolve_one(name, container, namespace, &state.networks, leases, address, new_device);
        state.endpoints.extend(resolved.endpoints);
        state.problems.extend(resolved.problems);
    }
}

/// Why a container is not in a network that has a problem itself.
const NOT_SERVED: &str = "the network is not served; see its own problem";

/// What is known of an interface when its address is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub id: &'a EndpointId,
    pub attachment: &'a Attachment,
    pub network: &'a ResolvedNetwork,
}

/// The interfaces of one container, and what could not be made of it.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub endpoints: Vec<(EndpointId, ResolvedEndpoint)>,
    pub problems: Vec<Problem>,
}

/// Resolves one container. `address` chooses where nothing is kept; `new_device` says whether a device name is free,
/// and takes it.
pub(super) fn resolve_one(
    name: &str,
    container: &Container,
    namespace: Option<&FoundNamespace>,
    networks: &BTreeMap<String, ResolvedNetwork>,
    leases: &mut Leases,
    mut address: impl FnMut(Wish<'_>, &mut Leases) -> Result<Ipv4Addr, String>,
    mut new_device: impl FnMut(&str) -> bool,
) -> Resolved {
    let mut resolved = Resolved::default();
    let default_network = default_network(container, networks);
    let cookie = namespace.map(|found| found.cookie);
    let interfaces = interfaces(name, container, cookie, leases);
    for ((network_name, attachment), interface) in container.attachments.iter().zip(interfaces) {
        let id = EndpointId { container: name.to_owned(), network: network_name.clone() };
        let mut problem = |reason| {
            let object = format!("container {name} in network {network_name}");
            resolved.problems.push(Problem::new(object, reason));
        };
        let Some(network) = networks.get(network_name) else {
            problem(NOT_SERVED.to_owned());
            continue;
        };
        let address = match address(Wish { id: &id, attachment, network }, leases) {
            Ok(address) => address,
            Err(reason) => {
                problem(reason);
                continue;
            }
        };
        let mac = mac(&id, attachment, network, address, leases);
        let epoch = epoch(
            &id,
            EndpointLease {
                address,
                mac,
                epoch: 0,
                namespace_cookie: cookie,
                interface: Some(interface),
                // Declared, as the lease is in use.
                gone_since: None,
            },
            leases,
        );
        let Ok(address) = Ipv4Network::new(address, network.subnet.prefix()) else { continue };
        let device = names::veth(name, network_name);
        if !new_device(&device) {
            problem(format!("another container's device is also named {device}; rename one of them"));
            continue;
        }
        let endpoint = ResolvedEndpoint {
            network_number: network.number,
            namespace: namespace.cloned(),
            address,
            mac,
            epoch,
            interface: format!("eth{interface}"),
            device,
            default_route: default_network == Some(network_name.as_str()),
            published: false,
        };
        resolved.endpoints.push((id, endpoint));
    }
    resolved
}

/// Everything that may not be leased: gateways, reserved and remote addresses, those that the user gave, and those
/// that containers keep, also the ones that are away.
pub(super) fn pools<'a>(
    desired: &'a DesiredState,
    leases: &Leases,
    state: &ResolvedState,
) -> BTreeMap<&'a str, Pool> {
    let mut pools = BTreeMap::new();
    for (name, declared) in &desired.networks {
        let Some(network) = state.networks.get(name) else { continue };
        let subnet = declared.subnets.iter().find(|subnet| subnet.range == network.subnet.into());
        let lease_range = subnet.and_then(|subnet| match subnet.lease_range {
            Some(ipnetwork::IpNetwork::V4(range)) => Some(range),
            _ => None,
        });
        pools.insert(name.as_str(), Pool::new(network.subnet, lease_range));
    }
    let mut take = |network: &str, address| {
        if let Some(pool) = pools.get_mut(network) {
            pool.take(address);
        }
    };
    for (network, address) in of_networks(desired, state) {
        take(network, address);
    }
    for container in desired.containers.values() {
        given(container).for_each(|(network, address)| take(network, address));
    }
    for lease in leases.endpoints.values() {
        leased(lease).for_each(|(network, address)| take(network, address));
    }
    pools
}

/// Addresses that are no local container's to have: gateways, reserved ones and those of remote containers.
pub(super) fn of_networks<'a>(
    desired: &'a DesiredState,
    state: &'a ResolvedState,
) -> impl Iterator<Item = (&'a str, Ipv4Addr)> {
    let own = state.networks.iter().flat_map(move |(name, network)| {
        let declared = desired.networks.get(name).into_iter().flat_map(|declared| &declared.subnets);
        let reserved = declared
            .filter(|subnet| subnet.range == network.subnet.into())
            .flat_map(|subnet| &subnet.reserved)
            .filter_map(|reserved| match reserved {
                IpAddr::V4(reserved) => Some(*reserved),
                IpAddr::V6(_) => None,
            });
        std::iter::once(network.gateway).chain(reserved).map(move |address| (name.as_str(), address))
    });
    own.chain(state.remotes.iter().map(|remote| (remote.network.as_str(), remote.address)))
}

/// The addresses that the user gave a container, by network.
pub(super) fn given(container: &Container) -> impl Iterator<Item = (&str, Ipv4Addr)> {
    container
        .attachments
        .iter()
        .filter_map(|(network, attachment)| Some((network.as_str(), attachment.ipv4_address?)))
}

/// The addresses that a container keeps, by network.
pub(super) fn leased(leases: &BTreeMap<String, EndpointLease>) -> impl Iterator<Item = (&str, Ipv4Addr)> {
    leases.iter().map(|(network, lease)| (network.as_str(), lease.address))
}

/// Who has leased which address, by network, when the round began.
type Holders = HashMap<(String, Ipv4Addr), Vec<String>>;

fn holders(leases: &Leases) -> Holders {
    let mut holders = Holders::new();
    for (container, networks) in &leases.endpoints {
        for (network, lease) in networks {
            holders.entry((network.clone(), lease.address)).or_default().push(container.clone());
        }
    }
    holders
}

/// The network that gives the default route: the highest `gw_priority`, then the first name; never an internal one.
fn default_network<'a>(
    container: &'a Container,
    networks: &BTreeMap<String, ResolvedNetwork>,
) -> Option<&'a str> {
    container
        .attachments
        .iter()
        .filter(|(name, _)| networks.get(*name).is_some_and(|network| !network.internal))
        .min_by_key(|(name, attachment)| (std::cmp::Reverse(attachment.gateway_priority), name.as_str()))
        .map(|(name, _)| name.as_str())
}

fn address(
    Wish { id, attachment, network }: Wish<'_>,
    pool: &mut Pool,
    holders: &Holders,
    desired: &DesiredState,
    leases: &mut Leases,
) -> Result<Ipv4Addr, String> {
    if let Some(address) = attachment.ipv4_address {
        return given_address(id, address, holders, desired, leases);
    }
    if let Some(address) = kept_address(Wish { id, attachment, network }, leases) {
        return Ok(address);
    }
    let last = leases.networks.get(&id.network).and_then(|lease| lease.last_address);
    let address = pool.lease(last).or_else(|| {
        make_room(id, pool, desired, leases);
        pool.lease(last)
    });
    let address = address.ok_or_else(|| {
        format!("no address is left in {} of network {}; use a larger subnet", network.subnet, id.network)
    })?;
    if let Some(lease) = leases.networks.get_mut(&id.network) {
        lease.last_address = Some(address);
    }
    Ok(address)
}

/// The address leased earlier, if the network still has it to give.
pub(super) fn kept_address(wish: Wish<'_>, leases: &Leases) -> Option<Ipv4Addr> {
    let lease = leases.endpoints.get(&wish.id.container)?.get(&wish.id.network)?;
    (wish.network.subnet.contains(lease.address) && lease.address != wish.network.gateway)
        .then_some(lease.address)
}

/// An address that the user gave. A declared container that was leased it earlier keeps it: its connections count
/// more than the newcomer. One that is away does not.
fn given_address(
    id: &EndpointId,
    address: Ipv4Addr,
    holders: &Holders,
    desired: &DesiredState,
    leases: &mut Leases,
) -> Result<Ipv4Addr, String> {
    let holder = holders.get(&(id.network.clone(), address)).into_iter().flatten();
    let holder = holder.filter(|container| **container != id.container).find(|container| {
        // One that had to give it up a moment ago has another one now.
        leases
            .endpoints
            .get(*container)
            .and_then(|networks| networks.get(&id.network))
            .is_some_and(|lease| lease.address == address)
    });
    let Some(holder) = holder else { return Ok(address) };
    let attachment =
        desired.containers.get(holder).and_then(|container| container.attachments.get(&id.network));
    match attachment {
        // It was leased the address and has no other wish.
        Some(Attachment { ipv4_address: None, .. }) => Err(format!(
            "{address} was leased to container {holder}, which is running with it; give {holder} an address of \
             its own, or this container another one"
        )),
        _ => {
            if let Some(networks) = leases.endpoints.get_mut(holder) {
                networks.remove(&id.network);
            }
            Ok(address)
        }
    }
}

/// The network is full: forget the addresses of containers that are no longer declared in it.
fn make_room(id: &EndpointId, pool: &mut Pool, desired: &DesiredState, leases: &mut Leases) {
    for (container, networks) in &mut leases.endpoints {
        let declared = desired
            .containers
            .get(container)
            .is_some_and(|found| found.attachments.contains_key(&id.network));
        if !declared && let Some(lease) = networks.remove(&id.network) {
            pool.free(lease.address);
        }
    }
    leases.endpoints.retain(|_, networks| !networks.is_empty());
    // What was freed may also have been written down by the user for somebody else.
    for container in desired.containers.values() {
        if let Some(address) =
            container.attachments.get(&id.network).and_then(|attachment| attachment.ipv4_address)
        {
            pool.take(address);
        }
    }
}

fn mac(
    id: &EndpointId,
    attachment: &Attachment,
    network: &ResolvedNetwork,
    address: Ipv4Addr,
    leases: &Leases,
) -> MacAddress {
    if let Some(mac) = attachment.mac_address {
        return mac;
    }
    let [a, b, c, d] = address.octets();
    if matches!(network.driver, Driver::Overlay { .. }) {
        // As Docker does: members on other hosts can be known by address alone.
        return MacAddress([0x02, 0x42, a, b, c, d]);
    }
    let kept = leases.endpoints.get(&id.container).and_then(|networks| networks.get(&id.network));
    if let Some(lease) = kept {
        return lease.mac;
    }
    // Random through the seed; bit 1 of the first byte: locally administered, bit 0 clear: one station.
    let bytes = names::stable_hash(leases.seed, &[&id.container, &id.network]).to_be_bytes();
    MacAddress([bytes[0] & 0xfc | 0x02, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
}

/// Interface numbers, in the order of the attachments: by network name, but an interface that the namespace already
/// has keeps its name, because renaming takes it down and with it what runs over it.
fn interfaces(name: &str, container: &Container, cookie: Option<u64>, leases: &mut Leases) -> Vec<u32> {
    let mut numbers: Vec<Option<u32>> = vec![None; container.attachments.len()];
    if let Some(networks) = leases.endpoints.get_mut(name) {
        for (network, lease) in networks.iter_mut() {
            let position = container.attachments.keys().position(|attached| attached == network);
            match (position, lease.interface) {
                (Some(position), Some(number))
                    if cookie.is_some()
                        && lease.namespace_cookie == cookie
                        && !numbers.contains(&Some(number)) =>
                {
                    numbers[position] = Some(number);
                }
                _ => lease.interface = None,
            }
        }
    }
    for position in 0..numbers.len() {
        if numbers[position].is_none() {
            numbers[position] = (0..).find(|number| !numbers.contains(&Some(*number)));
        }
    }
    numbers.into_iter().flatten().collect()
}

/// Enters a lease and gives the epoch of this container: the same as long as its namespace is, a new one for a new
/// namespace.
fn epoch(id: &EndpointId, lease: EndpointLease, leases: &mut Leases) -> u32 {
    let cookie = lease.namespace_cookie;
    let networks = leases.endpoints.entry(id.container.clone()).or_default();
    let (epoch, namespace_cookie) = match networks.get(&id.network) {
        Some(kept) if cookie.is_none() || kept.namespace_cookie == cookie => {
            (kept.epoch, kept.namespace_cookie)
        }
        // It was declared before its namespace existed.
        Some(kept) if kept.namespace_cookie.is_none() => (kept.epoch, cookie),
        _ => {
            leases.next_epoch += 1;
            (leases.next_epoch - 1, cookie)
        }
    };
    networks.insert(id.network.clone(), EndpointLease { epoch, namespace_cookie, ..lease });
    epoch
}
