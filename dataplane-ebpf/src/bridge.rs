//! Bridging: container to container of one network, on one host.

use dataplane_common::{
    abi::{Endpoint, Path},
    packet::Ethernet,
};

use crate::{
    packet::{Headers, Packet},
    redirect,
    verdict::{Outcome, Verdict},
};

/// Unicast to a known container. The frame stays a frame of that network: its source MAC address is kept, the
/// destination is what the controller knows, whatever the sender's ARP cache says.
#[inline(always)]
pub fn deliver(packet: &Packet, endpoint: &Endpoint) -> Outcome<Verdict> {
    let source = packet.read::<Ethernet>(0)?.source;
    redirect::between_containers(packet, endpoint, source, Path::Bridge)
}
