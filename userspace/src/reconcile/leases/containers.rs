//! Addresses, MAC addresses, epochs and interface names of containers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::{EndpointLease, LeaseFacts, Leases, addresses::Pool};
use crate::{
    model::{Attachment, Container, DesiredState, Driver, Family, MacAddress, PerFamily},
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
            let Some(pool) = pools.get_mut(wish.id.network.as_str()).and_then(|of| of.of_mut(wish.family))
            else {
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
    pub family: Family,
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
    mut address: impl FnMut(Wish<'_>, &mut Leases) -> Result<IpAddr, String>,
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
        let mut choose = |family| {
            let Some(subnet) = network.subnets.of(family) else { return Ok(None) };
            let address = address(Wish { id: &id, attachment, network, family }, leases)?;
            IpNetwork::new(address, subnet.range.prefix()).map(Some).map_err(|error| error.to_string())
        };
        let addresses = match choose(Family::V4).and_then(|v4| Ok(PerFamily { v4, v6: choose(Family::V6)? }))
        {
            Ok(addresses) => addresses,
            Err(reason) => {
                problem(reason);
                continue;
            }
        };
        let Some(first) = addresses.iter().next().map(IpNetwork::ip) else { continue };
        let mac = mac(&id, attachment, network, first, leases);
        let epoch = epoch(
            &id,
            EndpointLease {
                address: addresses.v4.and_then(|address| match address {
                    IpNetwork::V4(address) => Some(address.ip()),
                    IpNetwork::V6(_) => None,
                }),
                address_v6: addresses.v6.and_then(|address| match address {
                    IpNetwork::V6(address) => Some(address.ip()),
                    IpNetwork::V4(_) => None,
                }),
                mac,
                epoch: 0,
                namespace_cookie: cookie,
                interface: Some(interface),
                // Declared, as the lease is in use.
                gone_since: None,
            },
            leases,
        );
        let device = names::veth(name, network_name);
        if !new_device(&device) {
            problem(format!("another container's device is also named {device}; rename one of them"));
            continue;
        }
        let endpoint = ResolvedEndpoint {
            network_number: network.number,
            namespace: namespace.cloned(),
            addresses,
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

/// The addresses of each network that may be leased.
pub(super) type Pools<'a> = BTreeMap<&'a str, PerFamily<Pool>>;

/// Everything that may not be leased: gateways, reserved and remote addresses, those that the user gave, and those
/// that containers keep, also the ones that are away.
pub(super) fn pools<'a>(desired: &'a DesiredState, leases: &Leases, state: &ResolvedState) -> Pools<'a> {
    let mut pools = Pools::new();
    for (name, declared) in &desired.networks {
        let Some(network) = state.networks.get(name) else { continue };
        let of_network = network.subnets.map(|subnet| {
            let declared = declared.subnet(Family::of(subnet.gateway));
            Pool::new(subnet.range, declared.and_then(|declared| declared.lease_range))
        });
        pools.insert(name.as_str(), of_network);
    }
    let mut take = |network: &str, address: IpAddr| {
        if let Some(pool) = pools.get_mut(network).and_then(|of| of.of_mut(Family::of(address))) {
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
) -> impl Iterator<Item = (&'a str, IpAddr)> {
    let own = state.networks.iter().flat_map(move |(name, network)| {
        let declared = desired.networks.get(name).into_iter().flat_map(|declared| &declared.subnets);
        let reserved = declared.flat_map(|subnet| &subnet.reserved).copied();
        let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
        gateways.chain(reserved).map(move |address| (name.as_str(), address))
    });
    own.chain(state.remotes.iter().map(|remote| (remote.network.as_str(), remote.address)))
}

/// The addresses that the user gave a container, by network.
pub(super) fn given(container: &Container) -> impl Iterator<Item = (&str, IpAddr)> {
    container.attachments.iter().flat_map(|(network, attachment)| {
        let addresses = Family::BOTH.into_iter().filter_map(|family| attachment.address(family));
        addresses.map(|address| (network.as_str(), address))
    })
}

/// The addresses that a container keeps, by network.
pub(super) fn leased(leases: &BTreeMap<String, EndpointLease>) -> impl Iterator<Item = (&str, IpAddr)> {
    leases.iter().flat_map(|(network, lease)| {
        let PerFamily { v4, v6 } = lease.addresses();
        v4.into_iter().chain(v6).map(|address| (network.as_str(), address))
    })
}

/// Who has leased which address, by network, when the round began.
type Holders = HashMap<(String, IpAddr), Vec<String>>;

fn holders(leases: &Leases) -> Holders {
    let mut holders = Holders::new();
    for (container, networks) in &leases.endpoints {
        for (network, address) in leased(networks) {
            holders.entry((network.to_owned(), address)).or_default().push(container.clone());
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
        .filter(|(name, _)| networks.get(*name).is_some_and(|network| !network.policy.internal))
        .min_by_key(|(name, attachment)| (std::cmp::Reverse(attachment.gateway_priority), name.as_str()))
        .map(|(name, _)| name.as_str())
}

fn address(
    wish: Wish<'_>,
    pool: &mut Pool,
    holders: &Holders,
    desired: &DesiredState,
    leases: &mut Leases,
) -> Result<IpAddr, String> {
    let Wish { id, attachment, network, family } = wish;
    if let Some(address) = attachment.address(family) {
        return given_address(id, address, holders, desired, leases);
    }
    if let Some(address) = kept_address(wish, leases) {
        return Ok(address);
    }
    let last = leases.networks.get(&id.network).and_then(|lease| lease.last_given(family));
    let address = pool.lease(last).or_else(|| {
        make_room(wish, pool, desired, leases);
        pool.lease(last)
    });
    let address = address.ok_or_else(|| {
        let range = network.subnets.of(family).map_or_else(String::new, |subnet| subnet.range.to_string());
        format!("no address is left in {range} of network {}; use a larger subnet", id.network)
    })?;
    if let Some(lease) = leases.networks.get_mut(&id.network) {
        lease.note_given(address);
    }
    Ok(address)
}

/// The address leased earlier, if the network still has it to give.
pub(super) fn kept_address(wish: Wish<'_>, leases: &Leases) -> Option<IpAddr> {
    let lease = leases.endpoint(wish.id)?;
    let (subnet, address) = (wish.network.subnets.of(wish.family)?, *lease.addresses().of(wish.family)?);
    (subnet.range.contains(address) && address != subnet.gateway).then_some(address)
}

/// An address that the user gave. A declared container that was leased it earlier keeps it: its connections count
/// more than the newcomer. One that is away does not.
fn given_address(
    id: &EndpointId,
    address: IpAddr,
    holders: &Holders,
    desired: &DesiredState,
    leases: &mut Leases,
) -> Result<IpAddr, String> {
    let family = Family::of(address);
    let holder = holders.get(&(id.network.clone(), address)).into_iter().flatten();
    let holder = holder.filter(|container| **container != id.container).find(|container| {
        // One that had to give it up a moment ago has another one now.
        leases
            .endpoints
            .get(*container)
            .and_then(|networks| networks.get(&id.network))
            .is_some_and(|lease| lease.addresses().of(family) == Some(&address))
    });
    let Some(holder) = holder else { return Ok(address) };
    let attachment =
        desired.containers.get(holder).and_then(|container| container.attachments.get(&id.network));
    match attachment {
        // It was leased the address and has no other wish.
        Some(attachment) if attachment.address(family).is_none() => Err(format!(
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
fn make_room(wish: Wish<'_>, pool: &mut Pool, desired: &DesiredState, leases: &mut Leases) {
    let Wish { id, family, .. } = wish;
    for (container, networks) in &mut leases.endpoints {
        let declared = desired
            .containers
            .get(container)
            .is_some_and(|found| found.attachments.contains_key(&id.network));
        if !declared
            && let Some(lease) = networks.remove(&id.network)
            && let Some(address) = lease.addresses().of(family)
        {
            pool.free(*address);
        }
    }
    leases.endpoints.retain(|_, networks| !networks.is_empty());
    // What was freed may also have been written down by the user for somebody else.
    for container in desired.containers.values() {
        if let Some(address) =
            container.attachments.get(&id.network).and_then(|attachment| attachment.address(family))
        {
            pool.take(address);
        }
    }
}

fn mac(
    id: &EndpointId,
    attachment: &Attachment,
    network: &ResolvedNetwork,
    address: IpAddr,
    leases: &Leases,
) -> MacAddress {
    if let Some(mac) = attachment.mac_address {
        return mac;
    }
    if matches!(network.driver, Driver::Overlay { .. }) {
        // As Docker does: members on other hosts can be known by address alone.
        return names::mac_of_address(address);
    }
    if let Some(lease) = leases.endpoint(id) {
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
