//! Masquerade: a container's flow to the world leaves with the uplink's address and a port of weft's pool.

use core::hint::cold_path;

use dataplane_common::{
    abi::{Address, Device, DeviceRole, DropReason, Endpoint, Flow, FlowKind, Index, Path, Tuple, flags},
    flow::{Direction, State},
    packet::tcp_flags,
};

use crate::{
    external_port, flows, helpers, maps,
    packet::{Headers, Packet},
    parse::{NETWORK, Parsed},
    redirect, route, translate,
    verdict::{Outcome, Verdict},
};

/// The first packet of a flow on its way out.
#[inline(always)]
pub fn leave(packet: &Packet, parsed: &Parsed, device: &Device, flow: &Flow) -> Outcome<Verdict> {
    let path = translate_out(packet, parsed, device, flow)?;
    redirect::to_uplink(flow.uplink, path)
}

/// Makes a packet one of the host's, all but its Ethernet header.
#[inline(always)]
fn translate_out(packet: &Packet, parsed: &Parsed, device: &Device, flow: &Flow) -> Outcome<Path> {
    if !flags::forwards(device.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    fits(packet, parsed, device, flow.uplink)?;
    translate::rewrite(*packet, parsed, &flow.outside)?;
    Ok(match flow.kind {
        FlowKind::PORTMAP => Path::PortmapOut,
        FlowKind::ROUTED => Path::RoutedOut,
        _ => Path::MasqueradeOut,
    })
}

/// A packet of a flow that is there. The first that leaves after the flow's time was noted, once a second, goes the kernel's
/// way, which keeps the neighbour alive; the next hop is remembered for the others, for which the kernel would look each time.
#[inline(always)]
pub fn go_on(packet: &Packet, parsed: &Parsed, device: &Device, flow: &mut Flow) -> Outcome<Verdict> {
    let path = translate_out(packet, parsed, device, flow)?;
    // A copy: another CPU may write it.
    let next_hop = flow.next_hop;
    // Of repeated RSTs the time is not noted.
    let is_fresh = next_hop.asked_ns == flow.last_seen_ns
        && next_hop.type_of_service == route::type_of_service(packet, parsed.is_v6)?
        && parsed.tcp_flags & tcp_flags::RST == 0;
    if is_fresh {
        return redirect::to_next_hop(packet, flow.uplink, &next_hop, path);
    }
    cold_path();
    route::next_hop(*packet, flow.uplink, flow.last_seen_ns, &mut flow.next_hop)?;
    redirect::to_uplink(flow.uplink, path)
}

/// Whether the packet, or each segment of it, fits the uplink. The container's own MTU nearly always sees to that.
#[inline(always)]
pub fn fits(packet: &Packet, parsed: &Parsed, device: &Device, uplink: u32) -> Outcome<()> {
    let bytes = packet.length() as usize - NETWORK;
    if bytes <= device.uplink_mtu as usize {
        return Ok(());
    }
    let mtu = maps::device(uplink).map_or(0, |uplink| uplink.mtu as usize);
    if mtu == 0 || packet.segment_length(parsed) - NETWORK <= mtu {
        return Ok(());
    }
    if let Some(scratch) = maps::scratch() {
        scratch.mtu = mtu as u16;
    }
    Err(DropReason::TooBig)
}

/// The first packet of a flow to the world.
#[inline(always)]
pub fn open(packet: Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    let packet = &packet;
    if !flags::forwards(device.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    flows::may_open_from_inside(parsed)?;
    let uplink_index = route::route(*packet, parsed)?;
    let uplink = maps::device(uplink_index)
        .filter(|uplink| uplink.role == DeviceRole::UPLINK && !uplink.address_of(parsed.is_v6).is_any());
    let uplink = uplink.ok_or(DropReason::NoRoute)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;

    fits(packet, parsed, device, uplink_index)?;
    let external = uplink.address_of(parsed.is_v6);
    enter(*packet, parsed, device, external, uplink_index)?;
    leave(packet, parsed, device, &scratch.flow)
}

/// Enters a flow of a container's socket, with the external port that the socket has or gets. `uplink` is 0 where the other
/// end is another container's external port.
#[inline(never)]
pub fn enter(
    packet: Packet,
    parsed: &Parsed,
    device: &Device,
    external: &Address,
    uplink: u32,
) -> Outcome<()> {
    let settings = maps::settings().ok_or(DropReason::UnknownDevice)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let inside = &parsed.tuple;
    let now = helpers::now_ns();
    scratch.flow.outside = *inside;
    scratch.flow.outside.local = *external;
    let (port, uses_mapping) =
        match external_port::of_socket(packet, inside, external, settings, device.epoch, now) {
            Err(DropReason::PortsExhausted) => (external_port::overlapping(packet, inside, external)?, 0),
            port => (port?, 1),
        };
    // Field by field: a whole record would be made on the stack first, which has no room for it.
    let flow = &mut scratch.flow;
    flow.outside.local_port = port;
    flow.epoch = device.epoch;
    flow.network = device.network;
    flow.state = State::opened_by(Direction::FromInside, inside.protocol, parsed.tcp_flags).0;
    let kind = if uplink == 0 { FlowKind::TURN_BACK } else { FlowKind::MASQUERADE };
    flows::begin(flow, kind, uplink);
    scratch.index.inside = *inside;
    scratch.index.uses_mapping = uses_mapping;
    let opened = flows::open(inside, &scratch.flow, &scratch.index);
    if opened != Ok(true) && uses_mapping != 0 {
        external_port::release_mapping(&scratch.flow.outside, inside);
    }
    opened?;
    if device.flags & flags::FILTER_ADDRESS_DEPENDENT != 0 {
        scratch.claim = scratch.flow.outside.address_claim();
        scratch.claimant = Index::of(inside.address_claim());
        let _ = maps::claim(&scratch.claim, &scratch.claimant);
    }
    Ok(())
}

/// The container that hears what comes from the world to the external port of its socket, through no flow. Filtering
/// decides (RFC 4787 section 5). What is refused is not answered (RFC 5382 REQ-4).
#[inline(always)]
pub fn listener<'a>(claim: &Index, outside: &Tuple) -> Outcome<&'a Endpoint> {
    let endpoint = claimant(claim).ok_or(DropReason::Filtered)?;
    filter(endpoint.flags, outside)?;
    Ok(endpoint)
}

/// Such a packet.
#[inline(always)]
pub fn accept(packet: Packet, parsed: &Parsed, claim: &Index, endpoint: &Endpoint) -> Outcome<Verdict> {
    let packet = &packet;
    flows::may_open(parsed)?;
    if !flags::forwards(endpoint.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    enter_from_outside(&parsed.tuple, endpoint, claim, FlowKind::MASQUERADE, packet.device())?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    translate::rewrite(*packet, parsed, &scratch.index.inside)?;
    redirect::to_container(packet, endpoint, endpoint.gateway_mac, Path::MasqueradeIn)
}

/// Enters a flow that the other end opens towards a socket's external port.
#[inline(never)]
pub fn enter_from_outside(
    outside: &Tuple,
    endpoint: &Endpoint,
    claim: &Index,
    kind: u8,
    uplink: u32,
) -> Outcome<()> {
    let network = maps::subnet(&claim.inside.local).ok_or(DropReason::Filtered)?.network;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let now = helpers::now_ns();
    scratch.index.inside = *outside;
    scratch.index.inside.local = claim.inside.local;
    scratch.index.inside.local_port = claim.inside.local_port;
    scratch.index.uses_mapping = 1;
    let flow = &mut scratch.flow;
    flow.outside = *outside;
    flow.epoch = endpoint.epoch;
    flow.network = network;
    flow.state = State::opened_by(Direction::FromOutside, outside.protocol, scratch.parsed.tcp_flags).0;
    flows::begin(flow, kind, uplink);
    let key = external_port::mapping_key(&scratch.index.inside, &outside.local);
    // Without its mapping the claim is about to go, and an earlier container's is nobody's.
    let mapping = maps::mapping(&key).ok_or(DropReason::Filtered)?;
    // SAFETY: a map value.
    if unsafe { (*mapping).epoch != endpoint.epoch || (*mapping).port != outside.local_port } {
        return Err(DropReason::Filtered);
    }
    external_port::use_mapping(&key, endpoint.epoch, now).ok_or(DropReason::Filtered)?;
    match flows::open(&scratch.index.inside, &scratch.flow, &scratch.index) {
        Ok(true) => Ok(()),
        Ok(false) => {
            external_port::release_mapping(outside, &scratch.index.inside);
            Ok(())
        }
        Err(reason) => {
            external_port::release_mapping(outside, &scratch.index.inside);
            Err(reason)
        }
    }
}

/// The container whose socket has a claim.
#[inline(always)]
pub fn claimant<'a>(claim: &Index) -> Option<&'a Endpoint> {
    maps::endpoint(maps::subnet(&claim.inside.local)?.network, &claim.inside.local)
}

/// Whether a container of a network with these flags hears this remote end uninvited.
#[inline(always)]
pub fn filter(policy: u32, outside: &Tuple) -> Outcome<()> {
    // A claim outlives its flows, and may outlive what allowed them.
    if !flags::masquerades(policy, !outside.local.is_v4()) {
        return Err(DropReason::Filtered);
    }
    if policy & flags::FILTER_ENDPOINT_INDEPENDENT != 0 {
        return Ok(());
    }
    if policy & flags::FILTER_ADDRESS_DEPENDENT != 0 && maps::index(&outside.address_claim()).is_some() {
        return Ok(());
    }
    Err(DropReason::Filtered)
}
