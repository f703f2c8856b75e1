//! Where packets go by the host's routing table.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::bindings::bpf_fib_lookup;
use dataplane_common::{
    abi::{DropReason, NextHop},
    packet::{ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6},
};

use crate::{
    helpers,
    packet::{Headers, Packet},
    parse::{NETWORK, Parsed},
    verdict::Outcome,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH`: only the route is asked for; redirecting resolves the neighbour.
const SKIP_NEIGHBOUR: u32 = 1 << 2;
/// `BPF_FIB_LOOKUP_OUTPUT`: for what leaves by the device.
const OUTPUT: u32 = 1 << 1;
/// `IPV6_FLOWINFO_MASK`: traffic class and flow label.
const FLOW_INFORMATION: u32 = 0x0fff_ffff;

/// Where a packet to the world leaves, by the host's routing table and rules.
#[inline(never)]
pub fn route(packet: Packet, parsed: &Parsed) -> Outcome<u32> {
    // SAFETY: all-zero is a valid value of this struct of integers.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = parsed.tuple.protocol;
    lookup.ifindex = packet.device();
    if parsed.is_v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = parsed.tuple.local.words();
        lookup.__bindgen_anon_4.ipv6_dst = parsed.tuple.remote.words();
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = parsed.tuple.local.v4_network_order();
        lookup.__bindgen_anon_4.ipv4_dst = parsed.tuple.remote.v4_network_order();
    }
    match helpers::fib_lookup(packet.skb, &mut lookup, SKIP_NEIGHBOUR) {
        // Whether it fits is `masquerade::fits`' question.
        0 | FRAGMENTATION_NEEDED => Ok(lookup.ifindex),
        FORWARDING_DISABLED => Err(DropReason::ForwardingDisabled),
        _ => Err(DropReason::NoRoute),
    }
}

/// Asks where a packet leaves to by a device as it is now: what `bpf_redirect_neigh` would find, which looks at the same
/// fields. Notes the answer, be it that there is none.
#[inline(never)]
pub fn next_hop(packet: Packet, uplink: u32, asked_ns: u64, answer: &mut NextHop) -> Outcome<()> {
    // SAFETY: as in `route`.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = uplink;
    let is_v6 = packet.read::<Ethernet>(0)?.ether_type.get() == ETHERTYPE_IPV6;
    let type_of_service = type_of_service(&packet, is_v6)?;
    if is_v6 {
        let ip = packet.read::<Ipv6>(NETWORK)?;
        lookup.family = AF_INET6;
        lookup.l4_protocol = ip.next_header;
        lookup.__bindgen_anon_2.flowinfo = (ip.version_class_flow.get() & FLOW_INFORMATION).to_be();
        lookup.__bindgen_anon_3.ipv6_src = ip.source.words();
        lookup.__bindgen_anon_4.ipv6_dst = ip.destination.words();
    } else {
        let ip = packet.read::<Ipv4>(NETWORK)?;
        lookup.family = AF_INET;
        lookup.l4_protocol = ip.protocol;
        lookup.__bindgen_anon_2.tos = type_of_service;
        lookup.__bindgen_anon_3.ipv4_src = ip.source.raw();
        lookup.__bindgen_anon_4.ipv4_dst = ip.destination.raw();
    }
    // Rules may look at a mark, which this lookup does not.
    let found = packet.mark() == 0
        && helpers::fib_lookup(packet.skb, &mut lookup, OUTPUT) == 0
        && lookup.ifindex == uplink;
    if found {
        answer.destination.octets = lookup.dmac;
        answer.source.octets = lookup.smac;
    }
    answer.ifindex = if found { uplink } else { 0 };
    answer.type_of_service = type_of_service;
    // Last, for another CPU that reads it meanwhile.
    compiler_fence(Ordering::Release);
    answer.asked_ns = asked_ns;
    Ok(())
}

/// The DSCP of a packet, in its place in the header: congestion marks are nothing to routing.
#[inline(always)]
pub fn type_of_service(packet: &Packet, is_v6: bool) -> Outcome<u8> {
    let octet = if is_v6 {
        packet.read::<Ipv6>(NETWORK)?.traffic_class()
    } else {
        packet.read::<Ipv4>(NETWORK)?.type_of_service
    };
    Ok(octet & 0xfc)
}

/// Whether a packet from the world goes on to somebody else: it is for no address of this host, nor for everybody.
/// `parsed` has the destination as its local end.
#[inline(always)]
pub fn is_forwarded(packet: Packet, parsed: &mut Parsed) -> bool {
    let destination = &parsed.tuple.local;
    // These the kernel takes without a look at the routing table.
    let is_for_all = if parsed.is_v6 {
        destination.is_multicast_v6()
    } else {
        let first = u32::from_be(destination.v4_network_order()) >> 24;
        first == 0 || first >= 224
    };
    if is_for_all {
        return false;
    }
    parsed.turn();
    let forwarded = route(packet, parsed).is_ok();
    parsed.turn();
    forwarded
}

/// `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FORWARDING_DISABLED: i64 = 5;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: longer than the MTU of the device.
const FRAGMENTATION_NEEDED: i64 = 8;
