//! Between two masqueraded containers through their external ports (RFC 4787 REQ-9, RFC 5382 REQ-8): each sees the
//! other's external address and port, as if the packet had been to the world and back. Each end has its own flow record.

use dataplane_common::abi::{Device, DropReason, Flow, FlowKind, Path, Tuple};

use crate::{
    flows, maps, masquerade,
    packet::Packet,
    parse::Parsed,
    redirect, translate,
    verdict::{Outcome, Verdict},
};

/// The first packet to another container's external port. `parsed` is seen from the host: its address is `local`.
#[inline(always)]
pub fn open(packet: Packet, parsed: &mut Parsed, device: &Device) -> Outcome<Verdict> {
    let packet = &packet;
    flows::may_open(parsed)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    // The sender's own flow comes first, whatever becomes of the packet: it lets the other's packets in.
    parsed.turn();
    let external = parsed.tuple.remote;
    masquerade::enter(*packet, parsed, device, &external, 0)?;
    parsed.turn();
    deliver(*packet, parsed, scratch.flow.outside.local_port)
}

/// A later packet of such a flow.
#[inline(always)]
pub fn again(packet: Packet, parsed: &mut Parsed, flow: &Flow) -> Outcome<Verdict> {
    let packet = &packet;
    let port = flow.outside.local_port;
    parsed.turn();
    deliver(*packet, parsed, port)
}

/// Into the other container. `parsed` is seen from the host; its remote end becomes the sender's external one.
#[inline(never)]
fn deliver(packet: Packet, parsed: &mut Parsed, port: u16) -> Outcome<Verdict> {
    let packet = &packet;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    // What the packet would look like if it came back from the world.
    let outside = Tuple { remote: parsed.tuple.local, remote_port: port, ..parsed.tuple };
    if let Some((inside, flow)) = flows::find_turned_back(&outside, parsed) {
        let endpoint = maps::endpoint(flow.network, &inside.local)
            .filter(|endpoint| endpoint.epoch == flow.epoch)
            .ok_or(DropReason::StaleFlow)?;
        translate::rewrite(*packet, parsed, inside)?;
        return redirect::between_containers(packet, endpoint, endpoint.gateway_mac, Path::HairpinIn);
    }
    let claim = maps::claim_of(&parsed.tuple).ok_or(DropReason::Filtered)?;
    let endpoint = masquerade::claimant(claim).ok_or(DropReason::Filtered)?;
    masquerade::filter(endpoint.flags, &outside)?;
    masquerade::enter_from_outside(&outside, endpoint, claim, FlowKind::TURN_BACK, 0)?;
    translate::rewrite(*packet, parsed, &scratch.index.inside)?;
    redirect::between_containers(packet, endpoint, endpoint.gateway_mac, Path::HairpinIn)
}
