//! Networks whose containers others know by their own addresses: routed ones, where the containers leave with them, and
//! unprotected ones, where they do not. Nothing is translated, but there are flows all the same, so that only answers come
//! in, and what is for a published port; in unprotected networks whatever comes.

use dataplane_common::{
    abi::{Address, Device, DeviceRole, DropReason, FlowKind, Index, Publication, Subnet, flags},
    flow::{Direction, State},
    packet::protocol,
};

use crate::{
    flows, maps, masquerade,
    packet::Packet,
    parse::Parsed,
    route,
    verdict::{Outcome, Verdict},
};

/// The first packet of a flow to the world.
#[inline(never)]
pub fn open(packet: Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    let packet = &packet;
    flows::may_open_from_inside(parsed)?;
    let uplink = route::route(*packet, parsed)?;
    maps::device(uplink).filter(|device| device.role == DeviceRole::UPLINK).ok_or(DropReason::NoRoute)?;
    masquerade::fits(packet, parsed, device, uplink)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    // Field by field, see `masquerade::enter`.
    let flow = &mut scratch.flow;
    flow.outside = parsed.tuple;
    flow.epoch = device.epoch;
    flow.network = device.network;
    flow.state = State::opened_by(Direction::FromInside, parsed.tuple.protocol, parsed.tcp_flags).0;
    flows::begin(flow, FlowKind::ROUTED, uplink);
    scratch.index = Index::of(parsed.tuple);
    flows::open(&parsed.tuple, &scratch.flow, &scratch.index)?;
    masquerade::leave(packet, parsed, device, &scratch.flow)
}

/// The network that an address is of, if others know its members by their own addresses.
#[inline(always)]
pub fn network<'a>(address: &Address, is_v6: bool) -> Option<&'a Subnet> {
    maps::subnet(address).filter(|subnet| flags::knows_members(subnet.flags, is_v6))
}

/// Where a packet leads that somebody else sends first to a container's own address. `parsed` is seen from the container.
#[inline(always)]
pub fn publication<'a>(parsed: &Parsed, subnet: &Subnet) -> Option<&'a Publication> {
    let (tuple, is_v6) = (&parsed.tuple, parsed.is_v6);
    if !parsed.has_ports || !flags::knows_members(subnet.flags, is_v6) {
        return None;
    }
    if !is_open(subnet.flags, tuple.protocol, is_v6) {
        return maps::publication_of(tuple.protocol, &tuple.local, tuple.local_port);
    }
    if protocol::is_icmp(tuple.protocol) && !parsed.is_remote_query() {
        // The answer to what nobody has asked.
        return None;
    }
    let publication = &mut maps::scratch()?.publication;
    publication.address = tuple.local;
    publication.network = subnet.network;
    // Every port leads to itself.
    publication.first_host_port = 0;
    publication.first_container_port = 0;
    Some(publication)
}

/// Whether members are reached by their own addresses without a publication: echo requests by whoever may know them, as
/// with Docker, and everything in an unprotected network. A network that is internal is neither.
#[inline(always)]
pub fn is_open(flags: u32, protocol: u8, is_v6: bool) -> bool {
    flags & flags::INTERNAL == 0 && (protocol::is_icmp(protocol) || flags::is_unprotected(flags, is_v6))
}
