//! The last step: where a finished packet goes.

use dataplane_common::{
    abi::{DropReason, Endpoint, MacAddress, NextHop, Path},
    packet::Ethernet,
};

use crate::{
    helpers,
    packet::{Headers, Packet},
    verdict::{Outcome, Verdict},
};

/// From one container of this host to another. A frame for somebody else is somebody else's to the receiving stack, wherever
/// it is sent, until it is told otherwise (which newer kernels' `bpf_redirect_peer` does itself).
#[inline(always)]
pub fn between_containers(
    packet: &Packet,
    endpoint: &Endpoint,
    source: MacAddress,
    path: Path,
) -> Outcome<Verdict> {
    helpers::to_host(packet.skb);
    to_container(packet, endpoint, source, path)
}

/// Into a container of this host, past the bridge: straight to the other end of its veth. The packet was for this host.
#[inline(always)]
pub fn to_container(
    packet: &Packet,
    endpoint: &Endpoint,
    source: MacAddress,
    path: Path,
) -> Outcome<Verdict> {
    let ethernet = packet.write::<Ethernet>(0)?;
    ethernet.destination = endpoint.mac;
    ethernet.source = source;
    Ok(Verdict::Redirect(path, helpers::redirect_peer(endpoint.ifindex)))
}

/// Out to the world by a next hop that was asked for, where there is one.
#[inline(always)]
pub fn to_next_hop(packet: &Packet, ifindex: u32, next_hop: &NextHop, path: Path) -> Outcome<Verdict> {
    if ifindex == 0 || next_hop.ifindex != ifindex {
        return to_uplink(ifindex, path);
    }
    let ethernet = packet.write::<Ethernet>(0)?;
    ethernet.destination = next_hop.destination;
    ethernet.source = next_hop.source;
    Ok(Verdict::Redirect(path, helpers::redirect(ifindex, 0)))
}

/// Out to the world. The kernel knows route and neighbour, and resolves the neighbour where it must.
#[inline(always)]
pub fn to_uplink(ifindex: u32, path: Path) -> Outcome<Verdict> {
    if ifindex == 0 {
        return Err(DropReason::NoRoute);
    }
    Ok(Verdict::Redirect(path, helpers::redirect_neighbour(ifindex)))
}
