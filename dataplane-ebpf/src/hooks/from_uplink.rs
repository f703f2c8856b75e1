//! What the world sends.

use dataplane_common::{
    abi::{Address, Device, DropReason, Path},
    packet::{Ethernet, protocol},
};

use crate::{
    flows, maps, overlay,
    packet::{Packet, Parsed, Side, is_ipv4, parse_ipv4},
    portmap,
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    // An uplink that the controller no longer knows is an ordinary device of the host.
    let Some(device) = maps::device(packet.device()) else { return Ok(Verdict::Ignore) };
    // A tagged packet is a VLAN device's of this host, one for another host's address nobody's here.
    if packet.is_tagged() || packet.is_for_another_host() {
        return Ok(Verdict::Pass(Path::NotOurs));
    }
    packet.linearise(Ethernet::LENGTH);
    if !is_ipv4(packet.read::<Ethernet>(0)?) {
        return Ok(Verdict::Pass(Path::NotOurs));
    }
    let parsed = match parse_ipv4(packet, Ethernet::LENGTH, Side::Destination) {
        Ok(parsed) => parsed,
        // The host's own stack judges and counts what is malformed.
        Err(_) => return Ok(Verdict::Pass(Path::NotOurs)),
    };
    if parsed.tuple.protocol == protocol::UDP
        && parsed.tuple.local_port == device.vxlan_port
        && device.vxlan_port != 0
        && maps::is_host_address(&parsed.tuple.local)
    {
        return overlay::decapsulate(packet, &parsed);
    }
    if let Some((inside, flow)) = flows::find_outside(&parsed) {
        let from = portmap::From::Uplink(device);
        if let Some(verdict) = portmap::enter(packet, &parsed, inside, flow, &from)? {
            return Ok(verdict);
        }
    }
    unknown(packet, &parsed, device)
}

/// A packet of no flow.
#[inline(always)]
fn unknown(packet: &Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    let tuple = &parsed.tuple;
    if !maps::is_host_address(&tuple.local) {
        return match maps::subnet(&tuple.local) {
            Some(_) => Err(DropReason::DirectRouting),
            None => Ok(Verdict::Pass(Path::NotOurs)),
        };
    }
    if tuple.protocol == protocol::ICMP || !parsed.has_ports {
        return Ok(Verdict::Pass(Path::NotOurs));
    }
    match maps::publication(tuple.protocol, &tuple.local, tuple.local_port) {
        Some(_) if is_impossible(&tuple.remote) => Err(DropReason::SpoofedAddress),
        Some(publication) => portmap::open(packet, parsed, portmap::From::Uplink(device), publication),
        None => Ok(Verdict::Pass(Path::NotOurs)),
    }
}

/// Whether nobody outside can have this source address: the kernel's own checks (RFC 1812 section 5.3.7) are not passed
/// on the way into a container. Asked for new flows only.
#[inline(always)]
fn is_impossible(source: &Address) -> bool {
    let first = u32::from_be(source.v4_network_order()) >> 24;
    first == 0
        || first == 127
        || first >= 224
        || maps::is_host_address(source)
        || maps::subnet(source).is_some()
}
