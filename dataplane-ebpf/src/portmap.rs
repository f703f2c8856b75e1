//! Port mapping: packets for a published host port, and everything else that comes back in through a flow.

use dataplane_common::{
    abi::{Device, DropReason, Endpoint, Flow, FlowKind, Index, Path, Publication, Tuple, flags},
    flow::{Direction, State, substitute_port},
    packet::{protocol, tcp_flags},
};

use crate::{
    flows, helpers, maps,
    packet::Packet,
    parse::Parsed,
    redirect, translate,
    verdict::{Outcome, Verdict},
};

/// Who sent the packet that a flow leads in.
// A number and not a null pointer: following both kinds of pointer costs the verifier twice as many instructions.
#[repr(u32)]
pub enum From<'a> {
    /// An uplink.
    Uplink,
    /// A container of this host.
    Container(&'a Device),
}

/// A packet from the other end of a flow, on its way into the container: reply of a masqueraded flow, or for a
/// published port. `Ok(None)`: the flow's container has gone; the flow is forgotten and the packet may open a new one.
#[inline(always)]
pub fn enter(
    packet: &Packet,
    parsed: &Parsed,
    inside: &Tuple,
    flow: &Flow,
    from: &From<'_>,
) -> Outcome<Option<Verdict>> {
    if let From::Container(client) = from
        && flow.remote_epoch != client.epoch
    {
        // The client's address has another holder now.
        flows::forget(&parsed.tuple);
        return Ok(None);
    }
    let endpoint = match maps::endpoint(flow.network, &inside.local) {
        Some(endpoint) if endpoint.epoch == flow.epoch => endpoint,
        _ => {
            flows::forget(&parsed.tuple);
            return Ok(None);
        }
    };
    if matches!(from, From::Uplink) && !flags::forwards(endpoint.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    let path = match flow.kind {
        FlowKind::MASQUERADE => Path::MasqueradeIn,
        FlowKind::PORTMAP => Path::PortmapIn,
        FlowKind::ROUTED => Path::RoutedIn,
        _ => Path::HairpinIn,
    };
    deliver(packet, parsed, inside, endpoint, path, from).map(Some)
}

#[inline(always)]
fn deliver(
    packet: &Packet,
    parsed: &Parsed,
    inside: &Tuple,
    endpoint: &Endpoint,
    path: Path,
    from: &From<'_>,
) -> Outcome<Verdict> {
    translate::rewrite(*packet, parsed, inside)?;
    match from {
        From::Uplink => redirect::to_container(packet, endpoint, endpoint.gateway_mac, path),
        From::Container(_) => redirect::between_containers(packet, endpoint, endpoint.gateway_mac, path),
    }
}

/// The first packet for a published port. The caller knows that its destination is an address of this host, or the
/// container's own where others may know it.
#[inline(never)]
pub fn open(packet: Packet, parsed: &Parsed, from: &From<'_>, publication: &Publication) -> Outcome<Verdict> {
    let packet = &packet;
    flows::may_open(parsed)?;
    if is_connection_of_host(packet, parsed) {
        return Ok(Verdict::Pass(match from {
            From::Uplink => Path::NotOurs,
            From::Container(_) => Path::Host,
        }));
    }
    let endpoint = maps::endpoint(publication.network, &publication.address).ok_or(DropReason::NoEndpoint)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let outside = &parsed.tuple;
    // Field by field, see `masquerade::enter`.
    scratch.index = Index::of(*outside);
    scratch.index.inside.local = publication.address;
    scratch.index.inside.local_port = publication.container_port(outside.local_port);
    let flow = &mut scratch.flow;
    flow.outside = *outside;
    flow.epoch = endpoint.epoch;
    flow.network = publication.network;
    flow.state = State::opened_by(Direction::FromOutside, outside.protocol, parsed.tcp_flags).0;
    flows::begin(flow, FlowKind::HAIRPIN, 0);
    let path = match from {
        From::Uplink => {
            if !flags::forwards(endpoint.flags, parsed.is_v6) {
                return Err(DropReason::ForwardingDisabled);
            }
            scratch.flow.kind = FlowKind::PORTMAP;
            scratch.flow.uplink = packet.device();
            Path::PortmapIn
        }
        From::Container(device) => {
            scratch.flow.remote_network = device.network;
            scratch.flow.remote_epoch = device.epoch;
            if device.network == publication.network {
                if *device.address_of(parsed.is_v6) == publication.address {
                    // To itself: a packet from its own address would be refused by its stack, so it sees its gateway.
                    scratch.index.inside.remote = *device.gateway_of(parsed.is_v6);
                }
                // What neighbours say to one another directly is no flow, so it must not look like this one.
                scratch.index.inside.remote_port = substitute_port::of(outside.remote_port);
            }
            Path::HairpinIn
        }
    };
    flows::distinguish(&mut scratch.index.inside, &scratch.flow)?;
    flows::open(&scratch.index.inside, &scratch.flow, &scratch.index)?;
    deliver(packet, parsed, &scratch.index.inside, endpoint, path, from)
}

/// The container's answer to a client that is itself a container of this host.
#[inline(always)]
pub fn answer_hairpin(packet: &Packet, parsed: &Parsed, flow: &Flow) -> Outcome<Verdict> {
    let client = maps::endpoint(flow.remote_network, &flow.outside.remote)
        .filter(|client| client.epoch == flow.remote_epoch)
        .ok_or(DropReason::StaleFlow)?;
    translate::rewrite(*packet, parsed, &flow.outside)?;
    redirect::between_containers(packet, client, client.gateway_mac, Path::HairpinOut)
}

/// Whether this segment belongs to a connection of the host's own: one that was there before its port was published goes
/// on. Asked only where there is no flow.
#[inline(always)]
fn is_connection_of_host(packet: &Packet, parsed: &Parsed) -> bool {
    if parsed.tuple.protocol != protocol::TCP
        || parsed.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    {
        return false;
    }
    helpers::has_connection(packet.skb.cast(), &parsed.tuple)
}
