//! What the world sends.

use core::ffi::c_void;

use dataplane_common::{
    abi::{Address, DropReason, Endpoint, Index, Path, Publication},
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, protocol},
};

use crate::{
    flows, fragments, helpers, icmp_error, maps, masquerade, overlay,
    packet::{Headers, Packet},
    parse::{Fragment, Parsed, Side, parse_ipv4, parse_ipv6},
    portmap,
    refuse::refuse,
    route, routed,
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    // A tagged packet is a VLAN device's of this host, one for another host's address nobody's here.
    if packet.is_tagged() || packet.is_for_another_host() {
        return Ok(Verdict::Pass(Path::NotOurs));
    }
    packet.linearise(Ethernet::LENGTH);
    let parsed = match packet.read::<Ethernet>(0)?.ether_type.get() {
        ETHERTYPE_IPV4 => parse_ipv4(packet, Side::Destination),
        ETHERTYPE_IPV6 => parse_ipv6(packet, Side::Destination),
        _ => return Ok(Verdict::Pass(Path::NotOurs)),
    };
    let parsed = match parsed {
        Ok(parsed) => parsed,
        // More extension headers than are looked at may hide the tunnel port.
        Err(DropReason::UnsupportedProtocol) if is_uplink(packet) => {
            return Err(DropReason::UnsupportedProtocol);
        }
        // The host's own stack judges and counts what is malformed.
        Err(_) => return Ok(Verdict::Pass(Path::NotOurs)),
    };
    match ip(packet, parsed) {
        Ok(verdict) => Ok(verdict),
        Err(reason) => Ok(refuse(packet, reason)),
    }
}

#[inline(always)]
fn ip(packet: &Packet, parsed: &mut Parsed) -> Outcome<Verdict> {
    if parsed.tuple.protocol == protocol::UDP
        && let Some(device) = maps::device(packet.device())
        && parsed.tuple.local_port == device.vxlan_port
        && device.vxlan_port != 0
    {
        if maps::is_host_address(&parsed.tuple.local) {
            return overlay::decapsulate(packet, parsed);
        }
        // Broadcast, multicast, anycast, link-local: the vxlan device would take it, from whomever.
        if !route::is_forwarded(*packet, parsed) {
            return Err(DropReason::BadEncapsulation);
        }
    }
    if parsed.fragment() != Fragment::Whole
        && is_served(&parsed.tuple.local, parsed.is_v6)
        && is_uplink(packet)
    {
        match fragments::complete(packet, parsed) {
            Ok(None) => {}
            Ok(Some(verdict)) => return Ok(verdict),
            // It has waited in vain. If it is the host's, the host's stack knows what to do.
            Err(_) => return Ok(Verdict::Pass(Path::NotOurs)),
        }
    }
    if let Some((inside, flow)) = flows::find_outside(parsed, true)
        && let Some(verdict) = portmap::enter(packet, parsed, inside, flow, &portmap::From::Uplink)?
    {
        return Ok(verdict);
    }
    if parsed.is_icmp_error
        && let Some(verdict) = icmp_error::enter(packet, parsed)?
    {
        return Ok(verdict);
    }
    unknown(packet, parsed)
}

/// An uplink that the controller no longer knows is an ordinary device of the host. What flows there are go on until the program
/// is gone as well; no packet of theirs asks for the device.
#[inline(always)]
fn is_uplink(packet: &Packet) -> bool {
    maps::device(packet.device()).is_some()
}

/// Whether there may be flows to an address.
#[inline(always)]
fn is_served(address: &Address, is_v6: bool) -> bool {
    maps::is_host_address(address) || routed::network(address, is_v6).is_some()
}

/// A packet of no flow.
#[inline(always)]
fn unknown(packet: &Packet, parsed: &Parsed) -> Outcome<Verdict> {
    if !is_uplink(packet) {
        return Ok(Verdict::Ignore);
    }
    match way_in(packet.skb.cast(), parsed)? {
        WayIn::None => Ok(Verdict::Pass(Path::NotOurs)),
        WayIn::Publication(publication) => {
            portmap::open(*packet, parsed, &portmap::From::Uplink, publication)
        }
        WayIn::Claim(claim, endpoint) => masquerade::accept(*packet, parsed, claim, endpoint),
    }
}

/// What a packet of no flow may open one by.
pub enum WayIn<'a> {
    /// It is none of weft's.
    None,
    /// A published port.
    Publication(&'a Publication),
    /// The external port of a container that hears the sender.
    Claim(&'a Index, &'a Endpoint),
}

/// Asks for it; also what [`super::uplink_xdp`] drops is decided here. The context is that of either hook.
#[inline(always)]
pub fn way_in<'a>(context: *mut c_void, parsed: &Parsed) -> Outcome<WayIn<'a>> {
    let tuple = &parsed.tuple;
    if !maps::is_host_address(&tuple.local) {
        let Some(subnet) = maps::subnet(&tuple.local) else { return Ok(WayIn::None) };
        let publication = routed::publication(parsed, subnet).ok_or(DropReason::DirectRouting)?;
        if is_impossible(&tuple.remote, parsed.is_v6) {
            return Err(DropReason::SpoofedAddress);
        }
        return Ok(WayIn::Publication(publication));
    }
    if protocol::is_icmp(tuple.protocol) || !parsed.has_ports {
        return Ok(WayIn::None);
    }
    match maps::publication(tuple.protocol, &tuple.local, tuple.local_port) {
        Some(_) if is_impossible(&tuple.remote, parsed.is_v6) => Err(DropReason::SpoofedAddress),
        // A gateway of weft's networks: `to_uplink` lets no answer of that name out.
        Some(_) if maps::subnet(&tuple.local).is_some() => Err(DropReason::DirectRouting),
        Some(publication) => Ok(WayIn::Publication(publication)),
        None => match maps::claim_of(tuple) {
            // A process of the host may have bound the port after the claim: what was there first goes on, and what
            // nobody here has asked for is the process'.
            Some(_) if helpers::has_socket(context, tuple) => Ok(WayIn::None),
            Some(_) if is_impossible(&tuple.remote, parsed.is_v6) => Err(DropReason::SpoofedAddress),
            Some(claim) => Ok(WayIn::Claim(claim, masquerade::listener(claim, tuple)?)),
            None => Ok(WayIn::None),
        },
    }
}

/// Whether nobody outside can have this source address: the kernel's own checks (RFC 1812 section 5.3.7) are not passed
/// on the way into a container. Asked for new flows only.
#[inline(always)]
fn is_impossible(source: &Address, is_v6: bool) -> bool {
    let never = if is_v6 {
        const LOOPBACK: u32 = u32::from_be(1);
        source.is_multicast_v6()
            || source.is_link_local()
            || matches!(source.words(), [0, 0, 0, 0 | LOOPBACK])
    } else {
        let first = u32::from_be(source.v4_network_order()) >> 24;
        first == 0 || first == 127 || first >= 224
    };
    never || maps::is_host_address(source) || maps::subnet(source).is_some()
}
