//! What a container sends.

use dataplane_common::{
    abi::{Device, DropReason, FlowKind, Path, flags},
    packet::{Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, protocol},
};

use crate::{
    bridge, flows, maps, masquerade, overlay,
    packet::{Packet, Parsed, Side, parse_ipv4},
    portmap,
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
    match ethernet.ether_type.get() {
        ETHERTYPE_IPV4 => ipv4(packet, device),
        ETHERTYPE_ARP => arp(packet, device),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

/// ARP is the bridge's, but nobody speaks for another: the sender must be the container, or nobody (RFC 5227 probe).
#[inline(always)]
fn arp(packet: &Packet, device: &Device) -> Outcome<Verdict> {
    packet.linearise(Ethernet::LENGTH + size_of::<Arp>());
    let arp = packet.read::<Arp>(Ethernet::LENGTH)?;
    let (mac, sender) = (arp.sender_mac, arp.sender_address.raw());
    if mac != device.mac {
        return Err(DropReason::SpoofedMac);
    }
    if sender != device.address.v4_network_order() && sender != 0 {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(Verdict::Pass(Path::SlowPath))
}

#[inline(always)]
fn ipv4(packet: &Packet, device: &Device) -> Outcome<Verdict> {
    let parsed = parse_ipv4(packet, Ethernet::LENGTH, Side::Source)?;
    if parsed.tuple.local.v4_network_order() != device.address.v4_network_order() {
        return Err(DropReason::SpoofedAddress);
    }
    let destination = u32::from_be(parsed.tuple.remote.v4_network_order());
    let own = u32::from_be(device.address.v4_network_order());
    // A prefix length of 0 would shift by 32; the controller never writes one for a container.
    let host_bits = u32::MAX >> (device.prefix_length & 31);
    if destination == u32::MAX || destination >> 28 == 0xe || destination == own | host_bits {
        return if device.flags & flags::INTER_CONTAINER != 0 {
            Ok(Verdict::Pass(Path::SlowPath))
        } else {
            Err(DropReason::InterContainerDisabled)
        };
    }
    let same_network = (destination ^ own) & !host_bits == 0;
    if same_network && destination != u32::from_be(device.gateway.v4_network_order()) {
        return neighbour(packet, &parsed, device);
    }
    // VXLAN has no authentication: what a container sends to the tunnel port would be taken for this host's, here and
    // at every peer. The first fragment is enough to stop.
    if parsed.tuple.protocol == protocol::UDP
        && device.vxlan_port != 0
        && parsed.tuple.remote_port == device.vxlan_port
    {
        return Err(DropReason::Isolated);
    }
    if let Some(flow) = flows::find_inside(&parsed.tuple, &parsed, device.epoch) {
        return match flow.kind {
            FlowKind::HAIRPIN => portmap::answer_hairpin(packet, &parsed, flow),
            _ => masquerade::leave(packet, &parsed, device, flow),
        };
    }
    if maps::is_host_address(&parsed.tuple.remote) {
        return host(packet, parsed, device);
    }
    if device.flags & flags::INTERNAL != 0 {
        return Err(DropReason::Internal);
    }
    if maps::subnet(&parsed.tuple.remote).is_some() {
        return Err(DropReason::Isolated);
    }
    if device.flags & flags::MASQUERADE == 0 {
        return Err(DropReason::NoRoute);
    }
    masquerade::open(packet, &parsed, device)
}

/// To a member of the same network.
#[inline(always)]
fn neighbour(packet: &Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    // The client of a published port may be a neighbour: then this is the answer that must come from the host's port.
    if device.flags & flags::PUBLISHED != 0
        && let Some(flow) = flows::find_inside(&parsed.tuple, parsed, device.epoch)
        && flow.kind == FlowKind::HAIRPIN
    {
        return portmap::answer_hairpin(packet, parsed, flow);
    }
    if device.flags & flags::INTER_CONTAINER == 0 {
        return Err(DropReason::InterContainerDisabled);
    }
    if let Some(endpoint) = maps::endpoint(device.network, &parsed.tuple.remote) {
        return bridge::deliver(packet, endpoint);
    }
    if device.flags & flags::OVERLAY != 0
        && let Some(remote) = maps::remote(device.network, &parsed.tuple.remote)
    {
        return overlay::encapsulate(packet, device, remote);
    }
    Ok(Verdict::Pass(Path::SlowPath))
}

/// To an address of this host: a published port, or the host itself.
#[inline(always)]
fn host(packet: &Packet, mut parsed: Parsed, device: &Device) -> Outcome<Verdict> {
    if parsed.tuple.protocol == protocol::ICMP || !parsed.has_ports {
        return Ok(Verdict::Pass(Path::Host));
    }
    // From here on the container is a client: the host's end is the near one.
    let tuple = &mut parsed.tuple;
    core::mem::swap(&mut tuple.local, &mut tuple.remote);
    core::mem::swap(&mut tuple.local_port, &mut tuple.remote_port);
    if let Some((inside, flow)) = flows::find_outside(&parsed)
        && let Some(verdict) =
            portmap::enter(packet, &parsed, inside, flow, &portmap::From::Container(device))?
    {
        return Ok(verdict);
    }
    let Parsed { tuple, .. } = &parsed;
    match maps::publication(tuple.protocol, &tuple.local, tuple.local_port) {
        // An internal network has the host, not what the host publishes.
        Some(_) if device.flags & flags::INTERNAL != 0 => Err(DropReason::Internal),
        Some(publication) => portmap::open(packet, &parsed, portmap::From::Container(device), publication),
        None => Ok(Verdict::Pass(Path::Host)),
    }
}
