//! What a container sends.

use core::hint::cold_path;

use dataplane_common::{
    abi::{Address, Device, DropReason, FlowKind, Path, Subnet, flags},
    packet::{Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, protocol},
};

use crate::{
    bridge, flows, fragments, helpers, icmp_error, maps, masquerade, neighbours, overlay,
    packet::{Headers, Packet},
    parse::{Fragment, Parsed, Side, parse_ipv4, parse_ipv6},
    portmap,
    refuse::refuse,
    routed, turn_back,
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    let device = maps::device(packet.device()).ok_or(DropReason::UnknownDevice)?;
    // A tag would leave with the packet, past the networks' borders (RFC 7348 section 6.1 forbids it as well).
    if packet.is_tagged() {
        return Err(DropReason::UnsupportedProtocol);
    }
    packet.linearise(Ethernet::LENGTH);
    let ethernet = packet.read::<Ethernet>(0)?;
    if ethernet.source != device.mac {
        return Err(DropReason::SpoofedMac);
    }
    // Flows through the device are of this container, unless it answers by another network.
    let mut epoch = device.epoch;
    let (parsed, scope) = match ethernet.ether_type.get() {
        ETHERTYPE_IPV4 if device.address.is_v4() => {
            let parsed = parse_ipv4(packet, Side::Source)?;
            let scope = ipv4(parsed, device);
            (parsed, scope)
        }
        ETHERTYPE_IPV6 if !device.address_v6.is_unspecified() => {
            let parsed = parse_ipv6(packet, Side::Source)?;
            let scope = ipv6(packet, parsed, device);
            (parsed, scope)
        }
        ETHERTYPE_ARP if device.address.is_v4() => return arp(packet, device),
        _ => return Err(DropReason::UnsupportedProtocol),
    };
    let scope = match scope {
        Err(DropReason::SpoofedAddress) => {
            cold_path();
            epoch = epoch_elsewhere(parsed.tuple.local, device).ok_or(DropReason::SpoofedAddress)?;
            Scope::Elsewhere
        }
        scope => scope?,
    };
    match ip(packet, parsed, device, scope, epoch) {
        Ok(verdict) => Ok(verdict),
        Err(reason) => {
            cold_path();
            Ok(refuse(packet, reason))
        }
    }
}

/// How far away a destination is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Broadcast, multicast, and what never leaves the link.
    Link,
    /// A member of the container's network.
    Neighbour,
    /// Anybody else, the host included.
    Beyond,
    /// The source is an address that the container has in another of its networks. The client of a published port may be
    /// its neighbour here: then this is the way that its answer takes, though the port is published by the container's
    /// default network. Nothing else may leave like this.
    Elsewhere,
}

/// ARP is the bridge's, but nobody speaks for another: the sender must be the container, or nobody (RFC 5227 probe). A
/// container that answers from its address in another network ([`Scope::Elsewhere`]) asks with that.
#[inline(always)]
fn arp(packet: &Packet, device: &Device) -> Outcome<Verdict> {
    packet.linearise(Ethernet::LENGTH + size_of::<Arp>());
    let arp = packet.read::<Arp>(Ethernet::LENGTH)?;
    let (mac, sender, operation) = (arp.sender_mac, arp.sender_address.raw(), arp.operation.get());
    if mac != device.mac {
        return Err(DropReason::SpoofedMac);
    }
    if sender != device.address.v4_network_order()
        && sender != 0
        && !(operation == Arp::REQUEST
            && epoch_elsewhere(Address::from_v4_network_order(sender), device).is_some())
    {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(Verdict::Pass(Path::SlowPath))
}

/// The epoch of an address that the container has in another of its networks.
#[inline(never)]
fn epoch_elsewhere(address: Address, device: &Device) -> Option<u32> {
    let endpoint = maps::endpoint(maps::subnet(&address)?.network, &address)?;
    (endpoint.container == device.container).then_some(endpoint.epoch)
}

#[inline(always)]
fn ipv4(parsed: &Parsed, device: &Device) -> Outcome<Scope> {
    if parsed.tuple.local.v4_network_order() != device.address.v4_network_order() {
        return Err(DropReason::SpoofedAddress);
    }
    let destination = u32::from_be(parsed.tuple.remote.v4_network_order());
    let own = u32::from_be(device.address.v4_network_order());
    // A prefix length of 0 would shift by 32; the controller never writes one for a container.
    let host_bits = u32::MAX >> (device.prefix_length & 31);
    if destination == u32::MAX || destination >> 28 == 0xe || destination == own | host_bits {
        return if device.flags & flags::INTER_CONTAINER != 0 {
            Ok(Scope::Link)
        } else {
            Err(DropReason::InterContainerDisabled)
        };
    }
    let same_network = (destination ^ own) & !host_bits == 0;
    Ok(if same_network && destination != u32::from_be(device.gateway.v4_network_order()) {
        Scope::Neighbour
    } else {
        Scope::Beyond
    })
}

#[inline(always)]
fn ipv6(packet: &Packet, parsed: &Parsed, device: &Device) -> Outcome<Scope> {
    let (source, destination) = (&parsed.tuple.local, &parsed.tuple.remote);
    let link_local = Address::link_local(&device.mac);
    if parsed.tuple.protocol == protocol::ICMPV6 && parsed.fragment() == Fragment::Whole {
        neighbours::check(packet, parsed, device, &link_local)?;
    }
    // Nobody is the source of what a host says before it has an address (RFC 4862 section 5.4, RFC 3810 section 5.2.13).
    let for_link_only = *source == link_local || source.is_unspecified();
    if !for_link_only && *source != device.address_v6 {
        return Err(DropReason::SpoofedAddress);
    }
    // Members that may not talk to one another are isolated ports of the bridge; neighbour discovery with the gateway
    // has to go on.
    if destination.is_multicast_v6() || destination.is_link_local() && !source.is_unspecified() {
        return Ok(Scope::Link);
    }
    let same_network = destination.shares_prefix(&device.address_v6, device.prefix_length_v6);
    if device.flags & flags::INTER_CONTAINER == 0
        && same_network
        && *destination != device.gateway_v6
        && !source.is_unspecified()
        && neighbours::ask_the_bridge(*packet, parsed)?
    {
        return Ok(Scope::Link);
    }
    if for_link_only {
        // A link-local source does not leave its link (RFC 4291 section 2.5.6), and says no more on it than this: whether a
        // neighbour is still there is asked at the neighbour's own address, from any of one's own (RFC 4861 section 7.3.3).
        return if same_network && !source.is_unspecified() && neighbours::resolves(*packet, parsed) {
            Ok(Scope::Link)
        } else {
            Err(DropReason::SpoofedAddress)
        };
    }
    Ok(if same_network && *destination != device.gateway_v6 { Scope::Neighbour } else { Scope::Beyond })
}

/// Any IP packet that is what it says.
#[inline(always)]
fn ip(packet: &Packet, parsed: &mut Parsed, device: &Device, scope: Scope, epoch: u32) -> Outcome<Verdict> {
    if scope != Scope::Neighbour && is_vxlan(parsed, device) {
        return Err(DropReason::Isolated);
    }
    if scope == Scope::Link {
        return Ok(Verdict::Pass(Path::SlowPath));
    }
    // The client of a published port may be a neighbour: then its answer must come from the host's port.
    if scope != Scope::Neighbour || device.flags & flags::PUBLISHED != 0 {
        match fragments::complete(packet, parsed) {
            Ok(None) => {}
            Ok(Some(verdict)) => return Ok(verdict),
            // Neighbours' fragments are bridged as they are.
            Err(_) if scope == Scope::Neighbour => {}
            // It has waited in vain. If it is for the host, the host's stack knows what to do.
            Err(reason) if scope == Scope::Elsewhere || !maps::is_host_address(&parsed.tuple.remote) => {
                return Err(reason);
            }
            Err(_) => return Ok(Verdict::Pass(Path::Host)),
        }
        if let Some(flow) = flows::find_inside(&parsed.tuple, parsed, epoch) {
            match flow.kind {
                FlowKind::HAIRPIN if scope == Scope::Elsewhere && flow.remote_network != device.network => {}
                FlowKind::HAIRPIN => return portmap::answer_hairpin(packet, parsed, flow),
                FlowKind::TURN_BACK if scope == Scope::Beyond => {
                    return turn_back::again(*packet, parsed, flow);
                }
                _ if scope == Scope::Beyond => return masquerade::go_on(packet, parsed, device, flow),
                _ => {}
            }
        }
        if parsed.is_icmp_error {
            cold_path();
            if let Some(verdict) = icmp_error::leave(packet, parsed, device, epoch)? {
                return Ok(verdict);
            }
        }
    }
    match scope {
        Scope::Neighbour => neighbour(packet, parsed, device),
        Scope::Elsewhere => Err(DropReason::SpoofedAddress),
        _ => beyond(packet, parsed, device),
    }
}

/// To a member of the same network.
#[inline(always)]
fn neighbour(packet: &Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    if device.flags & flags::INTER_CONTAINER == 0 {
        return Err(DropReason::InterContainerDisabled);
    }
    if let Some(endpoint) = maps::endpoint(device.network, &parsed.tuple.remote) {
        return bridge::deliver(packet, endpoint);
    }
    if device.flags & flags::OVERLAY != 0
        && let Some(remote) = maps::remote(device.network, &parsed.tuple.remote)
    {
        return overlay::encapsulate(*packet, parsed, device, remote);
    }
    // Nobody that is known: the host may have the address, an anycast one for instance.
    if is_vxlan(parsed, device) {
        return Err(DropReason::Isolated);
    }
    Ok(Verdict::Pass(Path::SlowPath))
}

/// Whether it would be taken for a packet of this host's tunnels, here and at every peer: VXLAN has no authentication.
#[inline(always)]
fn is_vxlan(parsed: &Parsed, device: &Device) -> bool {
    parsed.tuple.protocol == protocol::UDP
        && device.vxlan_port != 0
        && parsed.tuple.remote_port == device.vxlan_port
}

/// To whoever is not in the container's network, through no flow that is known.
#[inline(always)]
fn beyond(packet: &Packet, parsed: &mut Parsed, device: &Device) -> Outcome<Verdict> {
    if maps::is_host_address(&parsed.tuple.remote) {
        return host(packet, parsed, device, None);
    }
    if device.flags & flags::INTERNAL != 0 {
        return Err(DropReason::Internal);
    }
    if let Some(subnet) = maps::subnet(&parsed.tuple.remote) {
        return if flags::knows_members(subnet.flags, parsed.is_v6) {
            host(packet, parsed, device, Some(subnet))
        } else {
            Err(DropReason::Isolated)
        };
    }
    if flags::routes(device.flags, parsed.is_v6) {
        return routed::open(*packet, parsed, device);
    }
    if device.flags & flags::MASQUERADE == 0 {
        return Err(DropReason::NoRoute);
    }
    masquerade::open(*packet, parsed, device)
}

/// To an address of this host, or to one in another of its networks whose members are known by their own: a published
/// port, or the host itself.
#[inline(always)]
fn host(packet: &Packet, parsed: &mut Parsed, device: &Device, subnet: Option<&Subnet>) -> Outcome<Verdict> {
    let is_own = subnet.is_none();
    if is_own && device.flags & flags::ISOLATED != 0 {
        return Err(DropReason::Isolated);
    }
    let unserved = if is_own { Ok(Verdict::Pass(Path::Host)) } else { Err(DropReason::Isolated) };
    // From here on the container is a client: the host's end is the near one.
    parsed.turn();
    if parsed.is_icmp_error {
        return match icmp_error::turn_back(packet, parsed, device)? {
            Some(verdict) => Ok(verdict),
            None => unserved,
        };
    }
    if !parsed.has_ports || is_own && protocol::is_icmp(parsed.tuple.protocol) {
        return unserved;
    }
    let from = portmap::From::Container(device);
    if let Some((inside, flow)) = flows::find_outside(parsed, false)
        && let Some(verdict) = portmap::enter(packet, parsed, inside, flow, &from)?
    {
        return Ok(verdict);
    }
    let tuple = &parsed.tuple;
    let publication = match subnet {
        None => maps::publication(tuple.protocol, &tuple.local, tuple.local_port),
        Some(subnet) => routed::publication(parsed, subnet),
    };
    match publication {
        // An internal network has the host, not what the host publishes.
        Some(_) if device.flags & flags::INTERNAL != 0 => Err(DropReason::Internal),
        Some(publication) => portmap::open(*packet, parsed, &from, publication),
        None if !is_own => unserved,
        None => match maps::claim_of(&parsed.tuple) {
            Some(_) if helpers::has_socket(packet.skb.cast(), tuple) => unserved,
            Some(_) if flags::masquerades(device.flags, parsed.is_v6) => {
                turn_back::open(*packet, parsed, device)
            }
            _ => unserved,
        },
    }
}
