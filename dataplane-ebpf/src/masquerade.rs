//! Masquerade: a container's flow to the world leaves with the uplink's address and a port of weft's pool.

use aya_ebpf::bindings::{__sk_buff, bpf_fib_lookup};
use dataplane_common::{
    abi::{
        Address, Device, DeviceRole, DropReason, Endpoint, Flow, FlowKind, Index, Mapping, MappingKey, Path,
        PortSet, Settings, Tuple, flags,
    },
    flow::{Direction, State},
    packet::protocol,
};

use crate::{
    atomic, flows, helpers, maps,
    packet::Packet,
    parse::{NETWORK, Parsed},
    redirect, translate,
    verdict::{Outcome, Verdict},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH`: only the route is asked for; redirecting resolves the neighbour.
const SKIP_NEIGHBOUR: u32 = 1 << 2;
/// Ports tried for a socket. Where 95 of 100 are taken, one search in 700 fails, and goes on with ports that are shared.
const ATTEMPTS: u32 = 128;
/// Ports tried for one remote end. Where 99 of 100 are taken, one search in 170 fails.
const OVERLAPPING_ATTEMPTS: u32 = 512;

/// A packet of a masqueraded flow on its way out.
#[inline(always)]
pub fn leave(packet: &Packet, parsed: &Parsed, device: &Device, flow: &Flow) -> Outcome<Verdict> {
    if !flags::forwards(device.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    fits(packet, parsed, device, flow.uplink)?;
    translate::rewrite(*packet, parsed, &flow.outside)?;
    let path = match flow.kind {
        FlowKind::PORTMAP => Path::PortmapOut,
        FlowKind::ROUTED => Path::RoutedOut,
        _ => Path::MasqueradeOut,
    };
    redirect::to_uplink(flow.uplink, path)
}

/// Whether the packet, or each segment of it, fits the uplink. The container's own MTU nearly always sees to that.
#[inline(always)]
pub fn fits(packet: &Packet, parsed: &Parsed, device: &Device, uplink: u32) -> Outcome<()> {
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
pub fn open(packet: Packet, parsed: &Parsed, device: &Device) -> Outcome<Verdict> {
    let packet = &packet;
    if !flags::forwards(device.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    flows::may_open(parsed)?;
    let uplink_index = route(*packet, parsed)?;
    let uplink = maps::device(uplink_index)
        .filter(|uplink| uplink.role == DeviceRole::UPLINK && has_address(uplink, parsed.is_v6));
    let uplink = uplink.ok_or(DropReason::NoRoute)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;

    fits(packet, parsed, device, uplink_index)?;
    let external = uplink.address_of(parsed.is_v6);
    enter(*packet, parsed, device, external, uplink_index)?;
    leave(packet, parsed, device, &scratch.flow)
}

/// Enters a flow of a container's socket, with the external port that the socket has or gets. `uplink` is 0 where the other
/// end is another container's external port.
#[inline(never)]
pub fn enter(
    packet: Packet,
    parsed: &Parsed,
    device: &Device,
    external: &Address,
    uplink: u32,
) -> Outcome<()> {
    let settings = maps::settings().ok_or(DropReason::UnknownDevice)?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let inside = &parsed.tuple;
    let now = helpers::now_ns();
    scratch.flow.outside = *inside;
    scratch.flow.outside.local = *external;
    let port = match external_port(packet, inside, external, settings, device.epoch, now) {
        Err(DropReason::PortsExhausted) => overlapping_port(packet, inside, external)?,
        port => port?,
    };
    // Field by field: a whole record would be made on the stack first, which has no room for it.
    let flow = &mut scratch.flow;
    flow.outside.local_port = port;
    flow.epoch = device.epoch;
    flow.network = device.network;
    flow.state = State::opened_by(Direction::FromInside, inside.protocol, parsed.tcp_flags).0;
    let kind = if uplink == 0 { FlowKind::TURN_BACK } else { FlowKind::MASQUERADE };
    begin(flow, now, kind, uplink);
    scratch.index.inside = *inside;
    match flows::open(inside, &scratch.flow, &scratch.index) {
        Ok(true) => {}
        Ok(false) => release_mapping(&scratch.flow.outside, inside),
        Err(reason) => {
            release_mapping(&scratch.flow.outside, inside);
            return Err(reason);
        }
    }
    if device.flags & flags::FILTER_ADDRESS_DEPENDENT != 0 {
        scratch.claim = scratch.flow.outside.address_claim();
        scratch.claimant = Index { inside: inside.address_claim() };
        let _ = maps::claim(&scratch.claim, &scratch.claimant);
    }
    Ok(())
}

/// What all new records of masqueraded flows have in common.
#[inline(always)]
fn begin(flow: &mut Flow, now: u64, kind: u8, uplink: u32) {
    flow.last_seen_ns = now;
    flow.created_ns = now;
    flow.uplink = uplink;
    flow.remote_network = 0;
    flow.remote_epoch = 0;
    flow.kind = kind;
    flow.reserved = [0; 2];
}

/// A packet from the world to an external port that a container's socket has, through no flow. Filtering decides (RFC
/// 4787 section 5). What is refused is not answered (RFC 5382 REQ-4).
#[inline(always)]
pub fn accept(packet: Packet, parsed: &Parsed, uplink: &Device, claim: &Index) -> Outcome<Verdict> {
    let packet = &packet;
    let endpoint = claimant(claim).ok_or(DropReason::Filtered)?;
    filter(endpoint.flags, &parsed.tuple)?;
    flows::may_open(parsed)?;
    if !flags::forwards(uplink.flags, parsed.is_v6) {
        return Err(DropReason::ForwardingDisabled);
    }
    enter_from_outside(&parsed.tuple, endpoint, claim, FlowKind::MASQUERADE, packet.device())?;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    translate::rewrite(*packet, parsed, &scratch.index.inside)?;
    redirect::to_container(packet, endpoint, endpoint.gateway_mac, Path::MasqueradeIn)
}

/// Enters a flow that the other end opens towards a socket's external port.
#[inline(never)]
pub fn enter_from_outside(
    outside: &Tuple,
    endpoint: &Endpoint,
    claim: &Index,
    kind: u8,
    uplink: u32,
) -> Outcome<()> {
    let network = maps::subnet(&claim.inside.local).ok_or(DropReason::Filtered)?.network;
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    let now = helpers::now_ns();
    scratch.index.inside = *outside;
    scratch.index.inside.local = claim.inside.local;
    scratch.index.inside.local_port = claim.inside.local_port;
    let flow = &mut scratch.flow;
    flow.outside = *outside;
    flow.epoch = endpoint.epoch;
    flow.network = network;
    flow.state = State::opened_by(Direction::FromOutside, outside.protocol, scratch.parsed.tcp_flags).0;
    begin(flow, now, kind, uplink);
    let key = mapping_key(outside, &scratch.index.inside);
    // Without its mapping the claim is about to go, and an earlier container's is nobody's.
    let mapping = maps::mapping(&key).ok_or(DropReason::Filtered)?;
    // SAFETY: a map value.
    if unsafe { (*mapping).epoch != endpoint.epoch || (*mapping).port != outside.local_port } {
        return Err(DropReason::Filtered);
    }
    use_mapping(&key, endpoint.epoch, now).ok_or(DropReason::Filtered)?;
    match flows::open(&scratch.index.inside, &scratch.flow, &scratch.index) {
        Ok(true) => Ok(()),
        Ok(false) => {
            release_mapping(outside, &scratch.index.inside);
            Ok(())
        }
        Err(reason) => {
            release_mapping(outside, &scratch.index.inside);
            Err(reason)
        }
    }
}

/// The container whose socket has a claim.
#[inline(always)]
pub fn claimant<'a>(claim: &Index) -> Option<&'a Endpoint> {
    maps::endpoint(maps::subnet(&claim.inside.local)?.network, &claim.inside.local)
}

/// Whether a container of a network with these flags hears this remote end uninvited.
#[inline(always)]
pub fn filter(policy: u32, outside: &Tuple) -> Outcome<()> {
    if policy & flags::FILTER_ENDPOINT_INDEPENDENT != 0 {
        return Ok(());
    }
    if policy & flags::FILTER_ADDRESS_DEPENDENT != 0 && maps::index(&outside.address_claim()).is_some() {
        return Ok(());
    }
    Err(DropReason::Filtered)
}

#[inline(always)]
fn has_address(uplink: &Device, is_v6: bool) -> bool {
    if is_v6 { !uplink.address_v6.is_unspecified() } else { uplink.address.v4_network_order() != 0 }
}

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
        // Whether it fits is `fits`' question.
        0 | FRAGMENTATION_NEEDED => Ok(lookup.ifindex),
        FORWARDING_DISABLED => Err(DropReason::ForwardingDisabled),
        _ => Err(DropReason::NoRoute),
    }
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

/// The external port of an internal socket: the one it has, or a new one (RFC 4787 REQ-1, RFC 5382 REQ-1).
#[inline(always)]
fn external_port(
    packet: Packet,
    inside: &Tuple,
    external: &Address,
    settings: &Settings,
    epoch: u32,
    now: u64,
) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    scratch.mapping_key = MappingKey {
        internal: inside.local,
        external: *external,
        port: inside.local_port,
        protocol: inside.protocol,
        reserved: 0,
    };
    if let Some(port) = use_mapping(&scratch.mapping_key, epoch, now) {
        return Ok(port);
    }
    let port = claim_port(packet, inside, external, settings)?;
    scratch.mapping = Mapping { last_used_ns: now, flows: 1, epoch, port, reserved: [0; 6] };
    if maps::add_mapping(&scratch.mapping_key, &scratch.mapping).is_ok() {
        // Expiry may have met the claim before the mapping was there, and taken it for a left-over.
        if maps::index(&scratch.claim).is_none() {
            let _ = maps::claim(&scratch.claim, &scratch.claimant);
        }
        return Ok(port);
    }
    // Another CPU was faster for the same socket, or the table is full: the claim goes back either way.
    maps::remove_index(&scratch.claim);
    use_mapping(&scratch.mapping_key, epoch, now).ok_or(DropReason::FlowTableFull)
}

#[inline(always)]
fn use_mapping(key: &MappingKey, epoch: u32, now: u64) -> Option<u16> {
    let mapping = maps::mapping(key)?;
    // SAFETY: a map value; a time written by two CPUs at once is right either way.
    unsafe {
        atomic::add(&raw mut (*mapping).flows, 1);
        (*mapping).last_used_ns = now;
        (*mapping).epoch = epoch;
        Some((*mapping).port)
    }
}

/// A search for an external port: what it looks at, and what it has found.
#[repr(C)]
pub struct Search {
    /// Number of ports in the pool.
    count: u32,
    /// First of them.
    first: u16,
    /// The port that the container uses itself.
    own: u16,
    /// The one found.
    port: u16,
    outcome: u16,
}

const NONE_FOUND: u16 = 0;
const FOUND: u16 = 1;
const TABLE_FULL: u16 = 2;

impl Search {
    /// The port of an attempt: the container's own, then random ones (RFC 6056 section 3.3.1).
    #[inline(always)]
    fn port(&self, attempt: u32) -> u16 {
        if attempt == 0 {
            return self.own;
        }
        // Scaling a random 16-bit number needs no division.
        self.first.wrapping_add((((helpers::random() & 0xffff) * self.count) >> 16) as u16)
    }

    #[inline(always)]
    fn is_free(&self, port: u16, protocol: u8) -> bool {
        (port.wrapping_sub(self.first) as u32) < self.count && !is_reserved(protocol, port)
    }
}

/// Claims a port that nobody has: the container's own if it lies in the pool, else random ones.
#[inline(always)]
fn claim_port(packet: Packet, inside: &Tuple, external: &Address, settings: &Settings) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    scratch.claimant.inside = *inside;
    scratch.claimant.inside.remote = Address::UNSPECIFIED;
    scratch.claimant.inside.remote_port = 0;
    scratch.claim = scratch.claimant.inside;
    scratch.claim.local = *external;
    // An ICMP identifier is no port: nobody else on this host uses the number space. SCTP keeps its port, whatever it is.
    let (first, last, attempts) = match inside.protocol {
        protocol::ICMP | protocol::ICMPV6 => (0, u16::MAX, ATTEMPTS),
        protocol::SCTP => (1, u16::MAX, 1),
        _ => (settings.first_port, settings.last_port, ATTEMPTS),
    };
    scratch.search = Search {
        count: u32::from(last.wrapping_sub(first)) + 1,
        first,
        own: inside.local_port,
        port: 0,
        outcome: NONE_FOUND,
    };
    helpers::repeat(attempts, packet.skb, try_claim);
    match scratch.search.outcome {
        FOUND => Ok(scratch.search.port),
        TABLE_FULL => Err(DropReason::FlowTableFull),
        _ => Err(DropReason::PortsExhausted),
    }
}

/// One attempt at a claim. Answers 1 to end the search.
unsafe extern "C" fn try_claim(attempt: u32, skb: *const *mut __sk_buff) -> u64 {
    let Some(scratch) = maps::scratch() else { return 1 };
    let port = scratch.search.port(attempt);
    if !scratch.search.is_free(port, scratch.claim.protocol) {
        return 0;
    }
    scratch.claim.local_port = port;
    scratch.search.outcome = match maps::claim(&scratch.claim, &scratch.claimant) {
        // SAFETY: what `repeat` was given.
        Ok(()) if is_bound(unsafe { *skb }, port) => {
            maps::remove_index(&scratch.claim);
            return 0;
        }
        Ok(()) => FOUND,
        Err(maps::EXISTS) => return 0,
        Err(_) => TABLE_FULL,
    };
    scratch.search.port = port;
    1
}

/// A port for this remote end only, when no socket can have one for itself any more: many flows then share a port, each
/// to another remote end (port overlapping, RFC 7857 section 3).
#[inline(always)]
fn overlapping_port(packet: Packet, inside: &Tuple, external: &Address) -> Outcome<u16> {
    let scratch = maps::scratch().ok_or(DropReason::HelperFailed)?;
    if matches!(inside.protocol, protocol::ICMP | protocol::ICMPV6) {
        return Err(DropReason::PortsExhausted);
    }
    scratch.claim = *inside;
    scratch.claim.local = *external;
    scratch.search.outcome = NONE_FOUND;
    let attempts = if inside.protocol == protocol::SCTP { 1 } else { OVERLAPPING_ATTEMPTS };
    helpers::repeat(attempts, packet.skb, try_overlap);
    match scratch.search.outcome {
        FOUND => Ok(scratch.search.port),
        _ => Err(DropReason::PortsExhausted),
    }
}

/// One attempt at a port that has no flow to this remote end. The claim is made when the flow is entered.
unsafe extern "C" fn try_overlap(attempt: u32, skb: *const *mut __sk_buff) -> u64 {
    let Some(scratch) = maps::scratch() else { return 1 };
    let port = scratch.search.port(attempt);
    scratch.claim.local_port = port;
    if !scratch.search.is_free(port, scratch.claim.protocol)
        || maps::index(&scratch.claim).is_some()
        // SAFETY: what `repeat` was given.
        || is_bound(unsafe { *skb }, port)
    {
        return 0;
    }
    scratch.search.port = port;
    scratch.search.outcome = FOUND;
    1
}

/// Whether a socket of the host has the port since the controller last looked, see [`PortSet::RESERVED_TCP`].
#[inline(always)]
fn is_bound(skb: *mut __sk_buff, port: u16) -> bool {
    let Some(scratch) = maps::scratch() else { return true };
    scratch.flow.outside.local_port = port;
    helpers::has_socket(skb, &scratch.flow.outside)
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
