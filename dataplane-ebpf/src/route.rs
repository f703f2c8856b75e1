//! Where packets go by the host's routing table.

use aya_ebpf::bindings::bpf_fib_lookup;
use dataplane_common::abi::{Address, DropReason, MacAddress, NextHop};

use crate::{helpers, packet::Packet, parse::Parsed, verdict::Outcome};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH`: only the route is asked for; redirecting resolves the neighbour.
const SKIP_NEIGHBOUR: u32 = 1 << 2;
/// `BPF_FIB_LOOKUP_OUTPUT`: for what leaves by the device.
const OUTPUT: u32 = 1 << 1;

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

/// Where a packet between these two leaves to by a device, if the kernel has it in its neighbour table: what
/// `bpf_redirect_neigh` would find.
#[inline(never)]
pub fn next_hop(packet: Packet, local: &Address, remote: &Address, uplink: u32) -> NextHop {
    // SAFETY: as in `route`.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = uplink;
    if local.is_v4() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = local.v4_network_order();
        lookup.__bindgen_anon_4.ipv4_dst = remote.v4_network_order();
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = local.words();
        lookup.__bindgen_anon_4.ipv6_dst = remote.words();
    }
    // Rules may look at a mark, which this lookup does not.
    if packet.mark() != 0
        || helpers::fib_lookup(packet.skb, &mut lookup, OUTPUT) != 0
        || lookup.ifindex != uplink
    {
        return NextHop::UNKNOWN;
    }
    NextHop { destination: MacAddress { octets: lookup.dmac }, source: MacAddress { octets: lookup.smac } }
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
