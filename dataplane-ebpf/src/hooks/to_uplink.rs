//! Safety net: no container's source address leaves untranslated.

use dataplane_common::{
    abi::{Address, DropReason},
    packet::{Ethernet, Ipv4},
};

use crate::{
    maps,
    packet::{Packet, is_ipv4},
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    packet.linearise(Ethernet::LENGTH + Ipv4::LENGTH);
    let Ok(ethernet) = packet.read::<Ethernet>(0) else { return Ok(Verdict::Ignore) };
    if !is_ipv4(ethernet) {
        return Ok(Verdict::Ignore);
    }
    let Ok(ip) = packet.read::<Ipv4>(Ethernet::LENGTH) else { return Ok(Verdict::Ignore) };
    let source = Address::from_v4_network_order(ip.source.raw());
    // Nearly everything leaves with the uplink's own address.
    if let Some(device) = maps::device(packet.device())
        && device.address == source
    {
        return Ok(Verdict::Ignore);
    }
    // The gateway addresses of weft's networks lie in its subnets, too, and are as private.
    match maps::subnet(&source) {
        Some(_) => Err(DropReason::UntranslatedSource),
        None => Ok(Verdict::Ignore),
    }
}
