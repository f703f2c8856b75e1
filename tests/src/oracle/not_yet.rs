//! What weft is known not to do yet. Actions that need it are left out; take an entry off when it works.

use std::{env, net::Ipv4Addr, sync::OnceLock};

use super::description::{
    Action, Address, Binding, CLOSED_PORT, NetworkKind, Place, Protocol, Target, Topology, uplink,
};

/// Something that does not work yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYet {
    /// ICMP errors about packets of translated flows: a datagram for a closed port is not refused.
    ErrorsThroughNat,
    /// Fragments of translated flows.
    FragmentsThroughNat,
    /// A UDP socket of the host that uses two names of one container's port: answers come from the last one used.
    TwoNamesForOneSocket,
    /// A socket of the host binds a port of the masquerade pool that a container's flow to the same remote end has: the
    /// answers go to the container.
    HostSocketInThePool,
}

/// Everything that does not work yet.
pub const NOT_YET: &[NotYet] = &[NotYet::TwoNamesForOneSocket, NotYet::HostSocketInThePool];

/// Whether actions that need it are left out. With `WEFT_ORACLE_ALL` set nothing is, to see what has come to work.
fn is_left_out(what: NotYet) -> bool {
    static ALL: OnceLock<bool> = OnceLock::new();
    !ALL.get_or_init(|| env::var_os("WEFT_ORACLE_ALL").is_some()) && NOT_YET.contains(&what)
}

/// Payload bytes of a datagram or echo request that fit every MTU here.
const UNFRAGMENTED: u16 = 1400;

/// What of this action can be done now.
pub fn possible(topology: &Topology, action: &Action) -> Option<Action> {
    match action {
        Action::Tcp { from, to, .. } => {
            (!fails(topology, *from, *to, Some(Protocol::Tcp), 0)).then(|| action.clone())
        }
        Action::Udp { from, source, to } => {
            let mut ends = Vec::new();
            // Only the host's own sockets are led by names.
            let by_name = matches!(from, Place::Host(_)) && is_left_out(NotYet::TwoNamesForOneSocket);
            let mut is_first_name = |to: Target| {
                let end = end(topology, *from, to);
                let known = ends.contains(&end);
                ends.push(end);
                !by_name || !known
            };
            let fails = |to, size| fails(topology, *from, to, Some(Protocol::Udp), size);
            let to: Vec<(Target, u16)> =
                to.iter().copied().filter(|(to, size)| !fails(*to, *size) && is_first_name(*to)).collect();
            let in_pool = matches!(from, Place::Host(_)) && is_left_out(NotYet::HostSocketInThePool);
            let source = source.filter(|_| !in_pool);
            (!to.is_empty()).then_some(Action::Udp { from: *from, source, to })
        }
        Action::Ping { from, to, size } => {
            let target = Target { address: *to, port: 0 };
            (!fails(topology, *from, target, None, *size)).then(|| action.clone())
        }
    }
}

/// Whether it needs something that does not work yet.
fn fails(topology: &Topology, from: Place, to: Target, protocol: Option<Protocol>, size: u16) -> bool {
    let published = protocol.and_then(|protocol| published(topology, from, to, protocol));
    let mut needed = Vec::new();
    if is_translated(topology, from, to, published.is_some()) {
        if protocol == Some(Protocol::Udp) && published.map_or(to.port, |(_, port)| port) >= CLOSED_PORT {
            needed.push(NotYet::ErrorsThroughNat);
        }
        if size > UNFRAGMENTED {
            needed.push(NotYet::FragmentsThroughNat);
        }
    }
    needed.into_iter().any(is_left_out)
}

/// Where a datagram of the host itself ends up.
fn end(topology: &Topology, from: Place, to: Target) -> (Ipv4Addr, u16) {
    match published(topology, from, to, Protocol::Udp) {
        Some((slot, port)) => {
            let network = topology.container(slot).and_then(|it| topology.default_network(it)).unwrap_or(0);
            (topology.address(slot, network), port)
        }
        None => (topology.resolve(to.address), to.port),
    }
}

/// The host of this address.
fn host_of(topology: &Topology, from: Place, address: Address) -> Option<(usize, Binding)> {
    let host_of_actor = || match from {
        Place::Host(host) => Some(host),
        Place::Container(slot) => topology.container(slot).map(|container| container.host),
        Place::Client => None,
    };
    match address {
        Address::Uplink(host) => Some((host, Binding::Uplink)),
        Address::Gateway(network) => {
            let network = &topology.networks[network];
            let host = if network.kind == NetworkKind::Overlay { host_of_actor()? } else { network.host };
            Some((host, Binding::Any))
        }
        Address::Loopback => match from {
            Place::Host(host) => Some((host, Binding::Loopback)),
            _ => None,
        },
        Address::Client | Address::Container(..) => None,
    }
}

/// The container and port that a published port leads to.
fn published(topology: &Topology, from: Place, to: Target, protocol: Protocol) -> Option<(usize, u16)> {
    let (host, binding) = host_of(topology, from, to.address)?;
    topology.publication(host, binding, protocol, to.port).map(|(slot, found)| (slot, found.behind(to.port)))
}

/// Whether packets' addresses are translated on the way. weft leads sockets of the host to containers, which is no
/// translation of packets.
fn is_translated(topology: &Topology, from: Place, to: Target, published: bool) -> bool {
    let Place::Container(slot) = from else {
        let own = matches!(from, Place::Host(host) if host_of(topology, from, to.address).is_some_and(|(it, _)| it == host));
        return published && !own;
    };
    let Some(container) = topology.container(slot) else { return false };
    match to.address {
        Address::Loopback => false,
        Address::Client => true,
        Address::Uplink(host) => published || uplink(host) != uplink(container.host),
        Address::Gateway(network) => published || !topology.networks[network].is_on(container.host),
        Address::Container(other, network) => other != slot && !container.networks.contains(&network),
    }
}
