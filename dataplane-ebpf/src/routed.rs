//! Routed networks: the world knows their containers by their own addresses. Nothing is translated, but there are flows all
//! the same, so that only answers come in, and what is for a published port.

use dataplane_common::{
    abi::{Address, Device, DeviceRole, DropReason, FlowKind, Publication, Subnet, flags},
    flow::{Direction, State},
};

use crate::{
    flows, helpers, maps, masquerade,
    packet::Packet,
    parse::Parsed,
    route,
    verdict::{Outcome, Verdict},
};

/// The first packet of a flow to the world.
#[inline(never)]
pub fn open(packet: Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    let packet = &packet;
    flows::may_open(parsed)?;
    let uplink = route::route(*packet, parsed)?;
    maps::device(uplink).filter(|device| device.role == DeviceRole::UPLINK).ok_or(DropReason::NoRoute)?;
    masquerade::fits(packet, parsed, device, uplink)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let now = helpers::now_ns();
    // Field by field, see `masquerade::enter`.
    let flow = &mut scratch.flow;
    flow.outside = parsed.tuple;
    flow.last_seen_ns = now;
    flow.created_ns = now;
    flow.epoch = device.epoch;
    flow.network = device.network;
    flow.uplink = uplink;
    flow.remote_network = 0;
    flow.remote_epoch = 0;
    flow.kind = FlowKind::ROUTED;
    flow.state = State::opened_by(Direction::FromInside, parsed.tuple.protocol, parsed.tcp_flags).0;
    flow.reserved = [0; 2];
    scratch.index.inside = parsed.tuple;
    flows::open(&parsed.tuple, &scratch.flow, &scratch.index)?;
    masquerade::leave(packet, parsed, device, &scratch.flow)
}

/// The routed network that an address is of.
#[inline(always)]
pub fn network<'a>(address: &Address, is_v6: bool) -> Option<&'a Subnet> {
    maps::subnet(address).filter(|subnet| flags::routes(subnet.flags, is_v6))
}

/// The published port that a packet to a container's own address is for. `parsed` is seen from the container.
#[inline(always)]
pub fn publication<'a>(parsed: &Parsed) -> Option<&'a Publication> {
    if !parsed.has_ports {
        return None;
    }
    maps::publication_of(parsed.tuple.protocol, &parsed.tuple.local, parsed.tuple.local_port)
}
