//! Masquerade: a container's flow to the world leaves with the uplink's address and a port of weft's pool.

use aya_ebpf::bindings::bpf_fib_lookup;
use dataplane_common::{
    abi::{
        Address, Device, DeviceRole, DropReason, Flow, FlowKind, Index, Mapping, MappingKey, Path, PortSet,
        Settings, Tuple, flags,
    },
    flow::{Direction, State},
    packet::protocol,
};

use crate::{
    atomic, flows, helpers,
    maps::{self, Scratch},
    packet::Packet,
    parse::{NETWORK, Parsed},
    redirect, translate,
    verdict::{Outcome, Verdict},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH`: only the route is asked for; redirecting resolves the neighbour.
const SKIP_NEIGHBOUR: u32 = 1 << 2;
/// Ports tried before an allocation fails. Cilium measured that more than 25 never help.
const ATTEMPTS: u32 = 32;

/// A packet of a masqueraded flow on its way out.
#[inline(always)]
pub fn leave(packet: &Packet, parsed: &Parsed, device: &Device, flow: &Flow) -> Outcome<Verdict> {
    if device.flags & flags::FORWARDING == 0 {
        return Err(DropReason::ForwardingDisabled);
    }
    fits(packet, parsed, device, flow.uplink)?;
    translate::rewrite(*packet, parsed, &flow.outside)?;
    let path = if flow.kind == FlowKind::PORTMAP { Path::PortmapOut } else { Path::MasqueradeOut };
    redirect::to_uplink(flow.uplink, path)
}

/// Whether the packet, or each segment of it, fits the uplink. The container's own MTU nearly always sees to that.
#[inline(always)]
fn fits(packet: &Packet, parsed: &Parsed, device: &Device, uplink: u32) -> Outcome<()> {
    let bytes = packet.length() as usize - NETWORK;
    if bytes <= device.uplink_mtu as usize {
        return Ok(());
    }
    let mtu = maps::device(uplink).map_or(0, |uplink| uplink.mtu as usize);
    if mtu == 0 || packet.segment_length(parsed) - NETWORK <= mtu {
        return Ok(());
    }
    if let Some(scratch) = maps::scratch() {
        scratch.mtu = mtu as u16;
    }
    Err(DropReason::TooBig)
}

/// The first packet of a flow to the world.
#[inline(always)]
pub fn open(packet: &Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    if device.flags & flags::FORWARDING == 0 {
        return Err(DropReason::ForwardingDisabled);
    }
    flows::may_open(parsed)?;
    let uplink_index = route(packet, parsed)?;
    let uplink = maps::device(uplink_index)
        .filter(|uplink| uplink.role == DeviceRole::UPLINK && has_address(uplink, parsed.is_v6));
    let uplink = uplink.ok_or(DropReason::NoRoute)?;
    let settings = maps::settings().ok_or(DropReason::UnknownDevice)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;

    let inside = &parsed.tuple;
    let now = helpers::now_ns();
    let port = external_port(scratch, inside, uplink.address_of(parsed.is_v6), settings, now)?;
    scratch.flow = Flow {
        outside: Tuple { local: *uplink.address_of(parsed.is_v6), local_port: port, ..*inside },
        last_seen_ns: now,
        created_ns: now,
        epoch: device.epoch,
        network: device.network,
        uplink: uplink_index,
        remote_network: 0,
        remote_epoch: 0,
        kind: FlowKind::MASQUERADE,
        state: State::opened_by(Direction::FromInside).0,
        reserved: [0; 2],
    };
    scratch.index = Index { inside: *inside };
    match flows::open(inside, &scratch.flow, &scratch.index) {
        Ok(true) => {}
        Ok(false) => release_mapping(&scratch.flow.outside, inside),
        Err(reason) => {
            release_mapping(&scratch.flow.outside, inside);
            return Err(reason);
        }
    }
    leave(packet, parsed, device, &scratch.flow)
}

#[inline(always)]
fn has_address(uplink: &Device, is_v6: bool) -> bool {
    if is_v6 { !uplink.address_v6.is_unspecified() } else { uplink.address.v4_network_order() != 0 }
}

/// Where a packet to the world leaves, by the host's routing table and rules.
#[inline(always)]
fn route(packet: &Packet, parsed: &Parsed) -> Outcome<u32> {
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
        // Whether it fits is `fits`' question.
        0 | FRAGMENTATION_NEEDED => Ok(lookup.ifindex),
        FORWARDING_DISABLED => Err(DropReason::ForwardingDisabled),
        _ => Err(DropReason::NoRoute),
    }
}

/// `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FORWARDING_DISABLED: i64 = 5;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: longer than the MTU of the device.
const FRAGMENTATION_NEEDED: i64 = 8;

/// The external port of an internal socket: the one it has, or a new one (RFC 4787 REQ-1, RFC 5382 REQ-1).
#[inline(always)]
fn external_port(
    scratch: &mut Scratch,
    inside: &Tuple,
    external: &Address,
    settings: &Settings,
    now: u64,
) -> Outcome<u16> {
    scratch.mapping_key = MappingKey {
        internal: inside.local,
        external: *external,
        port: inside.local_port,
        protocol: inside.protocol,
        reserved: 0,
    };
    if let Some(port) = use_mapping(&scratch.mapping_key, now) {
        return Ok(port);
    }
    let port = claim_port(scratch, inside, external, settings)?;
    scratch.mapping = Mapping { last_used_ns: now, flows: 1, port, reserved: 0 };
    if maps::add_mapping(&scratch.mapping_key, &scratch.mapping).is_ok() {
        // Expiry may have met the claim before the mapping was there, and taken it for a left-over.
        if maps::index(&scratch.claim).is_none() {
            let _ = maps::claim(&scratch.claim, &scratch.claimant);
        }
        return Ok(port);
    }
    // Another CPU was faster for the same socket, or the table is full: the claim goes back either way.
    maps::remove_index(&scratch.claim);
    use_mapping(&scratch.mapping_key, now).ok_or(DropReason::FlowTableFull)
}

#[inline(always)]
fn use_mapping(key: &MappingKey, now: u64) -> Option<u16> {
    let mapping = maps::mapping(key)?;
    // SAFETY: a map value; a time written by two CPUs at once is right either way.
    unsafe {
        atomic::add(&raw mut (*mapping).flows, 1);
        (*mapping).last_used_ns = now;
        Some((*mapping).port)
    }
}

/// Claims a port that nobody has: the container's own if it lies in the pool, else random ones.
#[inline(always)]
fn claim_port(
    scratch: &mut Scratch,
    inside: &Tuple,
    external: &Address,
    settings: &Settings,
) -> Outcome<u16> {
    scratch.claimant = Index { inside: inside.claim() };
    scratch.claim = Tuple { local: *external, ..inside.claim() };
    // An ICMP identifier is no port: nobody else on this host uses the number space.
    let (first, last) = if matches!(inside.protocol, protocol::ICMP | protocol::ICMPV6) {
        (0, u16::MAX)
    } else {
        (settings.first_port, settings.last_port)
    };
    let count = u32::from(last.wrapping_sub(first)) + 1;
    let mut port = inside.local_port;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if port >= first && port <= last && !is_reserved(inside.protocol, port) {
            scratch.claim.local_port = port;
            match maps::claim(&scratch.claim, &scratch.claimant) {
                Ok(()) => return Ok(port),
                Err(maps::EXISTS) => {}
                Err(_) => return Err(DropReason::FlowTableFull),
            }
        }
        // Scaling a random 16-bit number needs no division (RFC 6056 section 3.3.1 asks for randomness).
        port = first.wrapping_add((((helpers::random() & 0xffff) * count) >> 16) as u16);
        attempt += 1;
    }
    Err(DropReason::PortsExhausted)
}

#[inline(always)]
fn is_reserved(protocol: u8, port: u16) -> bool {
    match protocol {
        protocol::TCP => maps::port_set_contains(PortSet::RESERVED_TCP, port),
        protocol::UDP => maps::port_set_contains(PortSet::RESERVED_UDP, port),
        _ => false,
    }
}

/// The key of the mapping that a flow with these tuples uses.
#[inline(always)]
pub fn mapping_key(outside: &Tuple, inside: &Tuple) -> MappingKey {
    MappingKey {
        internal: inside.local,
        external: outside.local,
        port: inside.local_port,
        protocol: inside.protocol,
        reserved: 0,
    }
}

/// One flow less uses the mapping; its hold time begins with the last.
#[inline(always)]
pub fn release_mapping(outside: &Tuple, inside: &Tuple) {
    let Some(mapping) = maps::mapping(&mapping_key(outside, inside)) else { return };
    // SAFETY: a map value.
    unsafe {
        if (*mapping).port != outside.local_port || (*mapping).flows == 0 {
            return;
        }
        (*mapping).last_used_ns = helpers::now_ns();
        atomic::add(&raw mut (*mapping).flows, u32::MAX);
    }
}
