//! Neighbour discovery (RFC 4861): what a container may say in it, and whom it asks.

use dataplane_common::{
    abi::{Address, Device, DropReason, MacAddress},
    packet::{ChecksumDelta, Ethernet, Icmp, Ipv6, NeighbourOption, icmpv6, protocol},
};

use crate::{
    helpers::{self, IPV6, PSEUDO_HEADER},
    packet::{Headers, Packet},
    parse::{Fragment, NETWORK, Parsed},
    translate,
    verdict::Outcome,
};

/// Options of a message that are looked at.
const MOST_NEIGHBOUR_OPTIONS: u32 = 2;

/// Nobody speaks for another, and a container is no router (RFC 6105 has the reasons).
#[inline(always)]
pub fn check(packet: &Packet, parsed: &Parsed, device: &Device, link_local: &Address) -> Outcome<()> {
    let target = parsed.transport() + size_of::<Icmp>();
    match packet.read::<Icmp>(parsed.transport())?.kind {
        icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT => Err(DropReason::SpoofedAddress),
        icmpv6::ROUTER_SOLICITATION => link_layer_addresses(packet, target, device),
        icmpv6::NEIGHBOUR_SOLICITATION => link_layer_addresses(packet, target + size_of::<Address>(), device),
        icmpv6::NEIGHBOUR_ADVERTISEMENT => {
            packet.linearise(target + size_of::<Address>());
            let advertised = packet.read::<Address>(target)?;
            if *advertised != device.address_v6 && *advertised != *link_local {
                return Err(DropReason::SpoofedAddress);
            }
            link_layer_addresses(packet, target + size_of::<Address>(), device)
        }
        _ => Ok(()),
    }
}

/// Whether it is a solicitation or an advertisement of a neighbour. A function of its own for its stack.
#[inline(never)]
pub fn resolves(packet: Packet, parsed: &Parsed) -> bool {
    parsed.tuple.protocol == protocol::ICMPV6
        && parsed.fragment() == Fragment::Whole
        && packet.read::<Icmp>(parsed.transport()).is_ok_and(|message| {
            matches!(message.kind, icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::NEIGHBOUR_ADVERTISEMENT)
        })
}

/// Makes of a solicitation of one neighbour one of its group, which the bridge answers for members that may not talk to
/// one another (`proxy_ndp`). What asks whether a neighbour is still there (RFC 4861 section 7.3.3) is for the neighbour's
/// address: the kernel's proxy would not look at it and forward it (ip6_forward knows the setting of all devices only), and
/// under the neighbour's own MAC address it would meet an isolated port. False: it is something else.
#[inline(never)]
pub fn ask_the_bridge(packet: Packet, parsed: &Parsed) -> Outcome<bool> {
    if parsed.tuple.protocol != protocol::ICMPV6
        || parsed.fragment() != Fragment::Whole
        || packet.read::<Icmp>(parsed.transport())?.kind != icmpv6::NEIGHBOUR_SOLICITATION
    {
        return Ok(false);
    }
    let neighbour = &parsed.tuple.remote;
    let group = neighbour.solicited_node();
    let delta = translate::replace_v6(ChecksumDelta::new(), neighbour, &group);
    translate::update(&packet, parsed.transport() + 2, delta, PSEUDO_HEADER | IPV6)?;
    packet.write::<Ipv6>(NETWORK)?.destination = group;
    packet.write::<Ethernet>(0)?.destination = MacAddress::of_group(&group);
    helpers::to_group(packet.skb);
    Ok(true)
}

/// As the sender's MAC address in ARP: the container's own. Hosts send one option, or two.
#[inline(always)]
fn link_layer_addresses(packet: &Packet, first: usize, device: &Device) -> Outcome<()> {
    let mut at = first;
    let mut count = 0;
    while count < MOST_NEIGHBOUR_OPTIONS {
        count += 1;
        packet.linearise(at + size_of::<NeighbourOption>());
        let Ok(option) = packet.read::<NeighbourOption>(at) else { return Ok(()) };
        if option.length == 0 {
            return Err(DropReason::Malformed);
        }
        if matches!(option.kind, NeighbourOption::SOURCE | NeighbourOption::TARGET)
            && (option.length != 1 || option.mac != device.mac)
        {
            return Err(DropReason::SpoofedMac);
        }
        at += option.length as usize * 8;
    }
    match packet.length() as usize > at {
        true => Err(DropReason::Malformed),
        false => Ok(()),
    }
}
