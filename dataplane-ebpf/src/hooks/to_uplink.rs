//! Safety net: no container's source address leaves untranslated.

use dataplane_common::{
    abi::{Address, DropReason, flags},
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6},
};

use crate::{
    maps,
    packet::{Headers, Packet},
    verdict::{Outcome, Verdict},
};

#[inline(always)]
pub fn run(packet: &Packet) -> Outcome<Verdict> {
    packet.linearise(Ethernet::LENGTH + Ipv4::LENGTH);
    let Ok(ethernet) = packet.read::<Ethernet>(0) else { return Ok(Verdict::Ignore) };
    let ether_type = ethernet.ether_type.get();
    let source = match ether_type {
        ETHERTYPE_IPV4 => match packet.read::<Ipv4>(Ethernet::LENGTH) {
            Ok(ip) => Address::from_v4_network_order(ip.source.raw()),
            Err(_) => return Ok(Verdict::Ignore),
        },
        ETHERTYPE_IPV6 => {
            packet.linearise(Ethernet::LENGTH + Ipv6::LENGTH);
            match packet.read::<Ipv6>(Ethernet::LENGTH) {
                Ok(ip) => ip.source,
                Err(_) => return Ok(Verdict::Ignore),
            }
        }
        _ => return Ok(Verdict::Ignore),
    };
    // Nearly everything leaves with the uplink's own address.
    if let Some(device) = maps::device(packet.device())
        && *device.address_of(ether_type == ETHERTYPE_IPV6) == source
    {
        return Ok(Verdict::Ignore);
    }
    // The gateway addresses of weft's networks lie in its subnets, too, and are as private.
    match maps::subnet(&source) {
        Some(subnet)
            if !flags::knows_members(subnet.flags, ether_type == ETHERTYPE_IPV6)
                || maps::is_host_address(&source) =>
        {
            Err(DropReason::UntranslatedSource)
        }
        _ => Ok(Verdict::Ignore),
    }
}
